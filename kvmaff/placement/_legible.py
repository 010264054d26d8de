"""
A placement read into plain numbers, for the rules of :mod:`kvmaff.placement.verify`.

Rule 1: a placement comes from strangers. Nothing in it is believed before its type was looked at, exact types only
(a subclass may answer otherwise the next time), and what has another type is a complaint, never a traceback.
Rule 2: what is legible is kept, so that one wrong field hides nothing else. Rules that look at all threads of a
guest together pass over a guest of which a thread is not legible: what follows from that is not said twice.
Rule 3: sets are ints from here on: bit n is CPU n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from kvmaff.cpuset import MAX_CPUS, CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import MAX_VCPUS, GuestSpec
from kvmaff.placement._promise import differences
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest

__all__ = [
    "Case",
    "Complaint",
    "Entry",
    "Place",
    "Thread",
    "cpus_text",
    "names_text",
    "nodes_text",
    "union",
    "who",
]

Complaint = tuple[str | None, str]
"""The guest concerned, or None; and what is wrong."""

_SCORE = tuple(field.name for field in attrs.fields(Score) if field.name != "levels")
_LEVELS = frozenset(_SCORE)
_ALWAYS = frozenset(_SCORE[:5])
_MOST = 1 << 62
_WORD = {Role.VCPU: "vCPU", Role.IOTHREAD: "IOThread", Role.OTHER: "other thread"}
_NAMED = 4  # so many guests are named in a message, the others counted


@attrs.define(eq=False)
class Thread:
    """A thread's role, index and CPUs; not frozen, as that costs as much as all else and placements have thousands."""

    role: Role
    index: int | None
    bits: int


@attrs.frozen(kw_only=True)
class Entry:
    """One guest as the placement has it; the rule ``guests`` compares it with what was asked."""

    spec: GuestSpec
    pid: object
    start: object


@attrs.define(eq=False, kw_only=True)
class Place:
    """
    The place of a guest of the request: the first that the placement gives it, as far as it is legible.

    Not frozen, for what that costs.

    Attributes:
        demand: The guest, as it was asked for.
        spec: What the placement promises it, where that is what was asked for or more; else what was asked for.
        threads: Its legible threads.
        nodes: The nodes that the placement names, or None where that is not legible.
        whole: Whether all its threads are legible.
        vcpus: Those of its threads that are vCPUs.
        pinned: Those of them that are dedicated.
        floating: Those that are not.
        others: Its threads that are no vCPUs.
        vcpu_bits: The CPUs of all its vCPUs.
        pinned_bits: Those of the dedicated ones.
        other_bits: The CPUs of all its other threads.
        cells: The vCPUs of each of its cells; of a guest without, all as one.
    """

    demand: Demand
    spec: GuestSpec
    threads: tuple[Thread, ...]
    nodes: tuple[int, ...] | None
    whole: bool
    vcpus: tuple[Thread, ...]
    pinned: tuple[Thread, ...]
    floating: tuple[Thread, ...]
    others: tuple[Thread, ...]
    vcpu_bits: int
    pinned_bits: int
    other_bits: int
    cells: Sequence[Sequence[Thread]]

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.spec.name

    @property
    def bits(self) -> int:
        """The CPUs of all its threads."""
        return self.vcpu_bits | self.other_bits

    def complain(self, threads: Iterable[Thread], bits: int, why: str) -> Complaint:
        """Return a complaint about some CPUs of some of its threads: of those that have one of the CPUs."""
        return (
            self.name,
            f"guest {self.name!r}: {who(t for t in threads if t.bits & bits)} on {cpus_text(bits)}, {why}",
        )


class Case:
    """
    A request and an answer to it, read once for all rules.

    Args:
        request: What was asked.
        placement: The answer; anything at all.

    Attributes:
        request: What was asked.
        shape: What has a wrong type.
        readable: Whether the answer has guests at all.
        entries: The guests of the answer, asked for or not, as often as they occur.
        places: The first place of each guest that was asked for, in order of the answer.
        online: The host's online CPUs.
        isolated: Its domain-isolated CPUs.
        held_alone: CPUs that are dedicated to guests outside the request.
        held_too: CPUs that guests outside the request use, of which others may too.
        nodes: (number, CPUs) of each NUMA node; a CPU that several name, as buggy firmware has it, is in the first.
    """

    def __init__(self, request: PlacementRequest, placement: object) -> None:
        self.request = request
        self.shape: list[Complaint] = []
        self.entries: list[Entry] = []
        self.places: list[Place] = []
        topology = request.host.topology
        self._columns = request.host.columns
        self.online = topology.online.bits
        self.isolated = request.host.isolation.unbalanced.bits
        self.held_alone, self.held_too = request.taken
        self.nodes: list[tuple[int, int]] = []
        seen = 0
        for node in topology.nodes:
            bits = node.cpus.bits
            self.nodes.append((node.number, bits & ~seen))
            seen |= bits
        self.readable = self._read(placement)
        self._once = self._twice = 0  # CPUs that some place has, and those that two have
        for place in self.places:
            self._twice |= self._once & place.bits
            self._once |= place.bits

    # -- what rules ask

    def core_of(self, bit: int) -> int:
        """Return the PUs of a PU's core; a PU of which the host does not say is a core of its own."""
        return self._columns.core_at.get(bit.bit_length() - 1, bit)

    def cores_of(self, bits: int) -> int:
        """Return all PUs of the cores that have any of some PUs."""
        return self._columns.cores_of(bits)

    def used_by_others(self, place: Place, bits: int) -> int:
        """Return those of some CPUs that a thread of another guest of the placement may use."""
        return bits & (self._twice | self._once & ~place.bits)

    def placed_on(self, bits: int, *, but: Place) -> list[str]:
        """Return the other guests of the placement that may use one of some CPUs."""
        return [place.name for place in self.places if place is not but and place.bits & bits]

    def holders(self, bits: int) -> list[str]:
        """Return the guests outside the request that use one of some CPUs."""
        return [held.name for held in self.request.held if held.cpus.bits & bits]

    def nodes_of(self, bits: int) -> list[tuple[int, int]]:
        """Return (node, how many of some CPUs it has) for the nodes that have any, ascending."""
        return sorted((number, count) for number, cpus in self.nodes if (count := (cpus & bits).bit_count()))

    # -- reading

    def _read(self, placement: object) -> bool:
        if type(placement) is not Placement:
            self._wrong(None, "the answer", placement, "a Placement")
            return False
        if type(_field(placement, "strategy")) is not str:
            self._wrong(None, "strategy", _field(placement, "strategy"), "a str")
        guests = _field(placement, "guests")
        if type(guests) is not tuple:
            self._wrong(None, "guests", guests, "a tuple")
            return False
        demands = {demand.spec.name: demand for demand in self.request.demands}
        for at, guest in enumerate(guests):
            if type(guest) is not GuestPlacement:
                self._wrong(None, f"guests[{at}]", guest, "a GuestPlacement")
                continue
            spec = _field(guest, "spec")
            if type(spec) is not GuestSpec or type(_field(spec, "name")) is not str:
                self._wrong(None, f"guests[{at}].spec", spec, "a GuestSpec with a name")
                continue
            self.entries.append(Entry(spec=spec, pid=_field(guest, "pid"), start=_field(guest, "start")))
            demand = demands.pop(spec.name, None)  # what nobody asked for is reported, and not looked at
            if demand is not None:
                self.places.append(self._place(demand, spec, guest))
        return True

    def _place(self, demand: Demand, promised: GuestSpec, guest: GuestPlacement) -> Place:
        name = demand.spec.name
        said = _field(guest, "threads")
        before = len(self.shape)
        threads: list[Thread] = []
        if type(said) is tuple:
            threads = [thread for at, one in enumerate(said) if (thread := self._thread(name, at, one))]
        else:
            self._wrong(name, "threads", said, "a tuple")
        whole = len(self.shape) == before
        nodes = _field(guest, "nodes")
        if type(nodes) is not tuple or not all(_is_number(node, 1 << 31) for node in nodes):
            self._wrong(name, "nodes", nodes, "a tuple of node numbers")
            nodes = None
        score = _field(guest, "score")
        if type(score) is not Score or not _is_score(score):
            self._wrong(name, "score", score, "a Score of integers from 0")
        owned = _field(guest, "owned")
        if type(owned) is not CpuSet or type(_field(owned, "bits")) is not int:
            self._wrong(name, "owned", owned, "a CpuSet")
        why = _field(guest, "why")
        if type(why) is not tuple or any(type(sentence) is not str for sentence in why):
            self._wrong(name, "why", why, "a tuple of str")
        spec = demand.spec if differences(demand.spec, promised) else promised
        own = frozenset(spec.pinned)
        vcpus: list[Thread] = []
        others: list[Thread] = []
        vcpu_bits = other_bits = 0
        for thread in threads:
            if thread.role is Role.VCPU:
                vcpus.append(thread)
                vcpu_bits |= thread.bits
            else:
                others.append(thread)
                other_bits |= thread.bits
        pinned = [thread for thread in vcpus if thread.index in own]
        rest = len(pinned) < len(vcpus)
        return Place(
            demand=demand,
            spec=spec,
            threads=tuple(threads),
            nodes=nodes,
            whole=whole,
            vcpus=tuple(vcpus),
            pinned=tuple(pinned),
            floating=tuple(thread for thread in vcpus if thread.index not in own) if rest else (),
            others=tuple(others),
            vcpu_bits=vcpu_bits,
            pinned_bits=union(pinned) if rest else vcpu_bits,
            other_bits=other_bits,
            cells=_in_cells(spec, vcpus) if spec.cells else (vcpus,),
        )

    def _thread(self, guest: str, at: int, said: object) -> Thread | None:
        if type(said) is not ThreadPlacement:
            self._wrong(guest, f"threads[{at}]", said, "a ThreadPlacement")
            return None
        role, index, cpus = _field(said, "role"), _field(said, "index"), _field(said, "cpus")
        bits = _field(cpus, "bits") if type(cpus) is CpuSet else None
        if (
            type(role) is Role
            and (index is None or (type(index) is int and 0 <= index < MAX_VCPUS))
            and type(bits) is int
            and bits >= 0
            and not bits >> MAX_CPUS
        ):
            return Thread(role, index, bits)
        self._wrong_thread(guest, at, role, index, cpus, bits)
        return None

    def _wrong_thread(
        self, guest: str, at: int, role: object, index: object, cpus: object, bits: object
    ) -> None:
        if type(role) is not Role:
            self._wrong(guest, f"threads[{at}].role", role, "a Role")
        if index is not None and not _is_number(index, MAX_VCPUS):
            self._wrong(guest, f"threads[{at}].index", index, f"None or a number below {MAX_VCPUS}")
        if type(bits) is not int or bits < 0 or bits >> MAX_CPUS:
            self._wrong(guest, f"threads[{at}].cpus", cpus, "a CpuSet")

    def _wrong(self, guest: str | None, where: str, what: object, wanted: str) -> None:
        whose = "" if guest is None else f"guest {guest!r}: "
        # a foreign value is not printed: it may be endless, or raise
        shown = f"{what}" if _is_number(what, 1 << 31) else f"a value of type {type(what).__name__}"
        self.shape.append((guest, f"{whose}{where} must be {wanted}, not {shown}"))


def _field(value: object, name: str) -> object:
    """Return a field of a value, or None where nobody set it."""
    return getattr(value, name, None)


def _in_cells(spec: GuestSpec, vcpus: Sequence[Thread]) -> list[list[Thread]]:
    """Return the vCPUs of each cell."""
    cell_of = {vcpu: number for number, cell in enumerate(spec.cells) for vcpu in cell.vcpus}
    found: list[list[Thread]] = [[] for _ in spec.cells]
    for thread in vcpus:
        number = cell_of.get(-1 if thread.index is None else thread.index)
        if number is not None:  # else it is no vCPU of this guest, which is the rule threads' business
            found[number].append(thread)
    return found


def union(threads: Iterable[Thread]) -> int:
    """Return the CPUs of some threads."""
    bits = 0
    for thread in threads:
        bits |= thread.bits
    return bits


def _is_score(score: object) -> bool:
    """Whether a score's levels are numbers, or None where they need none, and what counts of them is there."""
    levels = _field(score, "levels")
    if type(levels) is not tuple:
        return False
    for level in levels:
        if type(level) is not str or level not in _LEVELS or _field(score, level) is None:
            return False
    for level in _SCORE:
        value = _field(score, level)
        if value is None:
            if level in _ALWAYS:
                return False
        elif type(value) is not int or not 0 <= value < _MOST:
            return False
    return True


def _is_number(value: object, end: int) -> bool:
    return type(value) is int and 0 <= value < end


# -- words


def who(threads: Iterable[Thread] | Iterable[tuple[Role, int | None]]) -> str:
    """Return some threads of one guest in words: ``vCPU 0-3, emulator``."""
    by_role: dict[Role, set[int | None]] = {}
    for thread in threads:
        role, index = (thread.role, thread.index) if isinstance(thread, Thread) else thread
        by_role.setdefault(role, set()).add(index)
    words = []
    for role in Role:
        if role in by_role:
            word = _WORD.get(role, role.value)
            indexes = by_role[role]
            if None in indexes:
                words.append(word)
            numbers = CpuSet(index for index in indexes if index is not None)  # for its ranges
            if numbers:
                words.append(f"{word} {numbers}")
    return ", ".join(words)


def cpus_text(bits: int) -> str:
    """Return some CPUs in words: ``CPU 3``, ``CPUs 0-3``, ``no CPU``."""
    if not bits:
        return "no CPU"
    return f"{'CPU' if bits.bit_count() == 1 else 'CPUs'} {CpuSet.from_bits(bits)}"


def names_text(names: Sequence[str]) -> str:
    """Return some guests in words, few by name."""
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def nodes_text(nodes: Iterable[int]) -> str:
    """Return some NUMA nodes in words: ``node 0``, ``nodes 0, 2``, ``no node``."""
    numbers = [str(node) for node in nodes]
    if not numbers:
        return "no node"
    return f"{'node' if len(numbers) == 1 else 'nodes'} {', '.join(numbers)}"
