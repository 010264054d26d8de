"""
CPU models, hosts, and whether a host can run a model.

Rule (QEMU target/i386/cpu.c, x86_cpu_filter_features; kvm/kvm-cpu.c, kvm_default_props; kvm/kvm.c,
kvm_arch_get_supported_cpuid): a host runs a model where it can give each of the model's features. Under KVM ``acpi``,
``monitor`` and ``svm`` are off in named models unless somebody asks for them, and ``topoext`` is given on any host,
also where the host's own list does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from kvmaff.cpumodel.level import level_of
from kvmaff.errors import RequestError

__all__ = [
    "GIVEN_BY_KVM",
    "OFF_UNDER_KVM",
    "ON_UNDER_KVM",
    "CpuModel",
    "HostCpu",
    "Verdict",
    "judge",
    "same_kind",
]

GIVEN_BY_KVM = frozenset({"topoext"})
"""What KVM gives a guest that asks for it, whatever the host says it has."""
OFF_UNDER_KVM = frozenset({"acpi", "monitor", "svm"})
"""What named models have and do not get under KVM unless it is asked for."""

ON_UNDER_KVM = frozenset(
    {
        "kvm-asyncpf",
        "kvm-nopiodelay",
        "kvm-pv-eoi",
        "kvm-steal-time",
        "kvmclock",
        "kvmclock-stable-bit",
        "vme",
        "x2apic",
    }
)
"""What named models do not show under TCG, and may get under KVM unless it is turned off."""


@attrs.frozen(kw_only=True)
class CpuModel:
    """
    A model as a QEMU binary has it.

    Attributes:
        name: Its name, as ``Skylake-Server-v4``.
        alias_of: The name with a version that it stands for; None where it has one itself or needs none.
        vendor: Whose CPU it models (CPUID's 12 characters); None where the binary does not tell.
        family: Its CPU family.
        model: Its number in the family.
        stepping: Its stepping.
        title: What the guest shows as its CPU's name.
        features: What a guest of this model has, by QEMU's names; for ``host`` and ``max`` what this host gives.
        fixed: Whether it is the same on every host, so that a guest may move (QEMU's ``migration-safe``).
        deprecated: Whether QEMU will drop it.
        unavailable: What this binary says that this host lacks for it; None where it does not say.
    """

    name: str
    alias_of: str | None = None
    vendor: str | None
    family: int
    model: int
    stepping: int
    title: str
    features: frozenset[str]
    fixed: bool = True
    deprecated: bool = False
    unavailable: frozenset[str] | None = None

    @property
    def level(self) -> int:
        """The x86-64 psABI's level of its features, 1 to 4; 0 where it is below the first."""
        return level_of(self.features)


@attrs.frozen(kw_only=True)
class HostCpu:
    """
    What a host can give its guests' CPUs.

    Attributes:
        name: What to call it.
        arch: ``x86_64`` or ``i386``.
        accel: ``kvm`` or ``tcg``.
        source: ``qmp``: its QEMU said so; ``cpuinfo``: it was concluded from /proc/cpuinfo, which shows little.
        qemu: The version of that QEMU, (major, minor, micro); None for ``cpuinfo``.
        kernel: The kernel's release; empty where nobody knows.
        vendor: CPUID's 12 characters.
        family: The CPU's family.
        model: Its number in the family.
        stepping: Its stepping.
        title: The CPU's name.
        features: What it can give, by QEMU's names.
        staying: Those of them that a guest cannot take along when it moves: ``invtsc``; and on CPUs that are not
            Intel's ``arch-capabilities``, which KVM makes up there and QEMU since 10.1 does not give.
        lacks: What it surely cannot give. What is in neither, nobody knows.
        phys_bits: How many bits its physical addresses have; None where nobody knows, and under TCG.
    """

    name: str
    arch: str
    accel: str
    source: str
    qemu: tuple[int, int, int] | None
    kernel: str
    vendor: str
    family: int
    model: int
    stepping: int
    title: str
    features: frozenset[str]
    staying: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    phys_bits: int | None = None

    def has(self, feature: str) -> bool | None:
        """
        Say whether it can give a feature.

        Args:
            feature: QEMU's name.

        Returns:
            None where nobody knows.
        """
        if feature in self.features or (self.accel == "kvm" and feature in GIVEN_BY_KVM):
            return True
        return False if feature in self.lacks else None

    @property
    def movable(self) -> frozenset[str]:
        """What it can give that a guest can take along when it moves."""
        return self.features - self.staying

    @property
    def level(self) -> int:
        """The x86-64 psABI's level of its features, 1 to 4; 0 where it is below the first."""
        return level_of(self.features)


@attrs.frozen(kw_only=True)
class Verdict:
    """
    Whether a host can run something.

    Attributes:
        missing: The features that it surely lacks.
        unknown: Those of which nobody knows.
    """

    missing: frozenset[str]
    unknown: frozenset[str]

    @property
    def runs(self) -> bool | None:
        """None where it depends on what nobody knows."""
        if self.missing:
            return False
        return None if self.unknown else True


def judge(features: Iterable[str], host: HostCpu, *, off: frozenset[str] = frozenset()) -> Verdict:
    """
    Say whether a host can run a CPU of some features.

    Args:
        features: The features.
        host: The host.
        off: Those that a guest there would not get, so that it needs none of them.

    Returns:
        The verdict.
    """
    has = {feature: host.has(feature) for feature in features if feature not in off}
    return Verdict(
        missing=frozenset(feature for feature, one in has.items() if one is False),
        unknown=frozenset(feature for feature, one in has.items() if one is None),
    )


def same_kind(hosts: Iterable[HostCpu]) -> None:
    """
    Refuse hosts that nothing can be said of together.

    Args:
        hosts: The hosts.

    Raises:
        RequestError: They are of different architectures, or run guests by different means.
    """
    some = tuple(hosts)
    wrong = []
    for what, one in (("architectures", "arch"), ("accelerators", "accel")):
        by: dict[str, list[str]] = {}
        for host in some:
            by.setdefault(getattr(host, one), []).append(host.name)
        if len(by) > 1:
            told = "; ".join(f"{value}: {', '.join(sorted(names))}" for value, names in sorted(by.items()))
            wrong.append(f"the hosts are of different {what}, between which no guest moves: {told}")
    if wrong:
        raise RequestError.of(wrong)
