"""A machine, read once: the value that everything else takes as an argument."""

from __future__ import annotations

import os

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.host.columns import Columns, columns_of
from kvmaff.host.isolation import Isolation, Kept, KeptFrom, read_isolation
from kvmaff.host.sysfs import read_topology
from kvmaff.host.topology import Topology
from kvmaff.host.tree import Tree, open_tree

__all__ = ["Host", "host_of", "read_host"]


def _as_shown(host: Host) -> Isolation:
    shown = ((host.isolated, KeptFrom.BALANCING), (host.nohz_full, KeptFrom.TICK))
    return Isolation(kept=tuple(Kept(cpus=cpus, what=what, by="the kernel") for cpus, what in shown if cpus))


@attrs.frozen(kw_only=True)
class Host:
    """
    A machine at one moment.

    Attributes:
        root: Where it was read from; ``/`` is this machine.
        topology: Its CPUs and how they hang together.
        isolated: What /sys/devices/system/cpu/isolated says: the CPUs that the boot took out of load balancing.
        nohz_full: CPUs without a periodic tick, as /sys has them.
        isolation: From what each CPU is kept, and by whom; of ``isolated`` and ``nohz_full`` alone where not said.
    """

    root: str
    topology: Topology
    isolated: CpuSet
    nohz_full: CpuSet
    isolation: Isolation = attrs.field(default=attrs.Factory(_as_shown, takes_self=True))
    _columns: Columns | None = attrs.field(default=None, init=False, eq=False, repr=False)

    @property
    def columns(self) -> Columns:
        """Its cores, L3 groups and nodes as columns; worked out when it is read, or else when first asked for."""
        if self._columns is None:
            object.__setattr__(self, "_columns", columns_of(self.topology))
        assert self._columns is not None
        return self._columns

    @property
    def live(self) -> bool:
        """Whether this is the running machine, so that its threads may be bound."""
        return self.root == "/"


def read_host(root: str | bytes | os.PathLike[str] = "/") -> Host:
    """
    Read a machine.

    Args:
        root: ``/`` for this machine, a folder that holds the ``sys`` and ``proc`` of a recorded one, or a file that
            ``kvmaff capture`` made.

    Returns:
        The host.

    Raises:
        HostReadError: There is no such folder or file, or it does not say which CPUs the machine has.
    """
    given = os.fsdecode(root)
    if not given or "\0" in given:
        raise HostReadError(f"{given!r} is no path; / is this machine", path=given)
    path = os.path.abspath(given)
    if os.path.realpath(path) == "/":
        path = "/"
    with open_tree(path) as tree:
        return host_of(tree)


def host_of(tree: Tree) -> Host:
    """
    Read a machine from an open tree.

    Args:
        tree: The machine's files.

    Returns:
        The host.

    Raises:
        HostReadError: It does not say which CPUs the machine has.
    """
    topology = read_topology(tree)
    isolated = tree.cpus("sys/devices/system/cpu/isolated")
    # nohz_full reads "(null)" on kernels that have the feature and no such CPU
    nohz_full = tree.cpus("sys/devices/system/cpu/nohz_full")
    host = Host(
        root=tree.root,
        topology=topology,
        isolated=isolated or CpuSet(),
        nohz_full=nohz_full or CpuSet(),
        isolation=read_isolation(tree, topology, isolated, nohz_full),
    )
    _ = host.columns  # whoever reads a host places on it many times
    return host
