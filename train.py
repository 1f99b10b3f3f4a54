"""Train an experiment: python train.py [EXPERIMENT] [--run NAME] [-o section.field=value]. The same as `m2clip train`."""

import sys

from m2clip_lib.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
