"""
The process between the one that asked for a machine and QEMU, so that QEMU is never left behind.

It ends QEMU when its own standard input ends or when its parent is no more the one it had, however that died; and
the kernel ends QEMU when this process dies (PR_SET_PDEATHSIG, which would be wrong in the asking process itself:
it fires when the *thread* ends that forked). Run as a script, by any interpreter:
``keeper.py PARENT_PID QEMU ARGUMENT...``. Its exit code is QEMU's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LOOK_MS = 500


def _become(arguments: list[str], keeper: int) -> None:
    """Be QEMU, which dies with the keeper."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # it died before the line above
        return
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.execvp(arguments[0], arguments)


def keep(parent: int, arguments: list[str]) -> int:
    """
    Run a program until it ends, or until nobody wants it any more.

    Args:
        parent: The process that wants it.
        arguments: The program and its arguments.

    Returns:
        Its exit code, or 128 and the signal that ended it.
    """
    me = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            _become(arguments, me)
        except OSError as error:
            os.write(2, f"{arguments[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(0, select.POLLIN)  # nothing is ever written there: it becomes readable by its end
    poll.register(ended, select.POLLIN)
    ready: set[int] = set()
    while not ready and os.getppid() == parent:
        ready = {one for one, _ in poll.poll(_LOOK_MS)}
    if ended not in ready:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
