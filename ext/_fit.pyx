# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""
The exact fit of one guest: which nodes, which cores, and how many siblings of each.

Integers in, integers out. Here the question is checked and the memory lent out; the answer is found in
_fit_search.pxi (inside a node) and _fit_host.pxi (over nodes), which know no Python and run without the GIL.
"""

from cpython.bytes cimport PyBytes_AsString
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.stdlib cimport free as release
from libc.string cimport memcmp, memset

include "_fit_search.pxi"
include "_fit_host.pxi"

__all__ = ["fit_host"]


cdef enum:
    FARTHEST = 1 << 16  # times 8192 twice is a sum that 64 bits hold
    NEAREST = 1 << 30   # and so is this times 8192
    WORTH = 31          # a PU, and so 8192 of them, in groups and in nodes, are less than 2**LOST


cdef int64_t _number(object value, int64_t least, int64_t most, str field) except -1:
    """Return an integer that was asked for, or say which one is wrong."""
    cdef int overflow = 0
    cdef long long number
    if not isinstance(value, int):
        raise TypeError(f"{field} is an integer, not {value!r}")
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not least <= number <= most:
        raise ValueError(f"{field} is a number from {least} to {most}, not {value}")
    return number


cdef const void *_column(object column, Py_ssize_t count, Py_ssize_t size, str field) except NULL:
    """Return the numbers of a packed column, of which there must be so many."""
    if not isinstance(column, bytes):
        raise TypeError(f"{field} is packed as bytes, not {type(column).__name__}")
    if len(column) != count * size:
        raise ValueError(f"{field} has {len(column)} bytes, {count} numbers of {size} are needed")
    return <const void *>PyBytes_AsString(column)


cdef int _least(const int32_t *column, int count, int least, int most, str field) except -1:
    """Check that numbers are in range."""
    cdef int index
    for index in range(count):
        if not least <= column[index] <= most:
            raise ValueError(f"{field}[{index}] is a number from {least} to {most}, not {column[index]}")
    return 0


cdef int _least_long(const int64_t *column, int count, int64_t most, str field) except -1:
    """Check that numbers are in range, from 0."""
    cdef int index
    for index in range(count):
        if not 0 <= column[index] <= most:
            raise ValueError(f"{field}[{index}] is a number from 0 to {most}, not {column[index]}")
    return 0


cdef int _most(const int *column, int count) noexcept:
    """Return the largest number."""
    cdef int index, most = 0
    for index in range(count):
        most = max(most, column[index])
    return most


cdef int _measure(Host *host, const int32_t *node_of, const int32_t *group_of, int per_core, bint whole) except -1:
    """Number the groups of each node, work out rooms and kinds."""
    cdef Node *all = &host.all
    cdef int *names = all.first  # lent: what a node's groups are called
    cdef int core, place, units, number, total = 0
    cdef int before = -1
    for core in range(all.cores):
        place = node_of[core]
        if place < before:
            raise ValueError(f"node[{core}] is {place}: cores stand node by node")
        if place != before:
            number = 0
            before = place
        if all.free[core] > all.total[core]:
            raise ValueError(f"free[{core}] is {all.free[core]}, more than total[{core}], which is {all.total[core]}")
        total += all.total[core]
        if total > MOST:
            raise ValueError(f"total adds up to more than {MOST} at total[{core}]")
        host.first[place + 1] = core + 1
        if number >= host.groups[place] or names[number] != group_of[core]:
            for number in range(host.groups[place]):
                if names[number] == group_of[core]:
                    break
            else:
                number = host.groups[place]
                names[number] = group_of[core]
                host.groups[place] += 1
        all.group[core] = number
        host.open[place] += all.free[core]
        units = all.free[core]
        if per_core and units > per_core:
            units = per_core
        units //= all.unit
        if all.free[core] < all.total[core]:
            all.kind[core] = SHARED
            if whole:
                units = 0
        elif units * all.unit == all.total[core]:
            all.kind[core] = FILLED
        else:
            all.kind[core] = SPOILT
        all.room[core] = units
        host.room[place] += units
    for place in range(host.nodes):
        if host.first[place + 1] < host.first[place]:
            host.first[place + 1] = host.first[place]
    return 0


def fit_host(vcpus, unit, per_core, bint whole, nodes, cores, node, group, total, free, distance, near, cap, wide,
             accept, sizes=(), need=b"", have=b"", steps=1 << 20):
    """
    Choose how many PUs of each core to take for one guest, at the least cost.

    Columns are packed: bytes of 32-bit integers, those of distance, near, need and have of 64 bits.

    Args:
        vcpus: How many to place, 1 to 8192.
        unit: A core takes a multiple of so many; `vcpus` is one.
        per_core: A core takes at most so many; 0 for no limit.
        whole: Whether only cores whose PUs are all free may be taken from.
        nodes: How many nodes there are, 1 to 64.
        cores: How many cores there are.
        node: For each core the place of its node, ascending.
        group: For each core the L3 group it is in: any numbers, those of a node apart from those of another.
        total: For each core how many PUs it has; 8192 in all at most.
        free: For each core how many of them are free.
        distance: From each node to each, the same both ways; from 1 to 2**16 where they differ.
        near: What each vCPU on a node costs besides, up to 2**30.
        cap: How many vCPUs a node may get at most.
        wide: For each node the number, below 64, of an L3 group that goes beyond it; -1 for none.
        accept: What 0, 1, … 8192 free PUs in one place are worth to guests to come; ascending from 0, at most 31 a PU.
        sizes: The guest's cells, the largest first: how many vCPUs each has. Each is whole in a node.
        need: For each cell what it needs of each resource, such as memory.
        have: For each node what it has of each.
        steps: After so many the search ends with the best so far.

    Returns:
        None where there is no choice at all. Else: (core, PUs taken) for each core that is used, by node; the node of
        each cell; the distances added up; the cost of L3 groups used, cores used that somebody else also uses, cores
        used in part that were all free, and acceptance lost; whether it is proved that nothing costs less, the first
        number counting first.

    Raises:
        ValueError: A number is out of range; says which one.
        TypeError: Something is not an integer, or not packed.
    """
    cdef Host host
    cdef int *ints = NULL
    cdef int64_t *longs = NULL
    cdef uint16_t *shorts = NULL
    cdef int units[MOST_NODES]
    cdef int place, core, cell, count, wanted, most_room = 0, core_limit, other
    cdef int64_t pairs
    cdef const int32_t *node_of
    cdef const int32_t *group_of
    cdef const int32_t *totals
    cdef const int32_t *frees
    cdef const int32_t *caps
    cdef const int32_t *wides
    cdef const int64_t *distances
    cdef const int64_t *nears
    cdef const int64_t *needs
    cdef list size_list = list(sizes), taken = []

    wanted = <int>_number(vcpus, 1, MOST, "vcpus")
    host.unit = <int>_number(unit, 1, MOST, "unit")
    core_limit = <int>_number(per_core, 0, MOST, "per_core")
    host.nodes = <int>_number(nodes, 1, MOST_NODES, "nodes")
    count = <int>_number(cores, 0, MOST, "cores")
    host.steps = host.limit = _number(steps, 1, <int64_t>1 << 40, "steps")
    if wanted % host.unit:
        raise ValueError(f"vcpus is {vcpus}, which is no multiple of unit, {unit}")
    if 0 < core_limit < host.unit:
        raise ValueError(f"per_core is {per_core}, less than unit, {unit}")
    host.cells = <int>_number(len(size_list), 0, MOST_CELLS, "the number of cells")
    node_of = <const int32_t *>_column(node, count, 4, "node")
    group_of = <const int32_t *>_column(group, count, 4, "group")
    totals = <const int32_t *>_column(total, count, 4, "total")
    frees = <const int32_t *>_column(free, count, 4, "free")
    distances = <const int64_t *>_column(distance, host.nodes * host.nodes, 8, "distance")
    nears = <const int64_t *>_column(near, host.nodes, 8, "near")
    caps = <const int32_t *>_column(cap, host.nodes, 4, "cap")
    wides = <const int32_t *>_column(wide, host.nodes, 4, "wide")
    host.all.accept = <const int *>_column(accept, MOST + 1, 4, "accept")
    host.resources = 0
    if host.cells:
        if not isinstance(have, bytes):
            raise TypeError(f"have is packed as bytes, not {type(have).__name__}")
        if len(have) % (8 * host.nodes) or len(have) > 8 * host.nodes * RESOURCES:
            raise ValueError(f"have holds at most {RESOURCES} numbers for each node")
        host.resources = len(have) // (8 * host.nodes)
    needs = <const int64_t *>_column(need, host.cells * host.resources, 8, "need")
    _least(node_of, count, 0, host.nodes - 1, "node")
    _least(totals, count, 0, MOST, "total")
    _least(frees, count, 0, MOST, "free")
    _least(caps, host.nodes, 0, MOST, "cap")
    _least(wides, host.nodes, -1, 63, "wide")
    _least_long(distances, host.nodes * host.nodes, FARTHEST, "distance")
    _least_long(nears, host.nodes, NEAREST, "near")
    _least_long(needs, host.cells * host.resources, <int64_t>1 << 62, "need")
    host.want = wanted // host.unit

    host.memo = host.all.costs = NULL
    host.all.filled_from = NULL
    try:
        # cores: group, total, free, room, kind, core, take; groups: first, limit, ahead, table, open;
        # nodes: first, room, open, groups, wide, alike, cluster, and best and now, which have cells instead where there are any
        ints = <int *>calloc(
            7 * count + 5 * (count + 1) + 8 * (host.nodes + 1) + 2 * (MOST_NODES + MOST_CELLS) + 2 * MOST_CELLS,
            sizeof(int),
        )
        longs = <int64_t *>malloc(
            (host.nodes * (host.nodes + 1) + (host.cells + host.nodes) * host.resources + 1) * sizeof(int64_t)
        )
        if ints == NULL or longs == NULL:
            raise MemoryError
        host.all.cores = count
        host.all.unit = host.unit
        host.all.group = ints
        host.all.total = host.all.group + count
        host.all.free = host.all.total + count
        host.all.room = host.all.free + count
        host.all.kind = host.all.room + count
        host.all.core = host.all.kind + count
        host.all.take = host.all.core + count
        host.all.first = host.all.take + count
        host.all.limit = host.all.first + count + 1
        host.all.ahead = host.all.limit + count + 1
        host.all.table = host.all.ahead + count + 1
        host.all.open = host.all.table + count + 1
        host.first = host.all.open + count + 1
        host.room = host.first + host.nodes + 1
        host.open = host.room + host.nodes
        host.groups = host.open + host.nodes
        host.wide = host.groups + host.nodes
        host.alike = host.wide + host.nodes
        host.cluster = host.alike + host.nodes
        host.best = host.cluster + host.nodes
        host.now = host.best + MOST_NODES + MOST_CELLS
        host.size = host.now + MOST_NODES + MOST_CELLS
        host.cell_alike = host.size + MOST_CELLS
        for core in range(count):
            host.all.total[core] = totals[core]
            host.all.free[core] = frees[core]
        _measure(&host, node_of, group_of, core_limit, whole)
        most_room = _most(host.room, host.nodes)
        if host.all.accept[0]:
            raise ValueError(f"accept[0] is {host.all.accept[0]}, but nothing is worth nothing")
        for place in range(1, _most(host.open, host.nodes) + 1):
            if not host.all.accept[place - 1] <= host.all.accept[place] <= WORTH * place:
                raise ValueError(
                    f"accept[{place}] is {host.all.accept[place]}: it ascends, from 0, by at most {WORTH} a PU in all"
                )
        host.distance = longs
        host.near = host.distance + host.nodes * host.nodes
        host.need = host.near + host.nodes
        host.have = host.need + host.cells * host.resources
        for place in range(host.nodes):
            host.room[place] = min(host.room[place], caps[place] // host.unit)
            host.wide[place] = wides[place]
            host.near[place] = nears[place] * host.unit
            for other in range(host.nodes):
                pairs = distances[place * host.nodes + other]
                if place != other and pairs < 1:
                    raise ValueError(f"distance from {place} to {other} is {pairs}, but they are not one node")
                if place != other and pairs != distances[other * host.nodes + place]:
                    raise ValueError(
                        f"distance from {place} to {other} is {pairs}, "
                        f"but {distances[other * host.nodes + place]} the other way"
                    )
                host.distance[place * host.nodes + other] = 0 if place == other else pairs * host.unit * host.unit
            for other in range(host.resources):
                host.have[place * host.resources + other] = (<const int64_t *>PyBytes_AsString(have))[
                    place * host.resources + other
                ]
        for cell in range(host.cells):
            other = <int>_number(size_list[cell], 1, MOST, f"sizes[{cell}]")
            if other % host.unit:
                return None  # it would tear siblings apart
            wanted -= other
            host.size[cell] = other // host.unit
            host.cell_alike[cell] = cell
            for other in range(host.resources):
                host.need[cell * host.resources + other] = needs[cell * host.resources + other]
            if cell:
                if host.size[cell] > host.size[cell - 1]:
                    raise ValueError(f"sizes[{cell}] is larger than the one before it")
                if host.size[cell] == host.size[cell - 1] and memcmp(
                    host.need + cell * host.resources,
                    host.need + (cell - 1) * host.resources,
                    host.resources * sizeof(int64_t),
                ) == 0:
                    host.cell_alike[cell] = host.cell_alike[cell - 1]
        if host.cells and wanted:
            raise ValueError("sizes do not add up to vcpus")

        # A node's tables: no more units in it than it has room for, in no more groups than cores.
        count = min(most_room, host.want)
        host.memo = <int64_t *>calloc(<size_t>host.nodes * (host.want + 1), sizeof(int64_t))
        host.all.costs = <int64_t *>malloc(
            (most_room + host.all.cores + 2 * (count + 1) + most_room // 64 + 2) * sizeof(int64_t)
        )
        host.all.filled_from = <int *>malloc(3 * (most_room + count + 2) * sizeof(int))
        shorts = <uint16_t *>malloc(<size_t>(count + 1) * (_most(host.groups, host.nodes) + 1) * sizeof(uint16_t))
        if host.memo == NULL or host.all.costs == NULL or host.all.filled_from == NULL or shorts == NULL:
            raise MemoryError
        host.all.row = host.all.costs + most_room + host.all.cores
        host.all.next_row = host.all.row + count + 1
        host.all.sums = <uint64_t *>(host.all.next_row + count + 1)
        host.all.spoilt = host.all.filled_from + most_room + count + 2
        host.all.shared = host.all.spoilt + most_room + count + 2
        host.all.choices = shorts
        host.proved = True
        host.best_distance = host.best_cost = FAR
        with nogil:
            _search_host(&host)
            if host.best_distance < FAR:
                _answer(&host, units)
        if host.best_distance == FAR:
            return None
        for core in range(host.all.cores):
            if host.all.take[core]:
                taken.append((core, host.all.take[core]))
        return (
            taken,
            [host.best[cell] for cell in range(host.cells)],
            host.best_distance,
            (
                host.best_cost >> 2 * LEVEL + LOST,
                host.best_cost >> LEVEL + LOST & (1 << LEVEL) - 1,
                host.best_cost >> LOST & (1 << LEVEL) - 1,
                host.best_cost & (1 << LOST) - 1,
            ),
            bool(host.proved),
        )
    finally:
        release(ints)
        release(longs)
        release(shorts)
        release(host.memo)
        release(host.all.costs)
        release(host.all.filled_from)
