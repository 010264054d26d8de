"""Guests of QEMU that run one of the ROMs of ``tiny.py``, several at once, some with their memory on one NUMA node."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

import attrs

from . import tiny

__all__ = ["BOUND_MIB", "Guests"]

BOUND_MIB = 64
"""Memory of a guest that is bound to a node: more than QEMU's own and its libraries', wherever those are."""
_UP_SECONDS = 60


@attrs.frozen(kw_only=True)
class _Started:
    process: subprocess.Popen[bytes]
    said: Path | None
    vcpus: int

    @property
    def up(self) -> bool:
        """Whether every vCPU has said so, or where none runs has its thread."""
        assert self.process.poll() is None, f"QEMU ended with {self.process.returncode}"
        if self.said is None:
            names = (task / "comm" for task in Path(f"/proc/{self.process.pid}/task").iterdir())
            return self.vcpus == sum(name.read_text().startswith("CPU ") for name in names)
        return self.said.exists() and self.said.stat().st_size >= self.vcpus


class Guests:
    """
    Guests that end with the block; a context manager.

    Args:
        folder: Where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, _Started] = {}

    def start(
        self,
        name: str,
        *,
        vcpus: int = 2,
        max_vcpus: int | None = None,
        rom: bytes = tiny.TICK,
        node: int | None = None,
        memory: int = BOUND_MIB,
        paused: bool = False,
    ) -> None:
        """
        Start one; :meth:`up` waits for it.

        Args:
            name: Its name.
            vcpus: How many vCPUs it starts with.
            max_vcpus: With those that can be plugged in over QMP; none where it is None.
            rom: What its vCPUs do.
            node: The NUMA node that all its memory is on; the kernel chooses where it is None.
            memory: MiB of a guest whose memory is on one node.
            paused: None of its vCPUs ever runs.
        """
        machine = "q35" if max_vcpus else "microvm"
        words = ["-qmp", f"unix:{self.socket(name)},server=on,wait=off"]
        said = None if paused else self._folder / f"{name}.said"
        if said is None:
            words += ["-S"]
        else:
            words += [
                "-chardev",
                f"file,id=said,path={said}",
                "-device",
                "isa-debugcon,iobase=0xe9,chardev=said",
            ]
        if node is not None:
            machine += ",memory-backend=ram"
            backend = f"memory-backend-ram,id=ram,size={memory}M,host-nodes={node},policy=bind,prealloc=on"
            words += ["-m", str(memory), "-object", backend]
        file = tiny.write(rom, self._folder / f"{name}.rom")
        command = tiny.command(
            file, name=name, vcpus=vcpus, max_vcpus=max_vcpus, machine=machine, extra=tuple(words)
        )
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._started[name] = _Started(process=process, said=said, vcpus=vcpus)

    def up(self) -> None:
        """Wait until every vCPU of all of them runs."""
        deadline = time.monotonic() + _UP_SECONDS
        while not all(one.up for one in self._started.values()):
            assert time.monotonic() < deadline, "a guest does not come up"
            time.sleep(0.02)

    def pid(self, name: str) -> int:
        """Return the process of one."""
        return self._started[name].process.pid

    def socket(self, name: str) -> Path:
        """Return the QMP socket of one."""
        return self._folder / f"{name}.qmp"

    def end(self, *names: str) -> None:
        """End some, or all."""
        for name in names or tuple(self._started):
            one = self._started.pop(name)
            one.process.kill()
            one.process.wait()
            if one.said:
                one.said.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
