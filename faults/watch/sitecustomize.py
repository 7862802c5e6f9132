"""Writes down what a process does to the world outside: files, connections, programs, pickles.

Python imports this module at the start of every process whose PYTHONPATH has this folder; the
interpreter itself then reports each such act, before it happens. See faults/watching.py.
"""

import json
import os
import sys
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "shutil.rmtree": (0,),
}
_log = os.open(os.environ["FAULTS_WATCH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(what: str, detail: object) -> None:
    os.write(_log, json.dumps([what, str(detail), os.getpid()]).encode() + b"\n")


def _hook(event: str, arguments: tuple) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and not isinstance(path, int):
            _note("write", Path(os.fsdecode(path)).absolute())
    elif event in _PATHS:
        # A path relative to an open folder lies in a folder that was named before.
        if not any(isinstance(each, int) and each >= 3 for each in arguments[1:]):
            for index in _PATHS[event]:
                if not isinstance(arguments[index], int):
                    _note("write", Path(os.fsdecode(arguments[index])).absolute())
    elif event == "socket.connect":
        _note("connect", arguments[1])
    elif event == "socket.getaddrinfo":
        _note("resolve", arguments[0])
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        _note("execute", arguments[:2])
    elif event == "pickle.find_class":
        _note("unpickle", f"{arguments[0]}.{arguments[1]}")


sys.addaudithook(_hook)
