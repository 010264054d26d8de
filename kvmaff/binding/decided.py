"""
What was decided last, kept beside the records.

``plan`` and ``apply`` without a strategy compare with this, so that drift and hot-plug lead back to the decision and
not to a new one. The rules of the host that it was decided under (reserved CPUs, pools, ratios) are kept beside it:
without them nobody could say whether it still holds, and who decides for one guest later would not know them. Masks end
with the kernel that keeps them, decisions do not: after a reboot a guest is known again by name and UUID, while a
process number of an earlier boot means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from kvmaff.binding.journal import DECIDED, Folder, Journal
from kvmaff.binding.record import boot_id, pid_namespace
from kvmaff.cpuset import CpuSet
from kvmaff.errors import JournalError
from kvmaff.fields import Fields
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.spec import (
    Affinity,
    EmulatorPolicy,
    GuestCell,
    GuestSpec,
    Place,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.kernel.scan import Proc
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement
from kvmaff.placement.request import HostRules, Pool

__all__ = [
    "decided_text",
    "decision_in",
    "last_decided",
    "last_decision",
    "lives",
    "merged_text",
    "same_guest",
]

_VERSION = 3


def last_decided(journal: Journal) -> Placement | None:
    """
    Read what was decided last.

    Args:
        journal: The folder of records.

    Returns:
        The placement, as :func:`last_decision` has it.

    Raises:
        JournalError: The file is damaged or not ours to believe.
    """
    return last_decision(journal)[0]


def last_decision(journal: Journal) -> tuple[Placement | None, HostRules]:
    """
    Read what was decided last, and under which rules.

    Args:
        journal: The folder of records.

    Returns:
        The placement, or None where nothing was decided, and what is so for the host beside it. Process numbers of an
        earlier boot or of another pid namespace are left out.

    Raises:
        JournalError: The file is damaged or not ours to believe.
    """
    if not journal.exists():
        return None, HostRules()
    with journal.locked() as folder:
        return decision_in(folder, journal.folder)


def decision_in(folder: Folder, where: str) -> tuple[Placement | None, HostRules]:
    """
    Read what was decided last, for who has locked the folder.

    Args:
        folder: The locked folder.
        where: Its path, for errors.

    Returns:
        As :func:`last_decision`.

    Raises:
        JournalError: The file is damaged or not ours to believe.
    """
    text = decided_text(folder)
    if not text:
        return None, HostRules()
    path = f"{where}/{DECIDED}"
    try:
        return _from_data(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise JournalError(
            f"{path}: damaged: {error}. Decide anew with a strategy, or remove it", path=path
        ) from error


def decided_text(folder: Folder) -> str:
    """
    What was decided last, as it is on disk.

    Args:
        folder: The locked folder.

    Returns:
        The text; empty where nothing was decided.

    Raises:
        JournalError: The file is not ours to believe.
    """
    try:
        return folder.get(DECIDED) if folder.has(DECIDED) else ""
    except ValueError:
        return ""  # no text: there is nothing to come back to


def merged_text(
    folder: Folder, placement: Placement, rules: HostRules | None = None, *, whole: bool = False
) -> str:
    """
    A decision as it is kept, with what was decided before of other guests that still run, or are to come.

    Args:
        folder: The locked folder.
        placement: What was decided.
        rules: What is so for the host beside it; None for what was so before.
        whole: Nothing that was decided before stays.

    Returns:
        The text of the file.

    Raises:
        JournalError: The file with the last decision is not ours to believe.
    """
    try:
        last, known = _from_data(json.loads(decided_text(folder) or "null"))
        before = last.guests
    except (ValueError, RecursionError):
        before, known = (), HostRules()  # nothing, or nothing to believe
    if rules is None:
        rules = HostRules() if whole else known
    # another process may have the same name: only a decision for one that does not run goes by name
    processes = {(guest.pid, guest.start) for guest in placement.guests if guest.pid is not None}
    names = {guest.spec.name for guest in placement.guests}
    others = [
        guest
        for guest in (() if whole else before)
        if (lives(guest) and (guest.pid, guest.start) not in processes)
        or (guest.pid is None and guest.spec.name not in names)
    ]
    merged = attrs.evolve(placement, guests=(*placement.guests, *others))
    return json.dumps(_to_data(merged, rules)) + "\n"


def same_guest(decided: GuestPlacement, guests: Sequence[Guest]) -> Guest | None:
    """
    Find the running guest that a decision is for.

    Args:
        decided: The decision for one guest.
        guests: The guests that run.

    Returns:
        The very process while it runs; else the one proved guest of that name, and UUID where one was told: a guest to
        come, or one that was started again.
    """
    proved = [guest for guest in guests if guest.verified]
    for guest in proved:
        if decided.pid is not None and (guest.pid, guest.start) == (decided.pid, decided.start):
            return guest
    named = [guest for guest in proved if guest.name == decided.spec.name]
    if decided.spec.uuid is not None:
        named = [guest for guest in named if guest.uuid == decided.spec.uuid]
    return named[0] if len(named) == 1 else None


def lives(guest: GuestPlacement) -> bool:
    """
    Whether the process still runs for which something was decided.

    Args:
        guest: The decision for one guest.

    Returns:
        True for the very process, not for one that has its number since.
    """
    if guest.pid is None:
        return False
    with Proc() as proc:
        return any(task.tid == guest.pid and task.start == guest.start for task in proc.tasks([guest.pid]))


def _to_data(placement: Placement, rules: HostRules) -> dict[str, Any]:
    guests = []
    for guest in placement.guests:
        spec = attrs.asdict(guest.spec)
        guests.append(
            {
                "spec": spec,
                "pid": guest.pid,
                "start": guest.start,
                "threads": [
                    {"role": one.role.value, "index": one.index, "cpus": one.cpus.cpulist}
                    for one in guest.threads
                ],
                "nodes": guest.nodes,
                "score": attrs.asdict(guest.score),
                "why": guest.why,
                "owned": guest.owned.cpulist,
            }
        )
    return {
        "kvmaff": _VERSION,
        "boot": boot_id(),
        "namespace": pid_namespace(),
        "strategy": placement.strategy,
        "rules": {
            "reserved": rules.reserved.cpulist,
            "overcommit": rules.overcommit,
            "pools": [
                {"name": pool.name, "cpus": pool.cpus.cpulist, "overcommit": pool.overcommit}
                for pool in rules.pools
            ],
        },
        "guests": guests,
    }


def _from_data(data: object) -> tuple[Placement, HostRules]:
    top = Fields(data, "the decision")
    version = top.number("kvmaff")
    if version != _VERSION:
        raise ValueError(f"version {version}, not {_VERSION}: written by another kvmaff")
    here = top.text("boot") == boot_id() and top.number("namespace") == pid_namespace()
    guests = [
        _guest(Fields(item, f"guest {place}"), here=here) for place, item in enumerate(top.items("guests"))
    ]
    rules = _rules(Fields(top.value("rules"), "the rules"))
    return Placement(strategy=top.text("strategy"), guests=tuple(guests)), rules


def _rules(fields: Fields) -> HostRules:
    pools = [
        Pool(name=one.text("name"), cpus=one.cpus("cpus"), overcommit=one.number_or_none("overcommit", 1))
        for one in (Fields(item, f"{fields.where}: pool") for item in fields.items("pools"))
    ]
    names, cpus = {pool.name for pool in pools}, CpuSet.union_of(pool.cpus for pool in pools)
    if len(names) < len(pools) or len(cpus) < sum(len(pool.cpus) for pool in pools):
        raise ValueError(f"{fields.where}: pools are in each other's way")
    return HostRules(
        reserved=CpuSet.parse(fields.text("reserved")),
        overcommit=fields.number_or_none("overcommit", 1),
        pools=tuple(pools),
    )


def _guest(fields: Fields, *, here: bool) -> GuestPlacement:
    where = fields.where
    score = Fields(fields.value("score"), f"{where}: score")
    pid, start = fields.number_or_none("pid", 1), fields.number_or_none("start")
    return GuestPlacement(
        spec=_spec(Fields(fields.value("spec"), f"{where}: spec")),
        pid=pid if here else None,
        start=start if here else None,
        threads=tuple(
            ThreadPlacement(
                role=Role(one.text("role")), index=one.number_or_none("index"), cpus=one.cpus("cpus")
            )
            for one in (Fields(item, f"{where}: thread") for item in fields.items("threads"))
        ),
        nodes=fields.numbers("nodes"),
        score=_score(score),
        why=fields.texts("why"),
        owned=CpuSet.parse(fields.text("owned")),
    )


def _score(fields: Fields) -> Score:
    names = fields.texts("levels")
    values: dict[str, Any] = {}
    for field in attrs.fields(Score):
        if field.name != "levels":
            needed = field.name in names or field.default is attrs.NOTHING
            values[field.name] = (fields.number if needed else fields.number_or_none)(field.name)
    if not values.keys() >= set(names):
        raise ValueError(f"{fields.where}: levels are of {', '.join(values)}, not {', '.join(names)}")
    return Score(**values, levels=names)


def _affinities(fields: Fields, name: str) -> tuple[Affinity, ...]:
    items = [Fields(item, f"{fields.where}: {name}") for item in fields.items(name)]
    return tuple(Affinity(guest=one.text("guest"), level=Place(one.text("level"))) for one in items)


def _spec(fields: Fields) -> GuestSpec:
    iothreads = fields.text_or_none("iothread_policy")
    cells = [Fields(item, f"{fields.where}: cell") for item in fields.items("cells")]
    return GuestSpec(
        name=fields.text("name"),
        uuid=None if fields.value("uuid") is None else fields.text("uuid"),
        vcpus=fields.number("vcpus"),
        max_vcpus=fields.number("max_vcpus"),
        threads=fields.number("threads"),
        memory_bytes=fields.number("memory_bytes"),
        cells=tuple(
            GuestCell(vcpus=cell.numbers("vcpus"), memory_bytes=cell.number("memory_bytes")) for cell in cells
        ),
        iothreads=fields.texts("iothreads"),
        device_nodes=fields.numbers("device_nodes"),
        vcpu_policy=VcpuPolicy(fields.text("vcpu_policy")),
        thread_policy=ThreadPolicy(fields.text("thread_policy")),
        emulator_policy=EmulatorPolicy(fields.text("emulator_policy")),
        devices=fields.texts("devices"),
        dedicated_vcpus=fields.numbers("dedicated_vcpus"),
        iothread_policy=None if iothreads is None else EmulatorPolicy(iothreads),
        page_bytes=fields.number("page_bytes"),
        core_kind=fields.text_or_none("core_kind"),
        affinity=_affinities(fields, "affinity"),
        anti_affinity=_affinities(fields, "anti_affinity"),
        trust_domain=fields.text_or_none("trust_domain"),
        pool=fields.text_or_none("pool"),
    )
