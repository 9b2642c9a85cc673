"""Start runs of tools/train.py without importing everything anew for each.

Imports take most of the time of a run as short as those of test_kills.py. This process makes them
once, then forks a process for every line it reads: a JSON list with a log file and the arguments.
The fork runs tools/train.py as a command would, in a process group of its own, so that it can be
killed with all that it has started. Its process id is printed when it starts, its exit code when
it ends (negative: the signal that killed it).
"""

import json
import os
import runpy
import sys
import warnings
from pathlib import Path

TOOL = str(Path(__file__).parents[2] / 'tools/train.py')


def imports(packages):
    import mmengine.runner  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for package in packages:
        __import__(package)
    import scsa.engine.agreement
    import scsa.engine.config
    import scsa.engine.hooks  # noqa: F401


def become(log, arguments):
    """Be tools/train.py."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [TOOL, *arguments]
    code = 0
    try:
        runpy.run_path(TOOL, run_name='__main__')
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    imports(sys.argv[1:])
    print('ready', flush=True)
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            become(log, arguments)
        os.setpgid(child, child)  # before anybody can want to kill the group
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
