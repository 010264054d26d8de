"""
Why a guest has no place: what each rule took away, and every single change that would give it one.

Changes are tried, never guessed: each is searched for like the guest itself, with all that a place has to leave for
others.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import ANY_KIND, EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.placement.board import ENDLESS, Board
from kvmaff.placement.candidates import capacity
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import Remedy, Removal, Unplaced
from kvmaff.placement.pool import Cut, cuts, kinds_for, pool_for
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Wants
from kvmaff.placement.search import Search

__all__ = ["refusal"]

_SHOWN_NODES = 8
_GIB = 2**30


def refusal(search: Search, demand: Demand, missing: list[str]) -> Unplaced:
    """
    Say why a guest has no place.

    Args:
        search: The search, with those that have one.
        demand: The guest.
        missing: What contradicts the host, or what its place would take from others; none where it has no room.

    Returns:
        What it asked, what each node has, what would work: in words and as data.
    """
    remedies = tuple(_remedies(search, demand))
    would = [remedy.text for remedy in remedies] or ["nothing like it would fit"]
    removed = tuple(_removed(search, demand))
    if missing:
        return Unplaced(name=demand.spec.name, reasons=(*missing, *would), removed=removed, remedies=remedies)
    words = [_asked(demand.spec, search.objective, search.board), *_have(search, demand)]
    if search.finder.gave_up:
        words.append("the search was too long to prove that there is no place")
    return Unplaced(name=demand.spec.name, reasons=(*words, *would), removed=removed, remedies=remedies)


# -- what was asked, and what there is


def _asked(spec: GuestSpec, objective: Objective, board: Board) -> str:
    count = {"dedicated": f"{spec.max_vcpus} dedicated vCPUs", "shared": f"{spec.max_vcpus} shared vCPUs"}
    mixed = f"{len(spec.pinned)} dedicated and {len(spec.floating)} floating vCPUs"
    words = [f"needs {count.get(spec.vcpu_policy, mixed)}"]
    if spec.pinned and objective.whole_cores:
        words.append("on whole cores")
    if spec.pinned and objective.from_isolated and board.isolated:
        words.append(f"from the isolated CPUs {board.isolated}")
    if spec.pool is not None:
        words.append(f"of CPU pool {spec.pool}")
    if spec.core_kind is not None:
        words.append(f"on cores of kind {spec.core_kind}")
    elif board.kinds:
        words.append("on cores of one kind")
    if spec.thread_policy is not ThreadPolicy.PREFER:
        words.append(f"with thread policy {spec.thread_policy}")
    if spec.own_pus:
        words.append(f"and {spec.own_pus} more for its other threads")
    if spec.cells:
        words.append(
            f"in {len(spec.cells)} cells of {', '.join(str(len(cell.vcpus)) for cell in spec.cells)}"
        )
    memory = _memory(spec)
    if memory and (board.memory[0] or spec.page_bytes):
        pages = f" in pages of {spec.page_bytes >> 10} KiB" if spec.page_bytes else ""
        words.append(f"and {memory / _GIB:.1f} GiB of memory{pages}")
    return " ".join(words)


def _have(search: Search, demand: Demand) -> Iterator[str]:
    """What each node has, and what is in the way there."""
    board, spec = search.board, demand.spec
    pool = pool_for(board, demand, search.objective, floats=not spec.pinned)
    away = list(_away(search, demand))
    room = _room(search, demand, pool)
    for node in board.nodes[:_SHOWN_NODES]:
        free = node.cpus & pool
        words = f"node {node.number} has {len(free)} of {len(node.cpus)} CPUs for it"
        if room[node.number] != len(free):
            words += f", room for {room[node.number]} of its vCPUs"
        memory = board.free_memory(spec, node.number)
        if demand.pid is None and _memory(spec) and memory != ENDLESS:
            words += f" and {memory / _GIB:.1f} GiB of memory free"
        why = [text.format(node.cpus & cpus) for text, cpus in away if node.cpus & cpus]
        yield words + (f" ({'; '.join(why)})" if why else "")
    if len(board.nodes) > _SHOWN_NODES:
        rest = CpuSet.union_of(node.cpus for node in board.nodes[_SHOWN_NODES:])
        yield f"the other {len(board.nodes) - _SHOWN_NODES} nodes have {len(rest & pool)} CPUs for it"
    offline = board.request.host.topology.offline
    if offline:
        yield f"CPUs {offline} are offline"


_TEXT = {
    "cgroup": "{} not granted by its cgroup",
    "reserved": "{} reserved",
    "pool": "{} in another CPU pool",
    "core_kind": "{} of another kind",
}


def _away(search: Search, demand: Demand) -> Iterator[tuple[str, CpuSet]]:
    """What is in the way of a guest: a text for the CPUs of a node, and the CPUs."""
    inside = {one.spec.name for one in search.board.request.demands}
    for cut in _cuts(search, demand):
        if cut.rule == "isolated":
            away = cut.cpus == search.board.isolated
            yield "{} isolated" if away else "{} not isolated", cut.cpus
        elif cut.by is None:
            yield _TEXT[cut.rule], cut.cpus
        else:
            name = cut.by.replace("{", "{{").replace("}", "}}")
            outside = "" if cut.by in inside else ", which is not part of this request"
            yield (
                {
                    "dedicated": f"{{}} belong to {name} alone",
                    "used": f"{{}} used by {name}{outside}",
                    "trust_domain": f"{{}} on cores of {name}, of another trust domain",
                    "affinity": f"{{}} away from {name}",
                    "anti_affinity": f"{{}} too near to {name}",
                }[cut.rule],
                cut.cpus,
            )


def _cuts(search: Search, demand: Demand) -> Iterator[Cut]:
    """All cuts; where a guest wants one kind of core, the other kinds, too."""
    board, spec = search.board, demand.spec
    yield from (cut for cut in cuts(board, demand, search.objective, floats=not spec.pinned) if cut.cpus)
    if board.kinds and spec.core_kind not in (None, ANY_KIND):
        mine = CpuSet.union_of(kind.cpus for kind in kinds_for(board, spec) if kind is not None)
        yield Cut(rule="core_kind", cpus=board.online - mine)


def _room(search: Search, demand: Demand, pool: CpuSet) -> dict[int, int]:
    wants = Wants.of(
        attrs.evolve(demand.spec, cells=()),
        search.objective,
        free=pool,
        reach=pool,
        vcpus=demand.spec.max_vcpus,
    )
    return capacity(search.board, wants[0])


def _removed(search: Search, demand: Demand) -> Iterator[Removal]:
    """What each rule took away, and which nodes and L3 groups were empty after it."""
    board = search.board
    left = board.online

    def empty(pool: CpuSet) -> tuple[set[int], set[CpuSet]]:
        nodes = {node.number for node in board.nodes if node.cpus.isdisjoint(pool)}
        return nodes, {group for group in board.l3 if group.isdisjoint(pool)}

    gone = empty(left)
    for cut in _cuts(search, demand):
        left -= cut.cpus
        now = empty(left)
        yield _removal(board, cut.rule, cut.by, cut.cpus, gone, now)
        gone = now
    pool = left
    useless = CpuSet.union_of(
        core & pool for core in board.cores if core & pool and not _usable(search, demand, core, pool)
    )
    if useless:
        now = empty(pool - useless)
        yield _removal(board, "cores", None, useless, gone, now)
        gone, pool = now, pool - useless
    spec = demand.spec
    if demand.pid is None and _memory(spec):
        cells = [cell.memory_bytes for cell in spec.cells if cell.memory_bytes]
        least = min(cells) if cells else spec.memory_bytes // spec.max_vcpus
        poor = CpuSet.union_of(
            node.cpus & pool for node in board.nodes if board.free_memory(spec, node.number) < least
        )
        if poor:
            yield _removal(board, "memory", None, poor, gone, empty(pool - poor))


def _memory(spec: GuestSpec) -> int:
    return spec.memory_bytes or sum(cell.memory_bytes for cell in spec.cells)


def _usable(search: Search, demand: Demand, core: CpuSet, pool: CpuSet) -> bool:
    """Whether a core takes any vCPU of a guest."""
    (wants, *more) = Wants.of(
        attrs.evolve(demand.spec, cells=()), search.objective, free=pool, reach=pool, vcpus=1
    )
    last = more[-1] if more else wants
    free = len(core & pool)
    return free >= last.unit and not (last.whole and free < len(core))


def _removal(
    board: Board,
    rule: str,
    by: str | None,
    cpus: CpuSet,
    before: tuple[set[int], set[CpuSet]],
    after: tuple[set[int], set[CpuSet]],
) -> Removal:
    nodes = after[0] - before[0]
    inside = CpuSet.union_of(node.cpus for node in board.nodes if node.number in nodes)
    groups = [group for group in after[1] - before[1] if not group <= inside]
    return Removal(
        rule=rule,
        by=by,
        cpus=cpus,
        nodes=tuple(sorted(nodes)),
        l3_groups=tuple(sorted(groups, key=lambda group: group.first)),
    )


# -- what would work


def _remedies(search: Search, demand: Demand) -> Iterator[Remedy]:
    """Every single change with which the guest would have a place, the smallest first."""
    spec = demand.spec
    yield from _policies(search, demand)
    if search.objective.from_isolated and search.board.isolated and spec.pinned:
        other = search.wanting(attrs.evolve(search.objective, from_isolated=False))
        if _fits(other, demand):
            yield Remedy(
                what="option",
                to="anywhere=yes",
                text="cores that are not isolated would hold its vCPUs (option anywhere=yes)",
            )
    yield from _out_of_the_way(search, demand)
    count = _fewer(search, demand)
    if count:
        cells = " without its cells" if spec.cells else ""
        yield Remedy(
            what="vcpus", to=str(count), text=f"{count} vCPU{'' if count == 1 else 's'} would fit{cells}"
        )
    if spec.pinned:
        shared = _changed(
            demand,
            vcpu_policy=VcpuPolicy.SHARED,
            dedicated_vcpus=(),
            thread_policy=ThreadPolicy.PREFER,
            emulator_policy=EmulatorPolicy.SHARE,
            iothread_policy=None,
        )
        found = "" if contradictions(search.request, shared) else search.fits(shared)
        if not isinstance(found, str):
            yield Remedy(
                what="vcpu_policy", to="shared", text=f"as a shared guest it could float over {found.cpus}"
            )


def _policies(search: Search, demand: Demand) -> Iterator[Remedy]:
    spec = demand.spec
    milder = _changed(demand, thread_policy=ThreadPolicy.PREFER)
    if spec.thread_policy is not ThreadPolicy.PREFER and _fits(search, milder):
        yield Remedy(what="thread_policy", to="prefer", text="it would fit with thread policy prefer")
    yield from _other_threads(search, demand)
    kinds = search.board.kinds and spec.core_kind != ANY_KIND
    if kinds and _fits(search, _changed(demand, core_kind=ANY_KIND)):
        text = "it would fit on cores of several kinds (core kind any)"
        yield Remedy(what="core_kind", to=ANY_KIND, text=text)
    affine = spec.affinity or spec.anti_affinity
    if affine and _fits(search, _changed(demand, affinity=(), anti_affinity=())):
        yield Remedy(what="affinity", to="", text="it would fit without its affinities")
    if spec.pool is not None and _fits(search, _changed(demand, pool=None)):
        yield Remedy(what="pool", to="", text=f"it would fit outside the CPU pool {spec.pool}")
    if spec.page_bytes and _fits(search, _changed(demand, page_bytes=0)):
        yield Remedy(what="page_bytes", to="0", text="it would fit without huge pages")
    if spec.cells or spec.memory_bytes:
        changed = _changed(demand, cells=(), memory_bytes=0, page_bytes=0)
        if _fits(search, changed):
            what = "cells" if spec.cells else "memory"
            words = "cells and memory" if spec.cells else "memory"
            yield Remedy(what=what, to="", text=f"it would fit without its {words}")


def _other_threads(search: Search, demand: Demand) -> Iterator[Remedy]:
    """Milder policies for the emulator, else for the IOThreads, else for both."""
    spec, own, house = demand.spec, EmulatorPolicy.ISOLATE, EmulatorPolicy.HOUSEKEEPING
    asked = {"emulator_policy": spec.emulator_policy, "iothread_policy": spec.iothread_policy}
    strict = tuple(field for field, policy in asked.items() if policy in (own, house))
    found = False
    for fields in ((field,) for field in strict):
        for remedy in _milder(search, demand, fields):
            yield remedy
            found = True
    if not found and len(strict) > 1:
        yield from _milder(search, demand, strict)


def _milder(search: Search, demand: Demand, fields: tuple[str, ...]) -> Iterator[Remedy]:
    words = " and ".join(
        {"emulator_policy": "emulator", "iothread_policy": "IOThread"}[one] for one in fields
    )
    kind = "policies" if len(fields) > 1 else "policy"
    for policy in (EmulatorPolicy.HOUSEKEEPING, EmulatorPolicy.SHARE):
        if policy is EmulatorPolicy.SHARE and search.objective.keeps_house:
            continue  # it would not be shared
        if all(getattr(demand.spec, field) is policy for field in fields):
            continue
        if _fits(search, _changed(demand, **dict.fromkeys(fields, policy))):
            text = f"it would fit with {words} {kind} {policy}"
            yield Remedy(what="+".join(fields), to=str(policy), text=text)
            return


def _out_of_the_way(search: Search, demand: Demand) -> Iterator[Remedy]:
    """The smallest guest without which it would fit."""
    board, spec = search.board, demand.spec
    sizes: dict[str, CpuSet] = {}
    for user in board.users:
        if user.name != spec.name:
            sizes[user.name] = sizes.get(user.name, CpuSet()) | user.cpus
    pool = pool_for(board, demand, search.objective, floats=not spec.pinned)
    least = len(spec.pinned) + spec.own_pus
    for name, cpus in sorted(sizes.items(), key=lambda each: (len(each[1]), each[0])):
        # what cannot be enough is not searched
        if len(pool | cpus) >= least and _fits(search.without(name), demand):
            yield Remedy(what="guest", to=name, text=f"it would fit if {name} were out of the way")
            return


def _fewer(search: Search, demand: Demand) -> int:
    """As many vCPUs as would fit without cells, fewer than asked, as far as a few tries tell; 0 for none."""
    spec = demand.spec
    step = spec.threads
    if spec.thread_policy is ThreadPolicy.REQUIRE:
        step = max(spec.threads, 2)
    pool = pool_for(search.board, demand, search.objective, floats=not spec.pinned)
    top = spec.max_vcpus - 1
    if spec.vcpu_policy is VcpuPolicy.DEDICATED:
        top = min(top, sum(_room(search, demand, pool).values()), len(pool))
    elif spec.pinned:
        return 0  # which of them should go is not ours to say
    # memory stays as much as it is; which cells should shrink is not ours to say
    memory = _memory(spec)
    least, most = 0, top // step  # what fits, and what may: mostly what is smaller fits where something fits
    while least < most:
        middle = (least + most + 1) // 2
        count = middle * step
        fewer = _changed(demand, vcpus=count, max_vcpus=count, cells=(), memory_bytes=memory)
        if _fits(search, fewer):
            least = middle
        else:
            most = middle - 1
    return least * step


def _changed(demand: Demand, **changes: object) -> Demand:
    return attrs.evolve(demand, spec=demand.spec.with_changes(**changes))


def _fits(search: Search, demand: Demand) -> bool:
    return not contradictions(search.request, demand) and not isinstance(search.fits(demand), str)
