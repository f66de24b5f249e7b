"""How a process that used torch or pyarrow ends: with the code it has earned, not through the interpreter's shutdown.

There a thread of theirs that is still at work aborts the process now and then, after all was done and said. Seen with
gloo in torch 2.13 (a rank that had succeeded ended by SIGABRT) and with pyarrow 25 (a file that was looked at and left:
3 of 600 processes, `terminate called without an active exception`; https://github.com/apache/arrow/issues/34314).
Besides, a failed rank would wait there for peers that are gone, and what the kernel frees anyway takes seconds to free.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import sys
from typing import NoReturn


def now(code: int, *, run_exit_functions: bool) -> NoReturn:
    """End this process. Whatever it wrote is closed or flushed by now, or is standard output and error, flushed here.

    `run_exit_functions`: what a user's libraries have registered; a rank that failed may hang in them.
    """
    _kill_workers()
    if run_exit_functions:
        atexit._run_exitfuncs()
    else:
        _remove_temporary()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk
            stream.flush()
    os._exit(code)


def _kill_workers() -> None:
    """Data loader processes are deaf to what would end them, and one that hangs would be waited for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error when one is killed
    for child in sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else ():
        if child.daemon:
            child.kill()


def _remove_temporary() -> None:
    """What lies in multiprocessing's folder, such as the sockets of data loader processes: its exit function would.
    (Where this is a child of multiprocessing's, that is its parent's folder.)"""
    if "multiprocessing.util" in sys.modules and sys.modules["multiprocessing"].parent_process() is None:
        with contextlib.suppress(OSError):
            shutil.rmtree(sys.modules["multiprocessing.util"].get_temp_dir())
