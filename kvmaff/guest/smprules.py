"""
What a machine type allows ``-smp`` to say, as data.

It is the version of the *machine type* that decides whether sockets or cores are counted first, and that of the binary
which words there are and which mistakes are errors (QEMU: hw/core/machine-smp.c, qapi/machine.json, hw/i386/pc_q35.c,
pc_piix.c, microvm.c, hw/arm/virt.c, hw/s390x/s390-virtio-ccw.c).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from kvmaff.errors import WrongUsage

__all__ = [
    "ANY_MACHINE",
    "LEVELS",
    "NEWEST",
    "Accel",
    "SmpRules",
    "Version",
    "known_machines",
    "smp_rules",
    "writing_rules",
]

Version = tuple[int, int]
Accel = str

LEVELS = ("drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads")
"""All levels that QEMU knows, the largest first."""
_ALWAYS = frozenset({"sockets", "cores", "threads"})
NEWEST: Version = (10, 0)
"""The newest QEMU whose rules were looked at; what is newer is taken to be like it."""
OLDEST: Version = (6, 2)
_SINCE = {"clusters": (7, 0), "drawers": (8, 2), "books": (8, 2), "modules": (9, 1)}
"""The binary that first has a word for the level; the others are older than 6.2."""


@attrs.frozen(kw_only=True)
class SmpRules:
    """
    What a machine, and the QEMU that runs it, make of ``-smp``.

    Attributes:
        machine: What QEMU calls the machine in its messages.
        levels: The levels that the machine has, the largest first; sockets, cores and threads among them.
        prefer_sockets: Whether sockets are counted where neither they nor cores are given (machine types up to 6.1);
            else cores.
        min_cpus: The fewest vCPUs.
        max_cpus: The most, plugged or not.
        qemu: The version of the binary, which decides about words, warnings and messages.
        apic: Whether vCPUs have APIC ids: those of x86 machines.
        max_apic_id: The largest that a vCPU may have; None where there is no such limit.

    Raises:
        ValueError: Levels that there are not, or a limit that cannot be.
    """

    machine: str = "any"
    levels: tuple[str, ...] = ("sockets", "cores", "threads")
    prefer_sockets: bool = False
    min_cpus: int = 1
    max_cpus: int
    qemu: Version = NEWEST
    apic: bool = False
    max_apic_id: int | None = None

    def __attrs_post_init__(self) -> None:
        order = [level for level in LEVELS if level in self.levels]
        if list(self.levels) != order or not _ALWAYS.issubset(order):
            raise ValueError(
                f"levels are some of {', '.join(LEVELS)} in this order, sockets, cores and threads among them"
            )
        if not 1 <= self.min_cpus <= self.max_cpus:
            raise ValueError(
                f"min_cpus and max_cpus are 1 or more and in order, not {self.min_cpus} and {self.max_cpus}"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The levels that this QEMU knows the names of, the largest first; those that the machine lacks may be 1."""
        return tuple(level for level in LEVELS if _SINCE.get(level, OLDEST) <= self.qemu)

    @property
    def strict(self) -> bool:
        """Whether 0 is an error, and not ignored with a warning: since 9.0."""
        return self.qemu >= (9, 0)


ANY_MACHINE = SmpRules(levels=LEVELS, max_cpus=8192)
"""For a machine type that is not known: every level, as many vCPUs as any guest has."""


def known_machines() -> tuple[str, ...]:
    """
    Say which machine types are known.

    Returns:
        Their names, with VERSION in place of a version.
    """
    return tuple(name for family in _FAMILIES for name in family.names)


def smp_rules(machine: str, qemu: Version | None = None, accel: Accel = "kvm") -> SmpRules:
    """
    Look up the rules of a machine type.

    Args:
        machine: Its name, as ``pc-q35-7.2``; or an alias, as ``q35``, for the newest that the binary has.
        qemu: The version of the binary; None for that of the machine type, or the newest known for an alias.
        accel: What runs vCPUs: ``kvm`` (with the kernel's own APIC and x2APIC) or ``tcg``.

    Returns:
        The rules.

    Raises:
        WrongUsage: The machine type, the version or the accelerator is not known, or the binary is older than the
            machine type.
    """
    problems = []
    if accel not in {"kvm", "tcg"}:
        problems.append(f"accelerator {accel!r} is not known; kvm and tcg are")
    if qemu is not None and qemu < OLDEST:
        problems.append(f"QEMU {_dotted(qemu)} is too old: the rules are known since {_dotted(OLDEST)}")
        qemu = None
    found = next(
        ((family, match) for family in _FAMILIES if (match := family.pattern.fullmatch(machine))), None
    )
    if found is None:
        problems.append(
            f"machine type {machine!r} is not known; known are {', '.join(known_machines())}. Another one can be "
            "described by SmpRules"
        )
        raise WrongUsage.of(problems)
    family, match = found
    version = family.version(match, qemu)
    if match.groupdict().get("major") and not _released(version):
        problems.append(f"machine type {machine!r} is of no version of QEMU that there is or soon will be")
    if version > (qemu or max(version, OLDEST)):
        problems.append(f"QEMU {_dotted(qemu or NEWEST)} has no machine type {machine!r}")
    if problems:
        raise WrongUsage.of(problems)
    binary = qemu or max(version, OLDEST)
    name = family.full_name(match, version)
    levels = {level for level in family.levels if _SINCE.get(level, OLDEST) <= binary} | _ALWAYS
    return SmpRules(
        machine=name,
        levels=tuple(level for level in LEVELS if level in levels),
        prefer_sockets=family.versioned and version <= (6, 1),
        max_cpus=family.max_cpus(version),
        qemu=binary,
        apic=family.apic,
        # a userspace APIC has no x2APIC before 9.0; KVM's own has
        max_apic_id=254 if family.apic and accel == "tcg" and binary < (9, 0) else None,
    )


def writing_rules(machine: str, qemu: Version | None = None, accel: Accel = "kvm") -> SmpRules:
    """
    Look up rules by which a topology is written: all of its numbers, so that what a machine type prefers is no matter.

    Args:
        machine: The machine type; also a distribution's own of q35 and i440fx, as ``pc-q35-rhel9.2.0``.
        qemu: As for :func:`smp_rules`.
        accel: As there.

    Returns:
        The rules.

    Raises:
        WrongUsage: As there.
    """
    try:
        return smp_rules(machine, qemu, accel)
    except WrongUsage:
        for alias in ("q35", "pc"):
            stem = next(family.stem for family in _FAMILIES if family.names[0] == alias)
            if machine.startswith(f"{stem}-") and _OWN.fullmatch(machine):
                # as old as any that a distribution still has: its limits are those of all
                return attrs.evolve(smp_rules(alias, qemu or _CAREFUL, accel), machine=machine)
        raise


# -- machine types

_OWN = re.compile(r"pc-[a-z0-9]+-[a-z]+[a-z0-9._-]{0,40}", re.ASCII)
_CAREFUL: Version = (7, 2)


@attrs.frozen(kw_only=True)
class _Family:
    """Machine types of one kind, one for each version."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]
    stem: str
    levels: tuple[str, ...]
    max_cpus: Callable[[Version], int]
    apic: bool = False
    versioned: bool = True

    def version(self, match: re.Match[str], qemu: Version | None) -> Version:
        groups = match.groupdict()
        if groups.get("major"):
            return int(groups["major"]), int(groups["minor"])
        if groups.get("ubuntu"):
            return _UBUNTU[groups["ubuntu"]]
        return qemu or NEWEST

    def full_name(self, match: re.Match[str], version: Version) -> str:
        alias = not any(match.groupdict().values())
        return f"{self.stem}-{_dotted(version)}" if alias and self.versioned else match[0]


_UBUNTU = {"bionic": (2, 11), "focal": (4, 2), "jammy": (6, 2), "noble": (8, 2)}
"""Ubuntu's own machine types are those of a version by another name."""
_MINORS = {0: range(10, 16), 1: range(8), 2: range(13)}
"""The minor versions of a major one, since machine types have versions; since 3.0 there are three a year."""
_LAST = 50
"""There is one major version a year, and what is newer than this file counts, too."""
_VERSION = r"(?P<major>[0-9]{1,3})\.(?P<minor>[0-9]{1,3})(?:\.[0-9]{1,3})?"
_SERIES = rf"(?:{_VERSION}|(?P<ubuntu>{'|'.join(_UBUNTU)})(?:-hpb)?)"
_PC_LEVELS = ("dies", "modules")


def _q35_cpus(version: Version) -> int:
    for since, most in (((9, 0), 4096), ((8, 1), 1024), ((2, 8), 288)):
        if version >= since:
            return most
    return 255


def _family(
    name: str, alias: str, max_cpus: Callable[[Version], int], levels: tuple[str, ...], *, apic: bool
) -> _Family:
    return _Family(
        pattern=re.compile(rf"{alias}|{name}-{_SERIES}", re.ASCII),
        names=(alias, f"{name}-VERSION"),
        stem=name,
        levels=levels,
        max_cpus=max_cpus,
        apic=apic,
    )


def _single(name: str, most: int, levels: tuple[str, ...] = (), *, apic: bool = False) -> _Family:
    """Make the family of a machine type without versions."""
    return _Family(
        pattern=re.compile(re.escape(name)),
        names=(name,),
        stem=name,
        levels=levels,
        max_cpus=lambda _: most,
        apic=apic,
        versioned=False,
    )


_FAMILIES = (
    _family("pc-q35", "q35", _q35_cpus, _PC_LEVELS, apic=True),
    _family("pc-i440fx", "pc", lambda _: 255, _PC_LEVELS, apic=True),
    _single("microvm", 288, apic=True),
    _single("isapc", 1, _PC_LEVELS),
    _single("none", 1),
    _family("virt", "virt", lambda _: 512, ("clusters",), apic=False),
    _family("s390-ccw-virtio", "s390-ccw-virtio", lambda _: 248, ("drawers", "books"), apic=False),
)


def _released(version: Version) -> bool:
    major, minor = version
    return major < _LAST and minor in _MINORS.get(major, range(3))


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
