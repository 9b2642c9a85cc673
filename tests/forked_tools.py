"""Start tools without importing everything anew for each: imports take ten seconds of a process.

This process makes them once, then forks a process for every line it reads: a JSON list with a log
file, a tool and its arguments. The fork runs the tool as a command would, in a process group of its
own, so that it can be killed with all that it has started. Its process id is printed when it
starts, its exit code when it ends (negative: the signal that killed it).
"""

import importlib
import json
import os
import runpy
import sys
import traceback
import warnings
from importlib.util import find_spec


def imports():
    import torch

    torch.set_num_threads(1)
    operators = ['mmdet', 'mmseg'] if find_spec('mmcv') and find_spec('mmcv._ext') else []
    for package in ['mmengine.runner', 'mmpretrain', *operators]:
        importlib.import_module(package)
    for module in ('agreement', 'config', 'hooks'):
        importlib.import_module(f'scsa.engine.{module}')


def become(log, tool, arguments):
    """Be the tool."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [tool, *arguments]
    code = 0
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):  # a message
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    answers = os.fdopen(os.dup(1), 'w', buffering=1)  # stdout is for what packages print
    os.dup2(2, 1)
    imports()
    print('ready', file=answers)
    for line in sys.stdin:
        log, tool, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            become(log, tool, arguments)
        os.setpgid(child, child)  # before anybody can want to kill the group
        print(child, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
