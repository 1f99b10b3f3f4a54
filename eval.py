"""Evaluate an experiment: python eval.py [EXPERIMENT] [--checkpoint PATH] [-o section.field=value]. The same as `m2clip eval`."""

import sys

from m2clip_lib.cli import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
