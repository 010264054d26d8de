"""Binaries that are asked: the real one, and whatever a path may lead to."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from kvmaff.cpumodel.binary import asked, find_binary
from kvmaff.cpumodel.reading import ask_models
from kvmaff.errors import QemuError, QmpRefused

from ..conftest import QEMU, needs_qemu

GREETING = (
    '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}}'
)
FAKES = {
    "ends at once": ("exit 0", "closed the connection"),
    "says why not": ("echo 'no such accelerator' >&2; exit 1", "does not start: no such accelerator"),
    "says it in colours": ("printf '\\033[31mno\\033[0m' >&2; exit 1", r"does not start: \?\[31mno"),
    "floods standard error": ("while :; do echo junk >&2; done", "did not greet"),
    "floods standard output": ("while :; do echo junk; done", "did not greet"),
    "waits, with a child": ("sleep 1000 & sleep 1000", "did not greet"),
    "does not hear SIGTERM": ("trap '' TERM; while :; do sleep 1; done", "did not greet"),
    "floods the socket": ("while :; do printf 'junkjunkjunkjunk' >&$fd; done", "is no QEMU"),
    "speaks something else": ("echo 'HELO there' >&$fd; sleep 1000", "does not speak QMP"),
    "greets and leaves": (f"echo '{GREETING}' >&$fd; exit 0", "closed the connection"),
    "greets and hangs": (f"echo '{GREETING}' >&$fd; sleep 1000", "did not greet"),
}


def script(folder: Path, body: str) -> str:
    """A program that is no QEMU, and knows the number of its socket."""
    path = folder / "qemu-system-fake"
    path.write_text(
        f'#!/bin/bash\nfor word; do case "$word" in *fd=*) fd=${{word##*fd=}};; esac; done\n{body}\n'
    )
    path.chmod(0o755)
    return str(path)


def ask(binary: str, timeout: float = 1.0) -> object:
    """Ask a binary for its version."""

    async def whole() -> object:
        async with asked(binary, accel="tcg", timeout=timeout) as qemu:
            return await qemu.ask("query-version")

    return asyncio.run(whole())


def marked(mark: str) -> list[int]:
    """Processes with a variable in their environment, which they hand on to all that they start."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if mark.encode() in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
            except OSError:
                pass
    return found


@pytest.mark.parametrize("kind", FAKES)
def test_no_qemu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no QEMU is told so, in time, and nothing of it is left."""
    body, said = FAKES[kind]
    mark = f"KVMAFF_TEST_MARK=of-{os.getpid()}-{kind.replace(' ', '-')}"
    monkeypatch.setenv(*mark.split("="))
    begun = time.monotonic()
    with pytest.raises(QemuError, match=said) as caught:
        ask(script(tmp_path, body))
    assert time.monotonic() - begun < 30
    assert str(tmp_path) in str(caught.value)
    assert "\x1b" not in str(caught.value)
    deadline = time.monotonic() + 10  # they were killed; that takes the kernel a moment
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [] == marked(mark)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere/qemu", "no such program"),
        ("/tmp", "folder"),
        ("/etc/passwd", "not be executed"),
        ("", "no path"),
    ],
)
def test_no_program(path: str, said: str) -> None:
    """What cannot be executed is not tried."""
    with pytest.raises(QemuError, match=said):
        find_binary(path)


def test_lies(tmp_path: Path) -> None:
    """Answers that cannot be true are refused, all that is wrong with them at once."""
    lies = """
import json, socket, sys
peer = socket.socket(fileno=int(sys.argv[1]))
def put(value): peer.sendall(json.dumps(value).encode() + b"\\n")
put({"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}})
answers = {
    "query-target": {"arch": "x86_64"},
    "query-version": {"qemu": {"major": "nine"}},
    "query-cpu-definitions": [{"name": "\\u001b[2J", "typename": "x"}, 7, {"name": "a", "unavailable-features": 1}],
}
while data := peer.recv(1 << 16):
    asked = json.loads(data)
    put({"return": answers.get(asked["execute"], {}), "id": asked.get("id")})
"""
    (tmp_path / "lies.py").write_text(lies)
    binary = script(tmp_path, f"exec python3 {tmp_path}/lies.py $fd")
    with pytest.raises(QemuError) as caught:
        ask_models(binary, accel="tcg")
    text = str(caught.value)
    assert all(
        one in text for one in ("its version is no version", "no printable text", "no mapping", "no list of")
    )
    assert "\x1b" not in text


@needs_qemu
def test_the_real_one() -> None:
    """It answers, refuses what there is not, and ends."""

    async def whole() -> int:
        async with asked(find_binary(QEMU), accel="tcg") as qemu:
            with pytest.raises(QmpRefused):
                await qemu.ask("query-nothing")
            return qemu.pid

    pid = asyncio.run(whole())
    assert not os.path.exists(f"/proc/{pid}")


@needs_qemu
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20])
def test_given_up(steps: int) -> None:
    """Whoever gives up at any moment leaves no process behind."""
    pids: list[int] = []

    async def whole() -> None:
        async with asked(find_binary(QEMU), accel="tcg") as qemu:
            pids.append(qemu.pid)
            while True:
                await qemu.ask("query-cpu-definitions")

    async def given_up() -> None:
        task = asyncio.ensure_future(whole())
        await asyncio.sleep(steps / 100)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
