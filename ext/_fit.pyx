# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""
The exact fit of one guest: which nodes, which cores, and how many siblings of each.

Integers in, integers out. Here the question is checked and the memory lent out; the answer is found in
_fit_search.pxi (inside a node) and _fit_host.pxi (over nodes), which know no Python and run without the GIL.
"""

from cpython.bytes cimport PyBytes_AsString
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.stdlib cimport free as release
from libc.string cimport memcmp, memcpy, memset

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


cdef int _least(const int *column, int count, int least, int most, str field) except -1:
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


cdef int _complain(const Host *host, const int32_t *node_of) except -1:
    """Say which core is wrong."""
    cdef const Node *all = &host.all
    cdef int core, before = 0, total = 0
    _least(<const int *>node_of, host.cores, 0, host.nodes - 1, "node")
    _least(<const int *>all.total, host.cores, 0, MOST, "total")
    _least(<const int *>all.free, host.cores, 0, MOST, "free")
    for core in range(host.cores):
        if node_of[core] < before:
            raise ValueError(f"node[{core}] is {node_of[core]}: cores stand node by node")
        before = node_of[core]
        if all.free[core] > all.total[core]:
            raise ValueError(f"free[{core}] is {all.free[core]}, more than total[{core}], which is {all.total[core]}")
        total += all.total[core]
        if total > MOST:
            raise ValueError(f"total adds up to more than {MOST} at total[{core}]")
    raise AssertionError("no core is wrong")


cdef bint _check_distances(const Host *host) except -1:
    """Check the distances; whether each node is at no distance from itself."""
    cdef int place, other, n = host.nodes
    cdef int64_t far
    cdef uint64_t wrong = 0, own = 0
    # one pass that never leaves: what is negative has the highest bit
    for place in range(n):
        own |= <uint64_t>host.distance[place * n + place]
        for other in range(place):
            far = host.distance[place * n + other]
            wrong |= <uint64_t>far - 1 | FARTHEST - <uint64_t>far
            wrong |= -<uint64_t>(far != host.distance[other * n + place])
    if not (wrong | own) >> 63 and own <= FARTHEST:
        return own == 0
    _least_long(host.distance, n * n, FARTHEST, "distance")
    for place in range(n):
        for other in range(n):
            far = host.distance[place * n + other]
            if place != other and far < 1:
                raise ValueError(f"distance from {place} to {other} is {far}, but they are not one node")
            if far != host.distance[other * n + place]:
                raise ValueError(
                    f"distance from {place} to {other} is {far}, but {host.distance[other * n + place]} the other way"
                )
    return False


cdef bint _measure(Host *host, const int32_t *node_of, const int32_t *group_of, bint alike) noexcept nogil:
    """
    Number each node's groups and add up their cores; whether all numbers made sense.

    Which cores are in use nobody can foretell, so that a core costs no branch. Where all are said to be alike, what a
    core has is looked up; whether they are, `even` says.
    """
    cdef Node *all = &host.all
    cdef int *names = all.limit  # lent: what groups are called
    cdef int core = 0, groups = 0, before = -1, base = 0, highest = 0, place, number, name, end
    cdef int free, units, full, filled, most = 0, cores = host.cores, unit = all.unit
    cdef int first = all.total[0] if cores else 0
    cdef int open, rooms, filled_rooms, full_rooms, spoilt = 0
    cdef uint32_t wrong = 0, differ = 0, total = 0
    cdef uint64_t sums
    cdef uint64_t known[32]  # for each number of free PUs what is added: these, units, and again if all are free
    cdef bint torn
    if alike:
        for free in range(first + 1):
            units = _units(host, free, first)
            known[free] = <uint64_t>free | <uint64_t>units << 16 | <uint64_t>(units if free == first else 0) << 32
        most = first
        filled = -<int>(_units(host, first, first) * unit == first)
    while core < cores:
        place = node_of[core]
        if place <= before or place >= host.nodes:
            return False
        while before < place:
            before += 1
            host.first[before] = core
            host.group_first[before] = base = groups
            host.open[before] = host.room[before] = host.ready[before] = 0
        torn = False
        while core < cores and node_of[core] == place:
            # a run of cores in one group; mostly the first and only one
            name = group_of[core]
            number = groups
            if groups > base and name <= highest:
                number = base
                while number < groups and names[number] != name:
                    number += 1
            if number == groups:
                names[groups] = name
                if groups == base or name > highest:
                    highest = name
                all.first[groups] = core
                all.open[groups] = all.rooms[groups] = all.filled_rooms[groups] = all.spoilt_rooms[groups] = 0
                groups += 1
            else:
                torn = True
            end = core
            if alike:
                sums = 0
                while end < cores and group_of[end] == name and node_of[end] == place:
                    free = all.free[end]
                    wrong |= <uint32_t>free | <uint32_t>first - <uint32_t>free
                    differ |= <uint32_t>(all.total[end] ^ first)
                    sums += known[free & 31]
                    all.group[end] = number - base
                    end += 1
                open, rooms, full_rooms = sums & 0xFFFF, sums >> 16 & 0xFFFF, sums >> 32
                filled_rooms = full_rooms & filled
            else:
                open = rooms = filled_rooms = full_rooms = 0
                while end < cores and group_of[end] == name and node_of[end] == place:
                    free = all.free[end]
                    wrong |= <uint32_t>free | <uint32_t>all.total[end] - <uint32_t>free
                    wrong |= <uint32_t>all.total[end] | MOST - <uint32_t>all.total[end]
                    differ |= <uint32_t>(all.total[end] ^ first)
                    total += all.total[end]
                    most = max(most, all.total[end])
                    units = _units(host, free, all.total[end])
                    full = -<int>(free == all.total[end])
                    open += free
                    rooms += units
                    full_rooms += units & full
                    filled_rooms += units & full & -<int>(units * unit == all.total[end])
                    all.group[end] = number - base
                    end += 1
            core = end
            spoilt |= full_rooms - filled_rooms
            all.open[number] += open
            all.rooms[number] += rooms
            all.filled_rooms[number] += filled_rooms
            all.spoilt_rooms[number] += full_rooms - filled_rooms
            host.open[place] += open
            host.room[place] += rooms
        if torn:
            host.ready[place] = TORN
        host.most_groups = max(host.most_groups, groups - base)
    while before < host.nodes:
        before += 1
        host.first[before] = cores
        host.group_first[before] = groups
        if before < host.nodes:
            host.open[before] = host.room[before] = host.ready[before] = 0
    all.first[groups] = cores
    host.spoilt = spoilt != 0
    host.full_most = max(min(most, host.core_limit) // unit, 1)
    host.shared_most = max(0 if host.whole else min(most - 1, host.core_limit) // unit, 1)
    # one that has room for one at most, as rule 10 of the search in a node has it
    all.even = host.full_most if differ == 0 and host.shared_most == 1 else 0
    if alike:
        if differ:
            return _measure(host, node_of, group_of, False)
        total = <uint32_t>(cores * first)
    return not wrong >> 31 and total <= MOST


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
        sizes: The guest's cells, the largest first: how many vCPUs each has. Each is whole in a node. A cell may have
            none, but not all of them: then it is only what it needs that must be in a node.
        need: For each cell what it needs of each resource, such as memory.
        have: For each node what it has of each.
        steps: After so many the search ends with the best so far.

    Returns:
        None where it is proved that there is no choice at all; () where the search ended before it found one, so that
        nobody knows. Else: (core, PUs taken) for each core that is used, by node; the node of
        each cell; the distances added up; the cost of L3 groups used, cores used that somebody else also uses, cores
        used in part that were all free, and acceptance lost; whether it is proved that nothing costs less, the first
        number counting first.

    Raises:
        ValueError: A number is out of range; says which one.
        TypeError: Something is not an integer, or not packed.
    """
    cdef Host host
    cdef void *block = NULL
    cdef void *tables = NULL
    cdef int *ints
    cdef int64_t *longs
    cdef int units[MOST_NODES]
    cdef int place, core, cell, count, wanted, most_room, other, answers
    cdef bint alike
    cdef int64_t number
    cdef uint64_t wrong = 0
    cdef const int32_t *node_of
    cdef const int32_t *group_of
    cdef const int32_t *caps
    cdef const int64_t *nears
    cdef list size_list = list(sizes), taken = []

    wanted = <int>_number(vcpus, 1, MOST, "vcpus")
    host.unit = <int>_number(unit, 1, MOST, "unit")
    host.core_limit = <int>_number(per_core, 0, MOST, "per_core")
    host.whole = whole
    host.nodes = <int>_number(nodes, 1, MOST_NODES, "nodes")
    count = <int>_number(cores, 0, MOST, "cores")
    host.steps = host.limit = _number(steps, 1, <int64_t>1 << 40, "steps")
    if wanted % host.unit:
        raise ValueError(f"vcpus is {vcpus}, which is no multiple of unit, {unit}")
    if 0 < host.core_limit < host.unit:
        raise ValueError(f"per_core is {per_core}, less than unit, {unit}")
    if host.core_limit == 0:
        host.core_limit = MOST
    host.cells = <int>_number(len(size_list), 0, MOST_CELLS, "the number of cells")
    node_of = <const int32_t *>_column(node, count, 4, "node")
    group_of = <const int32_t *>_column(group, count, 4, "group")
    host.cores = count
    host.all.total = <const int *>_column(total, count, 4, "total")
    host.all.free = <const int *>_column(free, count, 4, "free")
    host.distance = <const int64_t *>_column(distance, host.nodes * host.nodes, 8, "distance")
    nears = <const int64_t *>_column(near, host.nodes, 8, "near")
    caps = <const int32_t *>_column(cap, host.nodes, 4, "cap")
    host.wide = <const int *>_column(wide, host.nodes, 4, "wide")
    host.all.accept = <const int *>_column(accept, MOST + 1, 4, "accept")
    host.resources = host.most_groups = 0
    if host.cells:
        if not isinstance(have, bytes):
            raise TypeError(f"have is packed as bytes, not {type(have).__name__}")
        if len(have) % (8 * host.nodes) or len(have) > 8 * host.nodes * RESOURCES:
            raise ValueError(f"have holds at most {RESOURCES} numbers for each node")
        host.resources = len(have) // (8 * host.nodes)
    host.need = <const int64_t *>_column(need, host.cells * host.resources, 8, "need")
    _least(<const int *>caps, host.nodes, 0, MOST, "cap")
    _least(<const int *>host.wide, host.nodes, -1, 63, "wide")
    _least_long(nears, host.nodes, NEAREST, "near")
    _least_long(host.need, host.cells * host.resources, <int64_t>1 << 62, "need")
    host.want = wanted // host.unit
    host.all.unit = host.unit
    host.memo = NULL
    try:
        # nodes: near; and where they are not as they were given: distance, have
        answers = max(host.nodes, host.cells)
        count = host.nodes * (host.nodes + 1 + host.resources)
        # cores: group, room, kind, core, take; groups, of which there are no more than cores: first, open, rooms,
        # filled_rooms, spoilt_rooms, limit, ahead, table; nodes: first, group_first, room, open, ready, roomy,
        # alike, cluster;
        # best and now, which have cells instead where there are any; cells: size, cell_alike
        block = malloc(
            count * sizeof(int64_t)
            + (5 * host.cores + 8 * (host.cores + 1) + 8 * (host.nodes + 1)
               + 2 * answers + 2 * host.cells) * sizeof(int)
        )
        if block == NULL:
            raise MemoryError
        longs = <int64_t *>block
        ints = <int *>(longs + count)
        host.near = longs
        host.have = longs + host.nodes
        host.all.group = ints
        host.all.room = host.all.group + host.cores
        host.all.kind = host.all.room + host.cores
        host.all.core = host.all.kind + host.cores
        host.all.take = host.all.core + host.cores
        host.all.first = host.all.take + host.cores
        host.all.open = host.all.first + host.cores + 1
        host.all.rooms = host.all.open + host.cores + 1
        host.all.filled_rooms = host.all.rooms + host.cores + 1
        host.all.spoilt_rooms = host.all.filled_rooms + host.cores + 1
        host.all.limit = host.all.spoilt_rooms + host.cores + 1
        host.all.ahead = host.all.limit + host.cores + 1
        host.all.table = host.all.ahead + host.cores + 1
        host.first = host.all.table + host.cores + 1
        host.group_first = host.first + host.nodes + 1
        host.room = host.group_first + host.nodes + 1
        host.open = host.room + host.nodes + 1
        host.ready = host.open + host.nodes + 1
        host.roomy = host.ready + host.nodes + 1
        host.alike = host.roomy + host.nodes + 1
        host.cluster = host.alike + host.nodes + 1
        host.best = host.cluster + host.nodes + 1
        host.now = host.best + answers
        host.size = host.now + answers
        host.cell_alike = host.size + host.cells
        alike = 0 < host.cores and 0 <= host.all.total[0] < 32  # so far
        if not _measure(&host, node_of, group_of, alike):
            _complain(&host, node_of)
        if host.all.accept[0]:
            raise ValueError(f"accept[0] is {host.all.accept[0]}, but nothing is worth nothing")
        other = 0
        for place in range(host.nodes):
            other = max(other, host.open[place])
        for place in range(1, other + 1):
            if not host.all.accept[place - 1] <= host.all.accept[place] <= WORTH * place:
                raise ValueError(
                    f"accept[{place}] is {host.all.accept[place]}: it ascends, from 0, by at most {WORTH} a PU in all"
                )
        most_room = 0
        for place in range(host.nodes):
            longs[place] = nears[place] * host.unit
            most_room = max(most_room, host.room[place])
            host.room[place] = min(host.room[place], caps[place] // host.unit)
        if not _check_distances(&host) or host.unit > 1:
            # between units, and nothing from a node to itself
            longs += host.nodes * (1 + host.resources)
            for place in range(host.nodes * host.nodes):
                longs[place] = host.distance[place] * host.unit * host.unit
            for place in range(host.nodes):
                longs[place * host.nodes + place] = 0
            host.distance = longs
        if host.resources:
            memcpy(host.have, PyBytes_AsString(have), host.nodes * host.resources * sizeof(int64_t))
        for cell in range(host.cells):
            other = <int>_number(size_list[cell], 0, MOST, f"sizes[{cell}]")
            if other % host.unit:
                return None  # it would tear siblings apart
            wanted -= other
            host.size[cell] = other // host.unit
            host.cell_alike[cell] = cell
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

        # A node's tables: no more units in it than it has room for, in no more groups than cores. The memo is zeros.
        count = min(most_room, host.want)
        host.memo = <int64_t *>calloc(<size_t>host.nodes * (host.want + 1), sizeof(int64_t))
        tables = malloc(
            (most_room + host.most_groups + 2 * (count + 1) + most_room // 64 + 2) * sizeof(int64_t)
            + 3 * (most_room + count + 2) * sizeof(int)
            + <size_t>(count + 1) * (host.most_groups + 1) * sizeof(uint16_t)
        )
        if host.memo == NULL or tables == NULL:
            raise MemoryError
        host.all.costs = <int64_t *>tables
        host.all.row = host.all.costs + most_room + host.most_groups
        host.all.next_row = host.all.row + count + 1
        host.all.sums = <uint64_t *>(host.all.next_row + count + 1)
        host.all.filled_from = <int *>(host.all.sums + most_room // 64 + 2)
        host.all.spoilt = host.all.filled_from + most_room + count + 2
        host.all.shared = host.all.spoilt + most_room + count + 2
        host.all.choices = <uint16_t *>(host.all.shared + most_room + count + 2)
        host.proved = True
        host.offers = 0
        host.best_distance = host.best_cost = FAR
        with nogil:
            _search_host(&host)
            if host.best_distance < FAR:
                _answer(&host, units)
        if host.best_distance == FAR:
            return None if host.proved else ()
        for place in range(host.nodes):
            if units[place]:
                for core in range(host.first[place], host.first[place + 1]):
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
        release(block)
        release(tables)
        release(host.memo)
