"""
The parts of which :mod:`kvmaff.testing.trees` makes a machine's files.

Rule: texts are collected without line ends; those of a group are made once, however many CPUs have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.topology import HugePages, NumaNode, Topology

__all__ = ["TreeStyle", "Writer"]

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"
_CGROUPS = "sys/fs/cgroup"
_PMUS = {"P": "cpu_core", "E": "cpu_atom", "LP-E": "cpu_lowpower"}
_TYPES = {"P": "Core", "E": "Atom"}


@attrs.frozen(kw_only=True)
class TreeStyle:
    """
    In which of the ways that kernels have a tree is written.

    Attributes:
        lists: There are cpulists beside the cpumasks.
        modern: Levels have their names of Linux 5.2 and later, too (``core_cpus``), and all levels have files.
        online: There is a cpu/online; without it the CPUs' own folders tell.
        nul: Files end in a NUL byte, as one development kernel's did.
        offline_named: Groups name the offline CPUs that follow their own, too.
        core_types: Core kinds P and E are told by ``topology/core_type``, not by the kernel's PMUs.
    """

    lists: bool = True
    modern: bool = True
    online: bool = True
    nul: bool = False
    offline_named: bool = False
    core_types: bool = False


class _Level:
    """The groups of a level, with their texts made once."""

    def __init__(self, topology: Topology, style: TreeStyle, groups: Iterable[CpuSet]) -> None:
        self._texts: dict[int, tuple[int, str, str]] = {}
        gone = topology.possible - topology.online
        for number, group in enumerate(groups):
            named = group
            if style.offline_named:
                named |= CpuSet(cpu for cpu in gone if _before(topology.online, cpu) in group)
            texts = (number, str(named), named.cpumask(topology.possible.last + 1))
            self._texts |= dict.fromkeys(group, texts)
        self._lists = style.lists

    def __bool__(self) -> bool:
        return bool(self._texts)

    def number(self, cpu: int) -> int | None:
        """Return which of the groups has a CPU."""
        return self._texts[cpu][0] if cpu in self._texts else None

    def files(self, cpu: int, *masks: str) -> dict[str, str]:
        """Return the files that say with whom a CPU is in a group, by what the mask's and the list's are called."""
        if cpu not in self._texts:
            return {}
        _, cpulist, cpumask = self._texts[cpu]
        found = dict.fromkeys(masks, cpumask)
        if self._lists:
            found |= {
                f"{mask.removesuffix('_map')}_list": cpulist for mask in masks
            }  # shared_cpu_map, shared_cpu_list
        return found


def _before(online: CpuSet, cpu: int) -> int:
    """Return the next online CPU below a CPU; the first one where there is none."""
    below = online.bits & ((1 << cpu) - 1)
    return below.bit_length() - 1 if below else online.first


class Writer:
    """Collects the files of a machine, without line ends."""

    def __init__(self, topology: Topology, style: TreeStyle) -> None:
        self.files: dict[str, str] = {}
        self._topology = topology
        self._style = style
        self._width = topology.possible.last + 1

        def level(groups: Iterable[CpuSet]) -> _Level:
            return _Level(topology, style, groups)

        self._packages = level(topology.packages)
        self._dies = level(topology.dies or (topology.packages if style.modern else ()))
        self._clusters = level(topology.clusters or (topology.cores if style.modern else ()))
        self._cores = level(topology.cores)
        self._books = level(topology.books)
        self._drawers = level(topology.drawers)
        first = level(topology.cores or (CpuSet([cpu]) for cpu in topology.online))
        self._caches = (
            (first, 1, "Data", "32K"),
            (first, 1, "Instruction", "32K"),
            (level(topology.l2), 2, "Unified", "1024K"),
            (level(topology.l3), 3, "Unified", "32768K"),
        )
        package_of = {cpu: group.first for group in topology.packages for cpu in group}
        self._core_ids = _counted(topology.cores, package_of)
        self._die_ids = _counted(topology.dies or topology.packages, package_of)
        self._khz = {
            cpu: int(kind.name.removesuffix(" MHz")) * 1000
            for kind in topology.kinds
            if kind.name.endswith(" MHz")
            for cpu in kind.cpus
        }

    def machine(self, host: Host) -> None:
        """Collect what is said of all CPUs together."""
        topology, modern = self._topology, self._style.modern
        said = {
            "possible": str(topology.possible),
            "present": str(topology.present),
            "offline": str(CpuSet.from_bits((1 << self._width) - 1) - topology.online),
            "kernel_max": "8191",
        }
        if self._style.online:
            said["online"] = str(topology.online)
        if modern or host.isolated:
            said["isolated"] = str(host.isolated)
        if host.nohz_full:
            said["nohz_full"] = str(host.nohz_full)
        elif modern:
            said["nohz_full"] = "                 (null)"
        if topology.smt is not None:
            said["smt/control"] = topology.smt
            said["smt/active"] = "1" if (topology.threads_per_core or 1) > 1 else "0"
        self.files |= {f"{_CPU}/{name}": text for name, text in said.items()}

    def cpu(self, cpu: int) -> None:
        """Collect what is said of one CPU."""
        own = f"{_CPU}/cpu{cpu}"
        online = cpu in self._topology.online
        if cpu or not online:  # the CPU that booted has no switch
            self.files[f"{own}/online"] = "1" if online else "0"
        if not online:
            return
        modern = self._style.modern
        said = {
            **self._cores.files(cpu, "thread_siblings", *(["core_cpus"] if modern else [])),
            **self._packages.files(cpu, "core_siblings", *(["package_cpus"] if modern else [])),
            **self._dies.files(cpu, "die_cpus"),
            **self._clusters.files(cpu, "cluster_cpus"),
            **self._books.files(cpu, "book_siblings"),
            **self._drawers.files(cpu, "drawer_siblings"),
        }
        ids = {
            "core_id": self._core_ids.get(cpu),
            "physical_package_id": self._packages.number(cpu),
            "die_id": self._die_ids.get(cpu) if self._dies else None,
            "cluster_id": self._clusters.number(cpu)
            if self._topology.clusters
            else 65535
            if modern
            else None,
            "book_id": self._books.number(cpu),
            "drawer_id": self._drawers.number(cpu),
        }
        said |= {name: str(number) for name, number in ids.items() if number is not None}
        self.files |= {f"{own}/topology/{name}": text for name, text in said.items()}
        index = 0
        for level, number, kind, size in self._caches:
            shared = level.files(cpu, "shared_cpu_map")
            if not shared:
                continue  # what comes after it moves up: an index means nothing
            said = {
                **shared,
                "level": str(number),
                "type": kind,
                "size": size,
                "id": str(level.number(cpu)),
                "coherency_line_size": "64",
                "number_of_sets": "64",
                "physical_line_partition": "1",
                "ways_of_associativity": "8",
            }
            self.files |= {f"{own}/cache/index{index}/{name}": text for name, text in said.items()}
            index += 1
        self.files[f"{own}/cpufreq/cpuinfo_max_freq"] = str(self._khz.get(cpu, 3_000_000))
        self.files[f"{own}/cpufreq/cpuinfo_min_freq"] = "800000"

    def nodes(self) -> None:
        """Collect what is said of the NUMA nodes."""
        nodes = self._topology.nodes
        if not nodes:
            return
        every = str(CpuSet(node.number for node in nodes))
        with_memory = str(CpuSet(node.number for node in nodes if node.memory_bytes))
        for name, text in (
            *(("online", every), ("possible", every), ("has_normal_memory", with_memory)),
            *(
                ("has_memory", with_memory),
                ("has_cpu", str(CpuSet(node.number for node in nodes if node.cpus))),
            ),
        ):
            self.files[f"{_NODE}/{name}"] = text
        for node in nodes:
            self._node(f"{_NODE}/node{node.number}", node)

    def _node(self, own: str, node: NumaNode) -> None:
        texts = (
            _Level(self._topology, self._style, [node.cpus]).files(node.cpus.first, "cpu_map")
            if node.cpus
            else {}
        )
        self.files[f"{own}/cpumap"] = texts.get("cpu_map", CpuSet().cpumask(self._width))
        if self._style.lists:
            self.files[f"{own}/cpulist"] = texts.get("cpu_list", "")
        if node.distances:
            self.files[f"{own}/distance"] = " ".join(str(far) for _, far in node.distances)
        if node.memory_bytes is not None:
            kib = node.memory_bytes // 1024
            self.files[f"{own}/meminfo"] = "\n".join(
                f"Node {node.number} {name + ':':<16}{amount:>8} kB"
                for name, amount in (("MemTotal", kib), ("MemFree", kib // 2), ("MemUsed", kib - kib // 2))
            )
        self.huge_pages(f"{own}/hugepages", node.huge_pages)

    def huge_pages(self, folder: str, sizes: Iterable[HugePages]) -> None:
        """Collect what is said of huge pages."""
        for pages in sizes:
            own = f"{folder}/hugepages-{pages.size_bytes // 1024}kB"
            self.files[f"{own}/nr_hugepages"] = str(pages.total)
            self.files[f"{own}/free_hugepages"] = str(pages.free)
            self.files[f"{own}/surplus_hugepages"] = "0"

    def kinds(self) -> None:
        """Collect what tells the core kinds apart; the frequencies are among what is said of a CPU."""
        kinds = self._topology.kinds
        typed = self._style.core_types and all(kind.name in _TYPES for kind in kinds)
        for kind in kinds:
            word, _, amount = kind.name.partition(" ")
            if typed:
                told = {f"{_CPU}/cpu{cpu}/topology/core_type": _TYPES[kind.name] for cpu in kind.cpus}
            elif kind.name in _PMUS:
                told = {f"sys/devices/{_PMUS[kind.name]}/cpus": str(kind.cpus)}
            elif word == "capacity":
                told = {f"{_CPU}/cpu{cpu}/cpu_capacity": amount for cpu in kind.cpus}
            else:
                continue
            self.files |= told

    def proc(self, cmdline: str) -> None:
        """Collect what /proc says of the machine and of the process that reads."""
        topology = self._topology
        memory = sum(node.memory_bytes or 0 for node in topology.nodes) or (1 << 30)
        siblings = {cpu: len(group) for group in topology.packages for cpu in group}
        # lscpu reads no machine without it
        self.files["proc/cpuinfo"] = "\n\n".join(
            f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Made up\n"
            f"stepping\t: 4\nphysical id\t: {self._packages.number(cpu) or 0}\nsiblings\t: {siblings.get(cpu, 1)}\n"
            f"core id\t\t: {self._core_ids.get(cpu, 0)}\nflags\t\t: fpu ht lm"
            for cpu in topology.online
        )
        self.files["proc/meminfo"] = f"MemTotal: {memory // 1024} kB\nMemFree: {memory // 2048} kB"
        self.files["proc/cmdline"] = cmdline
        self.files["proc/self/status"] = (
            f"Name:\treader\nCpus_allowed_list:\t{topology.online}\n"
            f"Mems_allowed_list:\t{CpuSet(node.number for node in topology.nodes) or CpuSet([0])}"
        )

    def interrupts(self, host: Host) -> None:
        """Collect where interrupts go."""
        usual = self._topology.possible - host.isolation.kept_from(KeptFrom.IRQ)
        self.files["proc/irq/default_smp_affinity"] = usual.cpumask(self._width)

    def cgroups(self, host: Host, granted: CpuSet | None) -> None:
        """Collect a version 2 hierarchy: the partitions of which the isolation speaks, and the reader's own cgroup."""
        online = self._topology.online
        apart = [one for one in host.isolation.kept if one.by.startswith(f"/{_CGROUPS}/")]
        cpus = {one.by[1:]: one.cpus for one in apart}
        isolated = {one.by[1:] for one in apart if one.what is KeptFrom.BALANCING}
        taken = CpuSet.union_of(cpus.values())
        nodes = str(CpuSet(node.number for node in self._topology.nodes if node.memory_bytes) or CpuSet([0]))
        mine = "" if granted is None else "/machine.slice"
        self.files["proc/self/cgroup"] = f"0::{mine or '/'}"
        self.files["proc/self/mountinfo"] = (
            "22 1 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
            "30 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw"
        )
        self.files[f"{_CGROUPS}/cgroup.controllers"] = "cpuset cpu io memory hugetlb pids"
        self.files[f"{_CGROUPS}/cpuset.cpus.effective"] = str(online - taken)
        self.files[f"{_CGROUPS}/cpuset.cpus.isolated"] = str(
            host.isolated | CpuSet.union_of(cpus[by] for by in isolated)
        )
        self.files[f"{_CGROUPS}/cpuset.mems.effective"] = nodes
        if granted is not None:
            self.files[f"{_CGROUPS}{mine}/cpuset.cpus.effective"] = str(granted)
            self.files[f"{_CGROUPS}{mine}/cpuset.mems.effective"] = nodes
            self.files[f"{_CGROUPS}{mine}/cpuset.cpus.partition"] = "member"
        for by, own in cpus.items():
            self.files[f"{by}/cpuset.cpus.partition"] = "isolated" if by in isolated else "root"
            self.files[f"{by}/cpuset.cpus.effective"] = str(own)
            self.files[f"{by}/cpuset.mems.effective"] = nodes


def _counted(groups: Iterable[CpuSet], package_of: Mapping[int, int]) -> dict[int, int]:
    """Number groups anew in each package."""
    found: dict[int, int] = {}
    counts: dict[int | None, int] = {}
    for group in groups:
        package = package_of.get(group.first)
        number = counts.get(package, 0)
        counts[package] = number + 1
        found |= dict.fromkeys(group, number)
    return found
