"""
Inputs for property tests, as hypothesis strategies; import this module as ``st``.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

from hypothesis import strategies as hs

from kvmaff.cpuset import MAX_CPUS, CpuSet

__all__ = ["cpu_sets", "cpulist_texts", "cpus"]


def cpus(limit: int = MAX_CPUS) -> hs.SearchStrategy[int]:
    """
    CPU numbers.

    Args:
        limit: They lie below it.

    Returns:
        A strategy; small numbers and the edges of 64-bit words come more often than chance has it.
    """
    edges = [cpu for cpu in (0, 1, 31, 32, 63, 64, 1023, 1024, 1025, limit - 1) if cpu < limit]
    return hs.one_of(hs.integers(0, min(limit, 64) - 1), hs.sampled_from(edges), hs.integers(0, limit - 1))


def cpu_sets(limit: int = MAX_CPUS, *, least: int = 0) -> hs.SearchStrategy[CpuSet]:
    """
    CPU sets: scattered CPUs, and unions of runs as machines have them.

    Args:
        limit: CPU numbers lie below it.
        least: How many CPUs at least.

    Returns:
        A strategy.
    """
    runs = hs.lists(hs.tuples(cpus(limit), hs.integers(1, 130)), min_size=min(least, 1), max_size=6).map(
        lambda pairs: CpuSet(cpu for first, size in pairs for cpu in range(first, min(first + size, limit)))
    )
    scattered = hs.frozensets(cpus(limit), min_size=least, max_size=40).map(CpuSet)
    return hs.one_of(scattered, runs).filter(lambda cpu_set: len(cpu_set) >= least)


@hs.composite
def cpulist_texts(draw: hs.DrawFn) -> tuple[str, frozenset[int]]:
    """
    Cpulists as people and kernels write them: overlapping, unordered, with strides, zeros and blanks.

    Returns:
        A strategy of (text, the CPUs it names).
    """
    items, named = [], set()
    for first, size, used, more in draw(
        hs.lists(
            hs.tuples(cpus(), hs.integers(0, 200), hs.integers(1, 9), hs.integers(0, 9)),
            min_size=1,
            max_size=6,
        )
    ):
        last = min(first + size, MAX_CPUS - 1)
        group = used + more
        shape = draw(hs.sampled_from(["one", "range", "stride"]))
        zeros = draw(hs.sampled_from(["", "0", "00"]))
        if shape == "one":
            items.append(f"{zeros}{first}")
            named.add(first)
        elif shape == "range":
            items.append(f"{zeros}{first}-{last}")
            named |= set(range(first, last + 1))
        else:
            items.append(f"{first}-{last}:{used}/{group}")
            named |= {cpu for cpu in range(first, last + 1) if (cpu - first) % group < used}
    comma = draw(hs.sampled_from([",", ", ", " ,\t"]))
    end = draw(hs.sampled_from(["", "\n", "\n\0", " \n", "\0"]))
    return comma.join(items) + end, frozenset(named)
