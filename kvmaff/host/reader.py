"""A machine, read once: the value that everything else takes as an argument."""

from __future__ import annotations

import os

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.sysfs import read_topology
from kvmaff.host.topology import Topology
from kvmaff.host.tree import Tree

__all__ = ["Host", "read_host"]


@attrs.frozen(kw_only=True)
class Host:
    """
    A machine at one moment.

    Attributes:
        root: Where it was read from; ``/`` is this machine.
        topology: Its CPUs and how they hang together.
        isolated: CPUs outside the scheduler's load balancing, as /sys has them (``isolcpus=``).
        nohz_full: CPUs without a periodic tick, as /sys has them.
    """

    root: str
    topology: Topology
    isolated: CpuSet
    nohz_full: CpuSet

    @property
    def live(self) -> bool:
        """Whether this is the running machine, so that its threads may be bound."""
        return self.root == "/"


def read_host(root: str | bytes | os.PathLike[str] = "/") -> Host:
    """
    Read a machine.

    Args:
        root: ``/`` for this machine, or a folder that holds the ``sys`` and ``proc`` of a recorded one.

    Returns:
        The host.

    Raises:
        HostReadError: There is no such folder, or it does not say which CPUs the machine has.
    """
    path = os.path.abspath(os.fsdecode(root))
    if os.path.realpath(path) == "/":
        path = "/"
    with Tree(path) as tree:
        return Host(
            root=path,
            topology=read_topology(tree),
            # nohz_full reads "(null)" on kernels that have the feature and no such CPU
            isolated=tree.cpus("sys/devices/system/cpu/isolated") or CpuSet(),
            nohz_full=tree.cpus("sys/devices/system/cpu/nohz_full") or CpuSet(),
        )
