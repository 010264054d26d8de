"""
A QMP peer of a test's own, which answers as it is told: a process with threads of its own that is no QEMU.

Run as a program: the last argument is what it does, those before it look like a QEMU's. It prints a line when it
listens.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from kvmaff.guest.vmm import QEMU, Vmm
from kvmaff.kernel.scan import Proc

PLUGGED: list[object] = []
GREETING = {
    "QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}
}
MEGABYTE = b"x" * (1 << 20)
NAMES = (b"CPU 0/TCG", b"CPU 1/TCG", b"IO io1", b"worker")


@attrs.frozen(kw_only=True)
class Peer:
    """A peer that runs."""

    pid: int
    start: int
    path: Path

    @property
    def vmms(self) -> tuple[Vmm, ...]:
        """A VMM that makes discovery believe that it is a guest."""
        vouched = frozenset({(self.pid, self.start)})
        known = {"vcpu": QEMU.vcpu, "iothread": QEMU.iothread, "name_options": ("-name",)}
        return (Vmm(name="peer", executables=(), vouched=vouched, **known),)  # type: ignore[arg-type]


@contextlib.contextmanager
def peer(folder: Path, does: str) -> Iterator[Peer]:
    """Run one."""
    path = folder / "q"
    words = ("-name", "peer", "-qmp", f"unix:{path},server=on,wait=off", does)
    with subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert b"up\n" == process.stdout.readline()
            with Proc() as proc:
                start = proc.start_of(process.pid)
            yield Peer(pid=process.pid, start=start, path=path)
        finally:
            process.kill()


def _vcpus(tids: list[object]) -> list[object]:
    return [{"cpu-index": n, "thread-id": tid, "qom-path": f"/m/{n}"} for n, tid in enumerate(tids)]


def _slots(free: int) -> list[object]:
    made: list[dict[str, object]] = [
        {"type": "x-cpu", "vcpus-count": 1, "props": {"socket-id": n, "core-id": 0, "thread-id": 0}}
        for n in range(2 + free)
    ]
    for n in range(2):
        made[n]["qom-path"] = f"/m/{n}"
    return list(reversed(made))


_TIDS: list[int] = []


def _own() -> list[int]:
    return [os.getpid(), *_TIDS]


def _rest(name: bytes) -> None:
    """Be a thread of that name (PR_SET_NAME, prctl(2))."""
    ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
    time.sleep(600)


Answers = dict[str, Callable[[], object]]
TRUE: Answers = {
    "query-cpus-fast": lambda: _vcpus([*_own()[1:3]]),
    "query-iothreads": lambda: [{"id": "io1", "thread-id": _own()[3], "poll-max-ns": 1}],
    "query-hotpluggable-cpus": lambda: _slots(2),
    "query-stats": list,
    "device_add": dict,
}
LIES: dict[str, Answers] = {
    "foreign": {"query-cpus-fast": lambda: _vcpus([1, 2])},
    "main": {"query-cpus-fast": lambda: _vcpus([os.getpid(), _own()[1]])},
    "parent": {"query-cpus-fast": lambda: _vcpus([os.getppid(), _own()[1]])},
    "negative": {"query-cpus-fast": lambda: _vcpus([-1, -7])},
    "float": {"query-cpus-fast": lambda: _vcpus([1.5, True])},
    "large": {"query-cpus-fast": lambda: _vcpus([1 << 80, 1 << 31])},
    "text": {"query-cpus-fast": lambda: _vcpus(["1", "\x1b[2J"])},
    "shared": {"query-cpus-fast": lambda: _vcpus([_own()[1], _own()[1], _own()[2]])},
    "none": {"query-cpus-fast": list},
    "mapping": {"query-cpus-fast": dict},
    "many": {"query-cpus-fast": lambda: [1] * 100_000},
    "twice": {"query-cpus-fast": lambda: _vcpus([_own()[1]]) * 2},
    "iothread": {
        "query-iothreads": lambda: [{"id": "a", "thread-id": 1}, {"id": "", "thread-id": _own()[2]}]
    },
    "slots": {"query-hotpluggable-cpus": lambda: _slots(2) + _slots(1)},
    "count": {"query-hotpluggable-cpus": lambda: [{**_slots(0)[0], "vcpus-count": 8}]},  # type: ignore[dict-item]
    "type": {"query-hotpluggable-cpus": lambda: [{**_slots(0)[0], "type": "a,b=c"}]},  # type: ignore[dict-item]
    "numbers": {"query-cpus-fast": lambda: list(reversed(_vcpus([*_own()[1:3]])))[:1]},
    "swappedpaths": {
        "query-cpus-fast": lambda: [
            {"cpu-index": 1 - n, "thread-id": tid, "qom-path": f"/m/{n}"} for n, tid in enumerate(_own()[1:3])
        ]
    },
    "oldtid": {
        "query-cpus-fast": lambda: (
            [*_vcpus([*_own()[1:3]]), {"cpu-index": 2, "thread-id": _own()[3], "qom-path": "/m/2"}]
            if PLUGGED
            else _vcpus([*_own()[1:3]])
        )
    },
    "both": {"query-iothreads": lambda: [{"id": "io1", "thread-id": _own()[1]}]},
    "otherio": {"query-iothreads": lambda: [{"id": "io1", "thread-id": _own()[4]}]},
    "swapped": {"query-cpus-fast": lambda: _vcpus([*reversed(_own()[1:3])])},
}


def _asked(connection: socket.socket) -> Iterator[dict[str, str]]:
    """What a client sends; it need not end a command with a new line."""
    text = ""
    while data := connection.recv(4096):
        text += data.decode()
        while text:
            try:
                value, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield value


def _serve(connection: socket.socket, does: str) -> None:
    """Talk with one client, as told."""
    stream = connection.makefile("rwb")

    def say(value: object) -> None:
        stream.write(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")
        stream.flush()

    def forever(chunk: bytes) -> None:
        while True:
            say(chunk)

    if does == "silent":
        time.sleep(600)
    if does == "drips":
        for byte in json.dumps(GREETING).encode():
            say(bytes([byte]))
            time.sleep(0.3)
    if does == "closes":
        return
    if does == "garbage":
        say(b"SSH-2.0-OpenSSH_9.2\r\n")
    if does == "bytes":
        say(b"\xff\xfe\x00\n")
    if does == "deep":
        say(b"[" * 100_000 + b"\n")
    if does == "array":
        say([1, 2])
    if does == "endless":
        for _ in range(100):
            say(MEGABYTE)
    say(GREETING)
    for asked in _asked(connection):
        command, number = asked["execute"], asked.get("id")
        if command != "qmp_capabilities":
            if does == "stalls" or (does == "stallsplug" and command == "device_add"):
                time.sleep(600)
            if does == "hangsup":
                return
            if does == "hundred":
                for _ in range(100):
                    say(MEGABYTE)
            if does == "flood":
                forever(
                    json.dumps({"event": "X", "timestamp": {}, "data": {"x": "y" * 1000}}).encode() + b"\n"
                )
            if does == "strangers":
                forever(b'{"return": {}, "id": "nobody"}\n')
            if does == "error":
                say({"error": "no", "id": number})
                continue
            if does == "neither":
                say({"id": number})
                continue
            if does == "refuses":
                say({"error": {"class": "GenericError", "desc": "\x1b[2Jno"}, "id": number})
                continue
        if command == "device_add":
            PLUGGED.append(number)
        answers = {**TRUE, **LIES.get(does, {})}
        say({"return": answers.get(command, dict)(), "id": number})


def main() -> None:
    """Be the peer."""
    options, does = sys.argv[1:-1], sys.argv[-1]
    path = options[options.index("-qmp") + 1].removeprefix("unix:").partition(",")[0]
    for name in NAMES:
        thread = threading.Thread(target=_rest, args=(name,), daemon=True)
        thread.start()
        assert thread.native_id is not None
        _TIDS.append(thread.native_id)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        sys.stdout.write("up\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                _serve(connection, does)


if __name__ == "__main__":
    main()
