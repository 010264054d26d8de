"""
A guest's CPUs as QEMU counts them: ``-smp``.

The rules are QEMU's (hw/core/machine-smp.c), the words of its messages too, so that what is said here is what QEMU
says. In two things it is not followed: its numbers have 32 bits and its parser loses the rest, or ends with SIGFPE;
such numbers are an error here. And where QEMU stops at the first mistake, all are told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from kvmaff.guest.smpfaults import SmpError, SmpFault, SmpKind
from kvmaff.guest.smprules import LEVELS, Accel, SmpRules, Version, smp_rules
from kvmaff.guest.smptext import BITS, FIELDS, read_numbers

__all__ = ["SmpPlace", "SmpReading", "SmpTopology", "read_smp"]


@attrs.frozen(kw_only=True)
class SmpPlace:
    """
    Where in the guest a vCPU is; each number counts within the level above it.

    Attributes:
        drawer: The drawer.
        book: The book.
        socket: The socket.
        die: The die.
        cluster: The cluster.
        module: The module.
        core: The core.
        thread: The thread.
    """

    drawer: int = 0
    book: int = 0
    socket: int = 0
    die: int = 0
    cluster: int = 0
    module: int = 0
    core: int = 0
    thread: int = 0


_PLACES = tuple(field.name for field in attrs.fields(SmpPlace))


@attrs.frozen(kw_only=True)
class SmpTopology:
    """
    What a guest sees.

    Attributes:
        cpus: vCPUs that it starts with.
        maxcpus: vCPUs that it may have: the product of all levels.
        drawers: Drawers.
        books: Books of a drawer.
        sockets: Sockets, of a book where there are books.
        dies: Dies of a socket.
        clusters: Clusters of a die.
        modules: Modules of a cluster, of a die where there are no clusters.
        cores: Cores of the next larger level.
        threads: Threads of a core.

    Raises:
        ValueError: A number that is not positive, or numbers that do not fit together.
    """

    cpus: int
    maxcpus: int
    drawers: int = 1
    books: int = 1
    sockets: int = 1
    dies: int = 1
    clusters: int = 1
    modules: int = 1
    cores: int = 1
    threads: int = 1

    def __attrs_post_init__(self) -> None:
        if any(getattr(self, field) < 1 for field in FIELDS):
            raise ValueError("every number of a topology is 1 or more")
        if math.prod(self.counts) != self.maxcpus or self.cpus > self.maxcpus:
            raise ValueError(
                f"{self.counts} make {math.prod(self.counts)} vCPUs, of {self.cpus} up to {self.maxcpus}"
            )

    @classmethod
    def parse(
        cls,
        text: str | Sequence[str],
        machine: str | SmpRules = "q35",
        qemu: Version | None = None,
        accel: Accel = "kvm",
    ) -> SmpTopology:
        """
        Read what stands behind ``-smp``.

        Args:
            text: The text; several where it is given several times, of which the later ones win, key by key.
            machine: The machine type, as ``pc-q35-7.2``, or its rules.
            qemu: The binary's version, as (7, 2); None for that of the machine type.
            accel: ``kvm`` or ``tcg``.

        Returns:
            What the guest sees.

        Raises:
            SmpError: QEMU refuses it; also where QEMU's numbers would wrap.
            WrongUsage: The machine type is not known.
        """
        rules = machine if isinstance(machine, SmpRules) else smp_rules(machine, qemu, accel)
        return read_smp(text, rules).topology

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of all levels, the largest level first."""
        return tuple(getattr(self, level) for level in LEVELS)

    def format(self, levels: Iterable[str] = ()) -> str:
        """
        Write it so that every QEMU reads the same.

        Args:
            levels: Levels that are to be named though they are 1.

        Returns:
            The text for ``-smp``: every level that is not 1, and sockets, cores and threads in any case.
        """
        named = {"sockets", "cores", "threads", *levels}
        words = [f"cpus={self.cpus}", f"maxcpus={self.maxcpus}"][: 1 + (self.maxcpus != self.cpus)]
        words += [
            f"{level}={count}"
            for level, count in zip(LEVELS, self.counts, strict=True)
            if count != 1 or level in named
        ]
        return ",".join(words)

    def place(self, vcpu: int) -> SmpPlace:
        """
        Say where a vCPU is: threads innermost.

        Args:
            vcpu: Its index, below ``maxcpus``.

        Returns:
            Its place.

        Raises:
            IndexError: There is no such vCPU.
        """
        if not 0 <= vcpu < self.maxcpus:
            raise IndexError(f"vCPUs are 0 to {self.maxcpus - 1}, there is no {vcpu}")
        numbers = []
        for count in reversed(self.counts):
            vcpu, number = divmod(vcpu, count)
            numbers.append(number)
        return SmpPlace(**dict(zip(_PLACES, reversed(numbers), strict=True)))

    def index(self, place: SmpPlace) -> int:
        """
        Say which vCPU is at a place.

        Args:
            place: The place.

        Returns:
            Its index.
        """
        index = 0
        for count, number in zip(self.counts, attrs.astuple(place), strict=True):
            index = index * count + number
        return index

    def apic_id(self, vcpu: int) -> int:
        """
        Say which APIC id a vCPU of an x86 guest has: every level takes whole bits.

        Args:
            vcpu: Its index.

        Returns:
            The id.

        Raises:
            IndexError: There is no such vCPU.
        """
        place, apic, shift = self.place(vcpu), 0, 0
        for level, name in (("threads", "thread"), ("cores", "core"), ("modules", "module"), ("dies", "die")):
            apic |= getattr(place, name) << shift
            shift += (getattr(self, level) - 1).bit_length()
        return apic | place.socket << shift


@attrs.frozen(kw_only=True)
class SmpReading:
    """
    What a text says, and how it comes to that.

    Attributes:
        topology: What the guest sees.
        rules: The rules it was read by.
        given: What the text itself says: (word, number), in QEMU's order.
        why: (word, sentence) for every number, given or not.
        warnings: What QEMU warns of, or should.
    """

    topology: SmpTopology
    rules: SmpRules
    given: tuple[tuple[str, int], ...]
    why: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()


def read_smp(text: str | Sequence[str], rules: SmpRules) -> SmpReading:
    """
    Read what stands behind ``-smp``, and say why it means what it means.

    Args:
        text: The text; several where it is given several times, of which the later ones win, key by key.
        rules: The machine's rules.

    Returns:
        What it says.

    Raises:
        SmpError: QEMU refuses it; also where QEMU's numbers would wrap.
    """
    texts = [text] if isinstance(text, str) else list(text)
    whole = " ".join(texts)
    given, faults = read_numbers(texts, rules)
    if not faults:
        faults = [*_zeros(given, rules), *_unsupported(given, rules)]
    if faults:
        raise SmpError.about(whole, faults)
    warnings = _warnings(given, rules)
    given = {word: number for word, number in given.items() if number}
    counts, why = _counted(given, rules)
    faults = list(_misfits(counts, rules))
    if faults:
        raise SmpError.about(whole, faults)
    return SmpReading(
        topology=SmpTopology(**counts),
        rules=rules,
        given=tuple(given.items()),
        why=tuple((word, why[word]) for word in ("cpus", "maxcpus", *rules.levels)),
        warnings=warnings,
    )


# -- what is given


def _zeros(given: Mapping[str, int], rules: SmpRules) -> Iterable[SmpFault]:
    zeros = [word for word, number in given.items() if not number]
    if zeros and rules.strict:
        yield SmpFault(
            SmpKind.ZERO,
            "Invalid CPU topology: CPU topology parameters must be greater than zero",
            f"{', '.join(zeros)} {'are' if len(zeros) > 1 else 'is'} 0",
        )


def _unsupported(given: Mapping[str, int], rules: SmpRules) -> Iterable[SmpFault]:
    swapped = rules.qemu < (9, 1)
    order = ("modules", *(("dies", "clusters") if swapped else ("clusters", "dies")), "books", "drawers")
    more = " > 1" if rules.qemu >= (9, 0) else ""
    for level in order:
        if level not in rules.levels and given.get(level, 0) > 1:
            yield SmpFault(
                SmpKind.UNSUPPORTED,
                f"{level}{more} not supported by this machine's CPU topology",
                f"{rules.machine} has {', '.join(rules.levels)}",
            )


def _warnings(given: Mapping[str, int], rules: SmpRules) -> tuple[str, ...]:
    found = []
    if not all(given.values()):
        found.append(
            "Deprecated CPU topology (considered invalid): CPU topology parameters must be greater than zero; "
            "what is 0 counts as not given, and is an error since QEMU 9.0"
        )
    if (9, 0) <= rules.qemu < (9, 2):
        found += [
            f"Deprecated CPU topology (considered invalid): Unsupported {level} parameter mustn't be specified as 1"
            for level in rules.words
            if level not in rules.levels and given.get(level) == 1
        ]
    counted = given.get("cpus") or given.get("maxcpus")
    if counted and counted > 1 and not given.get("sockets") and not given.get("cores"):
        found.append(
            "neither sockets nor cores are given: machine types up to 6.1 count sockets then, later ones cores"
        )
    return tuple(found)


# -- what is counted


def _counted(given: Mapping[str, int], rules: SmpRules) -> tuple[dict[str, int], dict[str, str]]:
    counts = {level: given.get(level, 0) for level in LEVELS}
    why = dict.fromkeys(given, "given")

    def one(level: str, sentence: str) -> None:
        if not counts[level]:
            counts[level], why[level] = 1, sentence

    for level in LEVELS:
        if level not in {"sockets", "cores", "threads"}:
            one(level, "1 where it is not given; it is never counted")
    total = given.get("maxcpus") or given.get("cpus") or 0
    if not total:
        for level in ("sockets", "cores", "threads"):
            one(level, "1: neither cpus nor maxcpus is given")
        total = math.prod(counts.values())
        why["maxcpus"] = "the product of all levels"
    else:
        said = "maxcpus" if "maxcpus" in given else "cpus"
        why.setdefault("maxcpus", "as many as cpus")
        first, second = ("sockets", "cores") if rules.prefer_sockets else ("cores", "sockets")
        before = "up to 6.1" if rules.prefer_sockets else "since 6.2"
        rest = ""
        if not counts[first]:
            one(second, f"1: {first} are counted, which machine types {before} prefer")
            rest = first
        elif not counts[second]:
            rest = second
        if rest:
            one("threads", f"1: {rest} are counted")
        elif not counts["threads"]:
            rest = "threads"
        if rest:
            others = math.prod(count for level, count in counts.items() if level != rest)
            counts[rest] = total // others
            why[rest] = f"{said} ({total}) divided by all other levels ({others})"
    why.setdefault("cpus", "as many as maxcpus")
    return {**counts, "maxcpus": total, "cpus": given.get("cpus") or total}, why


def _misfits(counts: Mapping[str, int], rules: SmpRules) -> Iterable[SmpFault]:
    product = math.prod(counts[level] for level in LEVELS)
    cpus, most = counts["cpus"], counts["maxcpus"]
    partial = _partial(counts)
    if partial >= BITS:
        # what is 0 could not be counted: the total is divided by this product, which does not fit
        given = " * ".join(f"{level} ({counts[level]})" for level in rules.levels if counts[level])
        yield SmpFault(
            SmpKind.OVERFLOW,
            f"{given} make {partial} vCPUs",
            "QEMU counts in 32 bits: it ends with SIGFPE, or takes another number",
        )
        return
    shown = " * ".join(f"{level} ({counts[level]})" for level in rules.levels)
    if product != most:
        yield SmpFault(
            SmpKind.PRODUCT,
            f"Invalid CPU topology: product of the hierarchy must match maxcpus: {shown} != maxcpus ({most})",
            f"they make {product}",
        )
        return
    if most < cpus:
        yield SmpFault(
            SmpKind.MAXCPUS,
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
            f"{shown} == maxcpus ({most}) < smp_cpus ({cpus})",
        )
    elif cpus < rules.min_cpus:
        yield SmpFault(
            SmpKind.MIN_CPUS,
            f"Invalid SMP CPUs {cpus}. The min CPUs supported by machine '{rules.machine}' is {rules.min_cpus}",
        )
    elif most > rules.max_cpus:
        yield SmpFault(
            SmpKind.MAX_CPUS,
            f"Invalid SMP CPUs {most}. The max CPUs supported by machine '{rules.machine}' is {rules.max_cpus}",
        )
    elif rules.max_apic_id is not None:
        apic = SmpTopology(**counts).apic_id(most - 1)
        if apic > rules.max_apic_id:
            yield SmpFault(
                SmpKind.APIC_ID,
                "current -smp configuration requires kernel irqchip and X2APIC API support.",
                f"vCPU {most - 1} has the APIC id {apic}, since every level takes whole bits of it",
            )


def _partial(counts: Mapping[str, int]) -> int:
    """The largest product that QEMU divides by: levels that count as 0 are not in it."""
    return math.prod(count for level, count in counts.items() if level in LEVELS and count)
