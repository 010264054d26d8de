"""
Which cores are of another kind than others: P and E cores, big and LITTLE ones.

Asked in this order, the first that tells two kinds apart is believed:

* the kernel's PMUs by kind, /sys/devices/cpu_core/cpus, cpu_atom, cpu_lowpower (arch/x86/events/intel/core.c);
* topology/core_type, the kind by name;
* cpu_capacity (Documentation/ABI/testing/sysfs-devices-system-cpu): 1024 is the fastest CPU of the machine;
* cpufreq/cpuinfo_max_freq, on a machine of one package: nobody builds packages of several kinds together.

Rule: cores of one kind differ a little, by what the factory measured. Where the next slower core has at least nine
tenths of a core's capacity or frequency, both are of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from kvmaff.cpuset import CpuSet
from kvmaff.host.topology import CoreKind
from kvmaff.host.tree import Tree

__all__ = ["read_kinds"]

_CPU = "sys/devices/system/cpu"
_PMUS = (("P", "cpu_core"), ("E", "cpu_atom"), ("LP-E", "cpu_lowpower"))
_TYPES = {"core": "P", "intel_core": "P", "atom": "E", "intel_atom": "E"}


def read_kinds(
    tree: Tree, online: CpuSet, firsts: CpuSet, cores: tuple[CpuSet, ...], packages: tuple[CpuSet, ...]
) -> tuple[CoreKind, ...]:
    """
    Read the kinds of cores.

    Args:
        tree: The machine's root.
        online: The online CPUs.
        firsts: A CPU of each core, all of them where cores are not told.
        cores: The cores.
        packages: The packages.

    Returns:
        The kinds, the fastest first; none where all cores are of one kind, or it is not told.
    """
    named: list[CoreKind] = []
    left = online
    for name, pmu in _PMUS:
        cpus = (tree.cpus(f"sys/devices/{pmu}/cpus") or CpuSet()) & left
        left -= cpus
        named += [CoreKind(name=name, cpus=cpus)] if cpus else []
    kinds = _several(named)
    if kinds:
        return kinds
    whole = {core.first: core for core in cores}

    def by(label: Callable[[int], Hashable | None]) -> dict[Hashable, CpuSet]:
        if label(firsts.first) is None:
            return {}
        groups: dict[Hashable, CpuSet] = {}
        for cpu in firsts:
            said = label(cpu)
            if said is not None:
                groups[said] = groups.get(said, CpuSet()) | whole.get(cpu, CpuSet([cpu]))
        return groups

    types = by(lambda cpu: tree.text(f"{_CPU}/cpu{cpu}/topology/core_type"))
    kinds = _several(
        [
            CoreKind(name=_TYPES.get(str(name).lower(), _word(str(name))), cpus=cpus)
            for name, cpus in sorted(types.items(), key=lambda item: item[1].first)
        ]
    )
    kinds = tuple(
        sorted(kinds, key=lambda kind: kind.name == "E")
    )  # of two that are not known, neither is faster
    if kinds:
        return kinds
    kinds = _by_amount(by(lambda cpu: tree.number(f"{_CPU}/cpu{cpu}/cpu_capacity")), "capacity {}")
    if kinds or len(packages) != 1:
        return kinds
    khz = by(lambda cpu: tree.number(f"{_CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"))
    return _by_amount(
        {amount // 1000: cpus for amount, cpus in khz.items() if isinstance(amount, int)}, "{} MHz"
    )


def _by_amount(groups: dict[Hashable, CpuSet], words: str) -> tuple[CoreKind, ...]:
    """Return the kinds that amounts part, from the largest down."""
    amounts = sorted((amount for amount in groups if isinstance(amount, int) and amount > 0), reverse=True)
    kinds: list[CoreKind] = []
    for at, amount in enumerate(amounts):
        if at and amount * 10 >= amounts[at - 1] * 9:
            last = kinds.pop()
            kinds.append(CoreKind(name=last.name, cpus=last.cpus | groups[amount]))
        else:
            kinds.append(CoreKind(name=words.format(amount), cpus=groups[amount]))
    return _several(kinds)


def _several(kinds: list[CoreKind]) -> tuple[CoreKind, ...]:
    return tuple(kinds) if len(kinds) > 1 else ()


def _word(text: str) -> str:
    return "".join(char for char in text[:32] if char.isprintable()) or "?"
