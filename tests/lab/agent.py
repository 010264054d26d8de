"""
Process 1 of a booted machine: it runs what the host asks for.

Run as a script by the very interpreter that the host has, without site-packages: ``agent.py PORT [OFFLINE]`` with the
name of the virtio port to the host, and the CPUs to switch off. The host's side is ``lab.py``.

Both sides speak in frames: one byte that says what it is, the job's number, the length of what follows. The host
says RUN (JSON: argv, env, cwd, stdin: a path) and KILL; the agent says HELLO (JSON) once, OUT and ERR (bytes), and
EXIT (text of the exit code) at last. A job is a session of its own. Its processes may outlive it, as a daemon does;
they lose its standard output when its first process ends.

When the host hangs up the machine ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import sys
import time
import traceback
from typing import Any

HEADER = struct.Struct("!cII")
HELLO, RUN, KILL, OUT, ERR, EXIT = (b"H", b"R", b"K", b"O", b"E", b"X")
CHUNK = 1 << 16

_CONNECT_SECONDS = 30
_CONTROLLERS = b"+cpuset +cpu +memory +pids"


class Frames:
    """What came in so far, cut into frames."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, int, bytes]]:
        """
        Add what was read.

        Returns:
            The frames that are complete now: kind, job, content.
        """
        self._unread += data
        frames = []
        while len(self._unread) >= HEADER.size:
            kind, job, length = HEADER.unpack_from(self._unread)
            end = HEADER.size + length
            if len(self._unread) < end:
                break
            frames.append((kind, job, bytes(self._unread[HEADER.size : end])))
            del self._unread[:end]
        return frames


class Agent:
    """
    The machine's side.

    Args:
        port: A descriptor of the port to the host.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = Frames()
        self._poll = select.poll()
        self._jobs: dict[int, tuple[int, int, int]] = {}  # by pid: number, its stdout, its stderr
        self._streams: dict[int, tuple[bytes, int]] = {}  # by descriptor: OUT or ERR, number
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for one in (self._port, self._woken):
            self._poll.register(one, select.POLLIN)

    def send(self, kind: bytes, job: int, content: bytes) -> None:
        """Say something to the host, and wait until it is said."""
        frame = memoryview(HEADER.pack(kind, job, len(content)) + content)
        while frame:
            frame = frame[os.write(self._port, frame) :]

    def serve(self) -> None:
        """Obey until the host hangs up."""
        while True:
            for one, event in self._poll.poll():
                if one == self._port:
                    if event & select.POLLHUP:
                        return
                    self._obey()
                elif one == self._woken:
                    self._reap()
                elif one in self._streams:
                    self._pass_on(one)

    def _obey(self) -> None:
        for kind, job, content in self._frames.feed(os.read(self._port, CHUNK)):
            if kind == RUN:
                self._run(job, json.loads(content))
            elif kind == KILL:
                for pid, (number, _, _) in self._jobs.items():
                    if number == job:
                        _kill_session(pid)

    def _run(self, job: int, wanted: dict[str, Any]) -> None:
        out, child_out = os.pipe()
        err, child_err = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _become(wanted, child_out, child_err)
            except OSError as error:
                missing = wanted["cwd"] if error.filename == wanted["cwd"] else wanted["argv"][0]
                os.write(2, f"{missing}: {error.strerror}\n".encode(errors="surrogateescape"))
            finally:
                os._exit(127)
        os.close(child_out)
        os.close(child_err)
        self._jobs[pid] = (job, out, err)
        for stream, kind in ((out, OUT), (err, ERR)):
            os.set_blocking(stream, False)
            self._streams[stream] = (kind, job)
            self._poll.register(stream, select.POLLIN)

    def _pass_on(self, stream: int) -> bool:
        """Pass on a piece of what a job says, and return whether there may be more."""
        kind, job = self._streams[stream]
        try:
            data = os.read(stream, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.send(kind, job, data)
            return True
        self._forget(stream)
        return False

    def _forget(self, stream: int) -> None:
        if self._streams.pop(stream, None):
            self._poll.unregister(stream)
            os.close(stream)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, CHUNK)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)  # also processes whose parents died
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._jobs:
                job, *streams = self._jobs.pop(pid)
                for stream in streams:
                    # What others still say is nobody's: they must not keep the job from ending
                    for _ in range(1024):
                        if stream not in self._streams or not self._pass_on(stream):
                            break
                    self._forget(stream)
                self.send(EXIT, job, str(os.waitstatus_to_exitcode(status)).encode())


def _become(wanted: dict[str, Any], out: int, err: int) -> None:
    """Be the first process of a job."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(os.open(wanted["stdin"] or os.devnull, os.O_RDONLY), 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the first two, and children would inherit that
    os.chdir(wanted["cwd"])
    os.execvpe(wanted["argv"][0], wanted["argv"], wanted["env"])


def _kill_session(leader: int) -> None:
    """Kill all processes of a session; new ones of theirs too."""
    found = True
    while found:
        found = False
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    state, _, _, session = stat.read().rpartition(b")")[2].split()[:4]
                if int(session) == leader and state not in b"ZX":
                    os.kill(int(name), signal.SIGKILL)
                    found = True
            except (OSError, ValueError):
                continue
        time.sleep(0.01)


def _open_port(name: str) -> int:
    """Open the port to the host, when the host is there."""
    folder = "/sys/class/virtio-ports"
    for port in os.listdir(folder):
        with open(f"{folder}/{port}/name") as said:
            if said.read().strip() == name:
                handle = os.open(f"/dev/{port}", os.O_RDWR | os.O_CLOEXEC)
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                deadline = time.monotonic() + _CONNECT_SECONDS
                while any(event & select.POLLHUP for _, event in poll.poll(0)):
                    if time.monotonic() > deadline:
                        raise TimeoutError("the host does not listen")
                    time.sleep(0.01)
                return handle
    raise FileNotFoundError(f"no port is called {name}")


def _prepare(offline: list[str]) -> None:
    """Make the machine what was asked for, as far as only a running kernel can."""
    with open("/sys/fs/cgroup/cgroup.subtree_control", "wb", buffering=0) as control:
        control.write(_CONTROLLERS)  # as systemd has it
    for cpu in offline:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/online", "wb", buffering=0) as online:
            online.write(b"0")


def main(name: str, offline: str = "") -> None:
    """Serve the host until it hangs up, and end the machine."""
    try:
        port = _open_port(name)
        _prepare(offline.split(",") if offline else [])
        agent = Agent(port)
        agent.send(HELLO, 0, json.dumps({"kernel": os.uname().release, "uptime": time.monotonic()}).encode())
        agent.serve()
    except BaseException:  # noqa: BLE001 - nobody else would say it
        with open("/dev/console", "w") as console:
            console.write("lab: agent: " + traceback.format_exc())
    # At once, and the end of QEMU, as -no-reboot says so; all that is worth keeping is with the host already
    with open("/proc/sysrq-trigger", "wb", buffering=0) as trigger:
        trigger.write(b"b")
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
