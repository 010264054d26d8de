"""
The machine that is asked for, as a frozen value; nothing is booted here.

Rule: CPUs are numbered as QEMU and the kernel number them, thread by thread, core by core, die by die, socket by
socket, so that with two threads a core CPUs 4 and 5 are siblings.
Rule: nodes stand in the order of their first CPU, those without CPUs last: Linux numbers them so, whatever QEMU says.
Rule: equal values are the same machine, and one boot serves all who ask for it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Self

__all__ = ["KERNELS", "Machine", "Node", "cpulist"]

KERNELS = ("6.1", "6.12")
"""The kernel series that Debian 12 has, and how they differ: 6.12 remembers masks that a cpuset clips."""

_MAX_CPUS = 255  # of QEMU 7.2 under TCG; more need x2APIC
_MAX_NODES = 128  # of QEMU
_MAX_APPEND = 1900  # bytes: Linux takes 2048, with the lab's own words
_MIN_MEMORY = 384  # MiB, below which the kernel, its modules and an interpreter do not fit
_NODE_MEMORY = 512
_SHAPE = re.compile(r"(?:([1-9]\d*)x)?([1-9]\d*)")
_LOCAL, _NEAR, _FAR = 10, 12, 32


def cpulist(text: str) -> tuple[int, ...]:
    """
    Return the numbers of a text like ``0-3,8``, in order.

    Raises:
        ValueError: It is no such text.
    """
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is no list of CPUs like 0-3,8")
        low, high = int(first), int(last or first)
        if low > high or high > _MAX_CPUS:
            raise ValueError(f"{text!r}: {part} is no range of CPUs")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """
    A NUMA node.

    Attributes:
        cpus: Its CPUs as in ``0-3,8``; empty for a node of memory only.
        memory: Its memory in MiB; 0 for a node of CPUs only.
    """

    cpus: str = ""
    memory: int = _NODE_MEMORY

    def __post_init__(self) -> None:
        cpulist(self.cpus)
        if self.memory < 0:
            raise ValueError(f"a node's memory is 0 MiB or more, not {self.memory}")
        if not self.cpus and not self.memory:
            raise ValueError("a node without CPUs and without memory is no node")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """
    A machine to boot.

    Attributes:
        sockets: How many packages.
        dies: Dies of each package.
        cores: Cores of each die.
        threads: Threads of each core.
        nodes: NUMA nodes by number, which share out all CPUs; where none is given one node has everything.
        distances: From each node (row) to each; where none are given QEMU's own, 10 and 20.
        present: How many CPUs are plugged in; the others could be (possible, not present). None: all. Linux 6.12
            does not count those that could be as possible, under TCG.
        offline: CPUs that are switched off before anything runs, as in ``9,11``; never CPU 0.
        append: More words for the kernel command line.
        kernel: One of :data:`KERNELS`.
        cpu: QEMU's model. Of an AMD one the kernel sees no siblings under TCG, but caches split like EPYC's.
    """

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1
    nodes: tuple[Node, ...] = ()
    distances: tuple[tuple[int, ...], ...] = ()
    present: int | None = None
    offline: str = ""
    append: str = ""
    kernel: str = "6.1"
    cpu: str = "Nehalem"

    @classmethod
    def parse(cls, shape: str, *, memory: int | None = None, **rest: object) -> Self:
        """
        Make a machine from a text.

        ``4x4`` is four nodes of four CPUs; ``8`` is one node of eight. An even number of CPUs is made of cores
        of two threads. Two nodes are the dies of one package where there are four or more of an even number;
        they are 12 apart, and 32 from every other.

        Args:
            shape: The text.
            memory: MiB of each node.
            rest: Other attributes of the machine.

        Returns:
            The machine.

        Raises:
            ValueError: The text or an attribute makes no sense.
        """
        found = _SHAPE.fullmatch(shape)
        if not found:
            raise ValueError(f"a machine is NODESxCPUS, as 4x4, or CPUS, as 8, not {shape!r}")
        nodes, cpus = int(found[1] or 1), int(found[2])
        _check_count(nodes * cpus)
        _check_nodes(nodes)
        dies = 2 if nodes >= 4 and nodes % 2 == 0 else 1
        threads = 2 if cpus % 2 == 0 else 1
        if memory is None:
            memory = _NODE_MEMORY if nodes > 1 else 2 * _NODE_MEMORY
        rows = tuple(
            tuple(_LOCAL if a == b else _NEAR if a // dies == b // dies else _FAR for b in range(nodes))
            for a in range(nodes)
        )
        return cls(
            sockets=nodes // dies,
            dies=dies,
            cores=cpus // threads,
            threads=threads,
            nodes=tuple(
                Node(cpus=f"{first}-{first + cpus - 1}", memory=memory)
                for first in range(0, nodes * cpus, cpus)
            ),
            distances=rows if nodes > 1 else (),
            **rest,  # type: ignore[arg-type] # checked below like all values
        )

    def __post_init__(self) -> None:
        for name in ("sockets", "dies", "cores", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        _check_count(self.cpus)
        if not self.nodes:
            whole = Node(cpus=f"0-{self.cpus - 1}", memory=2 * _NODE_MEMORY)
            object.__setattr__(self, "nodes", (whole,))
        self._check_nodes()
        self._check_distances()
        if self.present is not None and self.present not in range(1, self.cpus + 1):
            raise ValueError(f"present is 1 to {self.cpus} CPUs, not {self.present}")
        for cpu in cpulist(self.offline):
            if cpu not in range(1, self.present_cpus):
                raise ValueError(f"of {self.present_cpus} CPUs all but CPU 0 can be offline, not {cpu}")
        if self.kernel not in KERNELS:
            raise ValueError(f"a kernel is one of {', '.join(KERNELS)}, not {self.kernel!r}")
        if not self.append.isprintable():
            raise ValueError(f"the kernel command line is printable and one line, unlike {self.append!r}")
        if len(self.append.encode()) > _MAX_APPEND:
            raise ValueError(
                f"the kernel command line takes {_MAX_APPEND} bytes more, not {len(self.append.encode())}"
            )
        if not re.fullmatch(r"[\w.+=,-]+", self.cpu):
            raise ValueError(f"a CPU model of QEMU is a name, as Nehalem, not {self.cpu!r}")

    def _check_nodes(self) -> None:
        _check_nodes(len(self.nodes))
        owner: dict[int, int] = {}
        for number, node in enumerate(self.nodes):
            for cpu in cpulist(node.cpus):
                if cpu >= self.cpus:
                    raise ValueError(f"node {number} has CPU {cpu}, the machine only {self.cpus} CPUs")
                if cpu in owner:
                    raise ValueError(f"CPU {cpu} is in node {owner[cpu]} and in node {number}")
                owner[cpu] = number
        lost = [cpu for cpu in range(self.cpus) if cpu not in owner]
        if lost:
            raise ValueError(f"CPUs {', '.join(map(str, lost))} are in no node")
        firsts = [cpulist(node.cpus)[0] if node.cpus else self.cpus for node in self.nodes]
        if firsts != sorted(firsts):
            raise ValueError(
                "nodes stand in the order of their first CPU, those without CPUs last, as Linux has them"
            )
        if self.memory < _MIN_MEMORY:
            raise ValueError(f"a machine needs {_MIN_MEMORY} MiB or more, not {self.memory}")

    def _check_distances(self) -> None:
        if not self.distances:
            return
        if [len(row) for row in self.distances] != [len(self.nodes)] * len(self.nodes):
            raise ValueError(f"distances are {len(self.nodes)} rows of {len(self.nodes)} numbers")
        for a, row in enumerate(self.distances):
            for b, value in enumerate(row):
                if (value != _LOCAL) if a == b else (value not in range(_LOCAL + 1, 255)):
                    raise ValueError(
                        f"a node is 10 from itself and 11 to 254 from others, not {value} ({a} to {b})"
                    )

    @property
    def cpus(self) -> int:
        """How many CPUs there are or could be."""
        return self.sockets * self.dies * self.cores * self.threads

    @property
    def present_cpus(self) -> int:
        """How many CPUs are plugged in."""
        return self.cpus if self.present is None else self.present

    @property
    def offline_cpus(self) -> str:
        """The CPUs that are switched off, with commas only."""
        return ",".join(map(str, cpulist(self.offline)))

    @property
    def memory(self) -> int:
        """MiB of all nodes."""
        return sum(node.memory for node in self.nodes)

    @property
    def boot_seconds(self) -> float:
        """How long a boot may take: many times what it does on a quiet machine."""
        return 90.0 + 2 * self.present_cpus

    def __str__(self) -> str:
        words = [f"{self.cpus} CPUs ({self.sockets}x{self.dies}x{self.cores}x{self.threads})"]
        words += [f"{len(self.nodes)} nodes", f"Linux {self.kernel}", self.append]
        return ", ".join(filter(None, words))


def _check_count(cpus: int) -> None:
    if cpus > _MAX_CPUS:
        raise ValueError(f"a machine has at most {_MAX_CPUS} CPUs, not {cpus}")


def _check_nodes(nodes: int) -> None:
    if nodes > _MAX_NODES:
        raise ValueError(f"a machine has at most {_MAX_NODES} nodes, not {nodes}")
