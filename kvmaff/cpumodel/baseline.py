"""
The richest CPU that every host of a group can run, as a ``-cpu`` text that QEMU itself has expanded.

1. What all hosts can give and a guest can take along: the intersection of what their QEMUs said.
2. The model that says this with the fewest words: each feature to be added costs 1, each to be removed 2, 3, 4 and so
   on, since a model of which much is missing is the wrong one (the idea of libvirt's src/cpu/cpu_x86.c, x86Decode;
   libvirt asks for the CPU's own family and number first, which here decide between equals, since a group has many).
   It is of the hosts' vendor, never deprecated, and has its version in its name: what a name without one means depends
   on the machine type.
3. QEMU expands the text; what it has too much is removed, what it has too little is added, until it is what was wanted.
4. The result is held against each host.

``enforce`` makes QEMU refuse to start where a feature is missing; without it, it warns and drops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from kvmaff.cpumodel.binary import asked
from kvmaff.cpumodel.level import LEVELS, level_of
from kvmaff.cpumodel.model import GIVEN_BY_KVM, CpuModel, HostCpu, judge, same_kind
from kvmaff.cpumodel.reading import dependents
from kvmaff.cpumodel.spelling import Spelt, spell, spelling_cost
from kvmaff.cpumodel.table import CpuModels, sorted_names
from kvmaff.errors import RequestError
from kvmaff.guest.conversation import Conversation
from kvmaff.guest.plainly import plainly

__all__ = ["Baseline", "HostLoss", "baseline", "baselines", "kept_names", "shared_features"]

_TRIED = 4
_PHYS_BITS = 40
"""Of a named model's addresses, unless said."""


@attrs.frozen(kw_only=True)
class HostLoss:
    """
    What guests on a host do without, so that they can move to the others.

    Attributes:
        host: The host.
        lost: What it could give them and the baseline has not.
        unnamed: What it could give and the binary has no name for, so that nobody can ask for it.
    """

    host: HostCpu
    lost: frozenset[str]
    unnamed: frozenset[str]


@attrs.frozen(kw_only=True)
class Baseline:
    """
    The richest CPU that all hosts of a group run.

    Attributes:
        text: What ``-cpu`` takes.
        model: The model that it begins with.
        added: What is added to it.
        removed: What is removed from it.
        features: What a guest has.
        hosts: The hosts in the order they were given, each with what it loses.
        blockers: (feature, the hosts that lack it, the hosts of which nobody knows) of each that a host loses.
        phys_bits: How many bits of physical addresses all of them have whose number is known; None where none is.
            Named models have 40 unless told otherwise (QEMU target/i386/cpu.h, TCG_PHYS_ADDR_BITS): guests of more
            than 1 TiB need ``phys-bits=`` up to this one.
        notes: What a person should know, a sentence each.
    """

    text: str
    model: CpuModel
    added: tuple[str, ...]
    removed: tuple[str, ...]
    features: frozenset[str]
    hosts: tuple[HostLoss, ...]
    blockers: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    phys_bits: int | None
    notes: tuple[str, ...]

    @property
    def level(self) -> int:
        """The x86-64 psABI's level that guests see."""
        return level_of(self.features)

    def lost_by(self, model: CpuModel) -> frozenset[str]:
        """
        Say what a guest of another model does without.

        Args:
            model: The model.

        Returns:
            What the baseline has and the model has not.
        """
        return self.features - model.features


def baseline(
    hosts: Sequence[HostCpu],
    models: CpuModels,
    *,
    model: str | None = None,
    cross_vendor: bool = False,
    nested: bool = True,
    without: Iterable[str] = (),
) -> Baseline:
    """
    Find the richest CPU that all hosts of a group run.

    Args:
        hosts: The hosts, one or more.
        models: The models of the QEMU that the guests will run in; it is started to check the result.
        model: The model to begin with; None for the one that needs the fewest words.
        cross_vendor: Allow hosts of different vendors.
        nested: Keep what guests need for guests of their own (``vmx``, ``svm`` and what depends on them).
        without: Features to leave out, with what QEMU takes out with them.

    Returns:
        It.

    Raises:
        WrongUsage: There is no such model or feature.
        RequestError: The hosts are of different architectures or vendors, or too different for ``host`` or ``max``.
        QemuError: The binary cannot be asked.
        Unsupported: The library ``qemu.qmp`` is not installed.
    """
    (found,) = baselines(
        [hosts], models, model=model, cross_vendor=cross_vendor, nested=nested, without=without
    )
    return found


def baselines(
    groups: Sequence[Sequence[HostCpu]],
    models: CpuModels,
    *,
    model: str | None = None,
    cross_vendor: bool = False,
    nested: bool = True,
    without: Iterable[str] = (),
) -> tuple[Baseline, ...]:
    """
    Find the baseline of each of some groups; the binary is started once.

    Args:
        groups: The groups.
        models: As for :func:`baseline`.
        model: As there.
        cross_vendor: As there.
        nested: As there.
        without: As there.

    Returns:
        Each group's, in their order.

    Raises:
        RequestError: As there, and so for the others.
    """
    forced = None if model is None else models.resolved(models.get(model))
    kept = kept_names(models, without=without, nested=nested)
    wrong = [
        problem
        for hosts in groups
        for problem in _problems(hosts, models, forced, kept, cross_vendor=cross_vendor)
    ]
    if wrong:
        raise RequestError.of(wrong)

    async def whole() -> tuple[Baseline, ...]:
        async with asked(models.binary, accel=models.accel, machine=models.machine) as qemu:
            return tuple([await _baseline(qemu, hosts, models, forced, kept) for hosts in groups])

    return plainly(whole)


def kept_names(models: CpuModels, *, without: Iterable[str] = (), nested: bool = True) -> frozenset[str]:
    """
    Say which features count.

    Args:
        models: The binary's models; it is started where something is to be left out.
        without: Features to leave out.
        nested: Keep what guests need for guests of their own.

    Returns:
        All that the binary has names for, without these and what QEMU takes out with them.

    Raises:
        WrongUsage: There is no such feature.
        QemuError: The binary cannot be asked.
        Unsupported: The library ``qemu.qmp`` is not installed.
    """
    gone = models.known(without)

    async def whole() -> frozenset[str]:
        async with asked(models.binary, accel=models.accel, machine=models.machine) as qemu:
            return await dependents(qemu, models.names, gone)

    with_them = plainly(whole) if gone else frozenset[str]()
    return models.names - gone - with_them - (frozenset() if nested else models.nested)


def shared_features(hosts: Iterable[HostCpu], names: frozenset[str]) -> frozenset[str]:
    """
    Say what all hosts can give and a guest can take along.

    Args:
        hosts: The hosts, one or more.
        names: The features that count, as those that a binary has names for.

    Returns:
        The features.
    """
    return frozenset.intersection(names, *(host.movable for host in hosts))


def _problems(
    hosts: Sequence[HostCpu],
    models: CpuModels,
    forced: CpuModel | None,
    kept: frozenset[str],
    *,
    cross_vendor: bool,
) -> list[str]:
    """Why a group has no baseline, all reasons."""
    if not hosts:
        return ["a baseline is one of hosts: none is given"]
    wrong: list[str] = []
    try:
        same_kind(hosts)
        models.fits(hosts[0])  # and so the others
    except RequestError as error:
        wrong += error.problems
    by_vendor: dict[str, list[str]] = {}
    for host in hosts:
        by_vendor.setdefault(host.vendor, []).append(host.name)
    if len(by_vendor) > 1 and not cross_vendor:
        told = "; ".join(f"{vendor}: {', '.join(names)}" for vendor, names in sorted(by_vendor.items()))
        wrong.append(
            f"the hosts are of different vendors ({told}); guests that move between them are not supported by their "
            "makers, and have to be asked for (--cross-vendor)"
        )
    if forced is not None and not forced.fixed and (why := _differences(hosts)):
        wrong.append(f"{forced.name} is what its host is, and these are not the same: {why}")
    return wrong or _too_little(hosts, shared_features(hosts, kept))


def _differences(hosts: Sequence[HostCpu]) -> str:
    """In what some hosts differ; nothing where a guest cannot tell them apart."""
    said = []
    if dark := [host.name for host in hosts if host.source != "qmp"]:
        said.append(f"of {', '.join(dark)} only /proc/cpuinfo is known")
    for field in ("vendor", "family", "model", "stepping", "phys_bits"):
        values = sorted({str(getattr(host, field)) for host in hosts})
        if len(values) > 1:
            said.append(f"{field} {' and '.join(values)}")
    some = frozenset.union(*(host.movable for host in hosts)) - frozenset.intersection(
        *(host.movable for host in hosts)
    )
    if some:
        names = sorted_names(some)
        said.append(f"features {', '.join(names[:6])}" + (f" and {len(names) - 6} more" if names[6:] else ""))
    return "; ".join(said)


def _too_little(hosts: Sequence[HostCpu], wanted: frozenset[str]) -> list[str]:
    """Why hosts share nothing that a system of 64 bits starts on: that were an answer, and nobody's question."""
    absent = sorted(LEVELS[0] - wanted)
    if hosts[0].arch != "x86_64" or not absent:
        return []
    blame = [host.name for host in hosts if any(host.has(name) is not True for name in absent)]
    advice = f"look at {', '.join(blame)}, and capture it with QEMU (kvmaff cpumodel host)"
    return [
        f"these hosts are not known to share what a guest of 64 bits needs ({', '.join(absent)}): {advice}"
    ]


async def _baseline(
    qemu: Conversation,
    hosts: Sequence[HostCpu],
    models: CpuModels,
    forced: CpuModel | None,
    kept: frozenset[str],
) -> Baseline:
    wanted = shared_features(hosts, kept)
    spelt = None
    if forced is not None and not forced.fixed:
        props = dict.fromkeys(sorted(hosts[0].movable & models.names - wanted), False)
        spelt = Spelt(model=forced, props={"migratable": True, **props}, features=wanted)
    else:
        for candidate in (forced,) if forced else _candidates(hosts, models, wanted):
            spelt = await spell(qemu, candidate, wanted, models, hosts)
            if spelt is not None:
                break
    if spelt is None:
        which = forced.name if forced else "any of its models"
        raise RequestError.of([f"{models.binary} cannot make {which} into what these hosts share"])
    # what was wanted is what all of them have; that the result is no more than that is not left to QEMU's word
    strange = [
        host.name for host in hosts if not judge(spelt.features, host, off=models.off(host) - wanted).runs
    ]
    if strange:
        raise RequestError.of(
            [f"{spelt.model.name}: QEMU expands it to more than {', '.join(strange)} can give"]
        )
    vendors = {host.vendor for host in hosts}
    notes = _notes(hosts, models, spelt, chosen=forced is None)
    added = sorted_names(name for name, on in spelt.props.items() if on and name in models.names)
    removed = sorted_names(name for name, on in spelt.props.items() if not on and name in models.names)
    words = [spelt.model.name, *(f"+{name}" for name in added), *(f"-{name}" for name in removed)]
    words += ["migratable=on"] if "migratable" in spelt.props else []
    bits = min((host.phys_bits for host in hosts if host.phys_bits is not None), default=None)
    if bits is not None and bits < _PHYS_BITS and spelt.model.fixed:
        words += ["host-phys-bits=on", f"host-phys-bits-limit={bits}"]
    words += [f"vendor={spelt.model.vendor or min(vendors)}"] if len(vendors) > 1 else []
    losses = tuple(
        HostLoss(
            host=host,
            lost=(host.movable & models.names) - spelt.features,
            unnamed=host.movable - models.names,
        )
        for host in hosts
    )
    return Baseline(
        text=",".join([*words, "enforce"]),
        model=spelt.model,
        added=added,
        removed=removed,
        features=spelt.features,
        hosts=losses,
        blockers=_blockers(hosts, losses),
        phys_bits=bits,
        notes=notes,
    )


def _candidates(hosts: Sequence[HostCpu], models: CpuModels, wanted: frozenset[str]) -> tuple[CpuModel, ...]:
    """The models to begin with, the one that needs the fewest words first."""
    vendors = {host.vendor for host in hosts}
    some = [model for model in models.models if model.fixed and model.alias_of is None and model.vendor != ""]
    some = [model for model in some if model.vendor in vendors or model.vendor is None] or some
    some = [model for model in some if not model.deprecated] or some
    signatures = {(host.family, host.model) for host in hosts}
    ignored = models.off(hosts[0]) | (GIVEN_BY_KVM if hosts[0].accel == "kvm" else frozenset())

    def rank(model: CpuModel) -> tuple[int, bool, int, str]:
        _, _, version = model.name.rpartition("-v")
        age = -int(version) if version.isdecimal() else 0
        strange = (model.family, model.model) not in signatures
        return spelling_cost(model, wanted, ignored), strange, age, model.name

    return tuple(sorted(some, key=rank)[:_TRIED])


def _blockers(
    hosts: Sequence[HostCpu], losses: Sequence[HostLoss]
) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    lost = sorted_names(frozenset[str]().union(*(loss.lost for loss in losses)))
    return tuple(
        (
            name,
            tuple(host.name for host in hosts if host.has(name) is False),
            tuple(host.name for host in hosts if host.has(name) is None),
        )
        for name in lost
    )


def _notes(hosts: Sequence[HostCpu], models: CpuModels, spelt: Spelt, *, chosen: bool) -> tuple[str, ...]:
    notes = []
    vendors = sorted({host.vendor for host in hosts})
    if len(vendors) > 1:
        notes.append(
            f"the hosts are of different vendors ({', '.join(vendors)}): SYSENTER, SYSCALL and errata differ between "
            "them, and no maker supports guests that move"
        )
    if spelt.model.vendor is None:
        notes.append(f"{models.binary} has no TCG and so does not tell whose CPU a model is")
    elif chosen and spelt.model.vendor not in vendors:
        notes.append(f"{models.binary} has no model of {vendors[0]}: the guest sees a name of another's")
    degraded = [host.name for host in hosts if host.source == "cpuinfo"]
    if degraded:
        notes.append(
            f"of {', '.join(degraded)} only /proc/cpuinfo is known, which shows little of what guests can have: "
            "capture it with QEMU for more"
        )
    old = [host for host in hosts if host.qemu is not None and host.qemu[:2] != models.version[:2]]
    for host in old:
        assert host.qemu is not None
        had, has = ".".join(map(str, host.qemu)), ".".join(map(str, models.version))
        older = f"; whether it knows {spelt.model.name} is not known" if host.qemu < models.version else ""
        notes.append(f"{host.name} was asked by QEMU {had}, the models are those of {has}{older}")
    if hosts[0].accel != models.accel:
        notes.append(
            "the models were read under TCG, which has no features of KVM's own (kvm-…): of these a guest has what KVM "
            "turns on by itself; ask again where /dev/kvm is for the others"
        )
    return tuple(notes)
