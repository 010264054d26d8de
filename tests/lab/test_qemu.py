"""QEMU's command line for a machine; nothing is booted."""

from __future__ import annotations

import itertools
from pathlib import Path

from .machine import Machine, Node
from .qemu import arguments, tsc_khz


def _words(machine: Machine, folder: str = "/folder") -> list[str]:
    here = Path(folder)
    return arguments(
        machine,
        image=here / "vmlinux",
        initramfs=here / "initramfs",
        share=here / "shared",
        console=here / "console",
        channel=7,
        khz=2596128,
    )


def _values(words: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_levels_and_hot_plug() -> None:
    """All levels are given, and how many CPUs are there of those that could be."""
    words = _words(Machine(sockets=2, dies=3, cores=2, threads=2, present=7))
    assert ["7,maxcpus=24,sockets=2,dies=3,cores=2,threads=2"] == _values(words, "-smp")


def test_nodes() -> None:
    """A node without CPUs has memory only, one without memory CPUs only; distances are given in full."""
    nodes = (Node(cpus="0,2", memory=384), Node(cpus="1,3", memory=0), Node(memory=128))
    rows = ((10, 12, 32), (12, 10, 32), (33, 33, 10))
    words = _words(Machine(cores=4, nodes=nodes, distances=rows))
    assert ["512M"] == _values(words, "-m")
    assert [
        "node,nodeid=0,cpus=0,cpus=2,memdev=memory0",
        "node,nodeid=1,cpus=1,cpus=3",
        "node,nodeid=2,memdev=memory2",
    ] == _values(words, "-numa")[:3]
    assert [f"dist,src={a},dst={b},val={rows[a][b]}" for a in range(3) for b in range(3)] == _values(
        words, "-numa"
    )[3:]
    assert [
        "memory-backend-ram,id=memory0,size=384M",
        "memory-backend-ram,id=memory2,size=128M",
    ] == _values(words, "-object")


def test_kernel_command_line() -> None:
    """What a machine appends comes last, so that it has the last word."""
    (line,) = _values(_words(Machine(append="isolcpus=4,5 quiet")), "-append")
    assert line.endswith(" tsc_early_khz=2596128 isolcpus=4,5 quiet")


def test_the_host_is_only_read() -> None:
    """Of the host's files the machine may write those of one folder, whose name may have commas."""
    shares = _values(_words(Machine(), "/a,b"), "-fsdev")
    assert ["path=/a,,b/shared"] == [
        one.partition("share,")[2].partition(",security")[0] for one in shares[1:]
    ]
    assert "readonly=on" in shares[0]


def test_time_stamp_counter() -> None:
    """The counter's speed is measured to better than a thousandth."""
    first, second = tsc_khz(), tsc_khz()
    assert first is not None
    assert second is not None
    assert abs(first - second) * 1000 < first
    assert 500_000 < first < 10_000_000
