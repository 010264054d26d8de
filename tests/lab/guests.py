"""Guests of QEMU that run one of the ROMs of ``tiny.py``, several at once, some with their memory on one NUMA node."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from . import tiny

__all__ = ["BOUND_MIB", "Guests", "running"]

BOUND_MIB = 64
"""Memory of a guest that is bound to a node: more than QEMU's own and its libraries', wherever those are."""
_UP_SECONDS = 60


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Started:
    process: subprocess.Popen[bytes]
    said: Path | None
    vcpus: int
    iothreads: int

    @property
    def up(self) -> bool:
        """Whether every thread has its name, and every vCPU has said that it runs, where any is to run."""
        assert self.process.poll() is None, f"QEMU ended with {self.process.returncode}"
        if self.said and (not self.said.exists() or self.said.stat().st_size < self.vcpus):
            return False
        names = [(task / "comm").read_text() for task in Path(f"/proc/{self.process.pid}/task").iterdir()]
        return [self.vcpus, self.iothreads] == [
            sum(name.startswith(role) for name in names) for role in ("CPU ", "IO disk")
        ]


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
        iothreads: int = 0,
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
            iothreads: How many IOThreads it has, ``disk0`` and so on.
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
        for number in range(iothreads):
            words += ["-object", f"iothread,id=disk{number}"]
        if node is not None:
            machine += ",memory-backend=ram"
            backend = f"memory-backend-ram,id=ram,size={memory}M,host-nodes={node},policy=bind,prealloc=on"
            words += ["-m", str(memory), "-object", backend]
        file = tiny.write(rom, self._folder / f"{name}.rom")
        command = tiny.command(
            file, name=name, vcpus=vcpus, max_vcpus=max_vcpus, machine=machine, extra=tuple(words)
        )
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._started[name] = _Started(process=process, said=said, vcpus=vcpus, iothreads=iothreads)

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


@contextlib.contextmanager
def running(
    rom: bytes, folder: Path, name: str, *, vcpus: int = 2, node: int | None = None, memory: int = BOUND_MIB
) -> Iterator[int]:
    """
    Run one guest, with an IOThread of its own.

    Args:
        rom: What its vCPUs do.
        folder: Where its files go.
        name: What it is called.
        vcpus: How many vCPUs it has, a thread each.
        node: The NUMA node that all its memory is on; the kernel chooses where it is None.
        memory: MiB of a guest whose memory is on one node.

    Yields:
        Its process, when all its vCPUs run.
    """
    with Guests(folder) as guests:
        guests.start(name, vcpus=vcpus, rom=rom, node=node, memory=memory, iothreads=1)
        guests.up()
        yield guests.pid(name)
