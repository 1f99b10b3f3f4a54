"""A process that imports everything once and forks a training on request, so that many kills need only one import of torch.

It reads command lines from stdin and answers each with the child's process id and, once the child ends, its exit status. The children's
output is appended to log.txt in the folder given as argument.
"""

import os
import sys
from pathlib import Path

import m2clip_lib.runs  # noqa: F401
import m2clip_lib.train.loop  # noqa: F401
import m2clip_lib.viz.plots  # noqa: F401 (imported only to save time later, like the others)
from m2clip_lib import cli

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        log = os.open(Path(sys.argv[1]) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        cli.main(line.split())
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
