"""
Guests for property tests, as hypothesis strategies.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

from hypothesis import strategies as hs

from kvmaff.guest.spec import (
    Affinity,
    EmulatorPolicy,
    GuestCell,
    GuestSpec,
    Place,
    ThreadPolicy,
    VcpuPolicy,
)

__all__ = ["dedicated_vcpus", "guest_names", "guest_spec_lists", "guest_specs"]

_MIB = 1 << 20
_ADDRESSES = ("0000:65:00.0", "0000:65:00.1", "10000:e1:00.0")


def guest_names() -> hs.SearchStrategy[str]:
    """
    Exact names of guests: plain ones, and all that is printable.

    Returns:
        A strategy; no name is a pattern or a selector.
    """
    plain = hs.text(alphabet="abcxyz019-_.", min_size=1, max_size=12)
    # Unicode's versions differ in what is assigned, so that the last word is Python's
    printable = hs.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="*?[").filter(
        str.isprintable
    )
    odd = hs.text(printable, min_size=1, max_size=12)
    return hs.one_of(plain, odd).filter(lambda name: not name.startswith(("pid:", "uuid:")))


def guest_specs(
    *,
    most_vcpus: int = 16,
    nodes: int = 4,
    policy: VcpuPolicy | None = None,
    name: hs.SearchStrategy[str] | None = None,
) -> hs.SearchStrategy[GuestSpec]:
    """
    Valid specs: unequal cells, guest threads, vCPUs still to be plugged in, every combination of policies.

    Args:
        most_vcpus: ``max_vcpus`` is at most this.
        nodes: Devices hang on nodes below this.
        policy: The vCPU policy; None for any.
        name: Names; None for any.

    Returns:
        A strategy.
    """
    return _specs(most_vcpus, nodes, policy, guest_names() if name is None else name)


@hs.composite
def _specs(
    draw: hs.DrawFn, most_vcpus: int, nodes: int, policy: VcpuPolicy | None, name: hs.SearchStrategy[str]
) -> GuestSpec:
    vcpu_policy = policy or draw(hs.sampled_from(VcpuPolicy))
    dedicated = vcpu_policy is not VcpuPolicy.SHARED
    threads = draw(hs.sampled_from([each for each in (1, 1, 2, 4) if each <= most_vcpus]))
    max_vcpus = threads * draw(hs.integers(1, most_vcpus // threads))
    own: tuple[int, ...] = ()
    if vcpu_policy is VcpuPolicy.MIXED:
        if max_vcpus == 1:
            vcpu_policy = VcpuPolicy.DEDICATED
        else:
            own = draw(dedicated_vcpus(max_vcpus))
    thread_policies = [ThreadPolicy.PREFER]
    if dedicated and not own and max_vcpus % 2 == 0:
        thread_policies.append(ThreadPolicy.REQUIRE)
    if dedicated and threads == 1:
        thread_policies.append(ThreadPolicy.ISOLATE)
    emulator_policies = [each for each in EmulatorPolicy if dedicated or each is not EmulatorPolicy.ISOLATE]
    cells = draw(_cells(max_vcpus))
    in_cells = sum(cell.memory_bytes for cell in cells)
    memory = draw(hs.sampled_from([0, in_cells]) if in_cells else _memory())
    page = draw(hs.sampled_from((0, 0, 0, _MIB, 2 * _MIB)))
    if (
        not (memory or in_cells)
        or memory % (page or 1)
        or any(cell.memory_bytes % (page or 1) for cell in cells)
    ):
        page = 0
    called = draw(name)
    return GuestSpec(
        name=called,
        uuid=draw(hs.none() | hs.uuids().map(str)),
        vcpus=draw(hs.just(max_vcpus) | hs.integers(1, max_vcpus)),
        max_vcpus=max_vcpus,
        threads=threads,
        memory_bytes=memory,
        cells=cells,
        iothreads=tuple(draw(hs.lists(guest_names(), unique=True, max_size=3))),
        device_nodes=tuple(draw(hs.lists(hs.integers(0, nodes - 1), unique=True, max_size=2))),
        vcpu_policy=vcpu_policy,
        thread_policy=draw(hs.sampled_from(thread_policies)),
        emulator_policy=draw(hs.sampled_from(emulator_policies)),
        devices=tuple(draw(hs.lists(hs.sampled_from(_ADDRESSES), unique=True, max_size=2))),
        dedicated_vcpus=own,
        iothread_policy=draw(hs.sampled_from((None, None, *emulator_policies))),
        page_bytes=page,
        core_kind=draw(hs.sampled_from((None, None, "P", "E", "any"))),
        affinity=draw(_affinities(called)),
        anti_affinity=(),
        trust_domain=draw(hs.none() | guest_names()),
        pool=draw(hs.sampled_from((None, None, "fast"))),
    )


def dedicated_vcpus(vcpus: int) -> hs.SearchStrategy[tuple[int, ...]]:
    """
    Which vCPUs of a mixed guest are dedicated.

    Args:
        vcpus: How many it has, two at least.

    Returns:
        A strategy: some of them, not all.
    """
    some = hs.lists(hs.integers(0, vcpus - 1), unique=True, min_size=1, max_size=vcpus - 1)
    return some.map(lambda numbers: tuple(sorted(numbers)))


def _affinities(own: str) -> hs.SearchStrategy[tuple[Affinity, ...]]:
    others = hs.sampled_from(("web", "db", "g1")).filter(lambda name: name != own)
    one = hs.builds(Affinity, guest=others, level=hs.sampled_from(Place))
    return hs.lists(one, max_size=2, unique=True).map(tuple)


def guest_spec_lists(
    *, least: int = 0, most: int = 4, most_vcpus: int = 16, nodes: int = 4, policy: VcpuPolicy | None = None
) -> hs.SearchStrategy[list[GuestSpec]]:
    """
    Specs of several guests, no two with one name or one UUID.

    Args:
        least: How many at least.
        most: How many at most.
        most_vcpus: ``max_vcpus`` of each is at most this.
        nodes: Devices hang on nodes below this.
        policy: The vCPU policy; None for any.

    Returns:
        A strategy.
    """
    return hs.lists(
        guest_specs(most_vcpus=most_vcpus, nodes=nodes, policy=policy),
        min_size=least,
        max_size=most,
        unique_by=(lambda spec: spec.name, lambda spec: spec.uuid or spec.name),
    )


def _memory() -> hs.SearchStrategy[int]:
    """Draw an amount of memory, 0 where it is not said."""
    return hs.one_of(
        hs.just(0), hs.integers(1, 64).map(lambda many: 512 * _MIB * many), hs.integers(1, 1 << 40)
    )


@hs.composite
def _cells(draw: hs.DrawFn, max_vcpus: int) -> tuple[GuestCell, ...]:
    """Draw none, or cells of which every vCPU is in one: in runs, or scattered."""
    home = draw(hs.lists(hs.integers(0, 3), min_size=max_vcpus, max_size=max_vcpus) | hs.none())
    if home is None:
        return ()
    if draw(hs.booleans()):
        home.sort()
    groups = [tuple(vcpu for vcpu in range(max_vcpus) if home[vcpu] == cell) for cell in sorted(set(home))]
    told = draw(hs.booleans())
    return tuple(
        GuestCell(vcpus=group, memory_bytes=draw(hs.integers(1, 64)) * 256 * _MIB if told else 0)
        for group in groups
    )
