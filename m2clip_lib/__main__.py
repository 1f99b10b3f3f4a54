"""`python -m m2clip_lib` is `m2clip`."""

from m2clip_lib.cli import main

if __name__ == "__main__":
    main()
