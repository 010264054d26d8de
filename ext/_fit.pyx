# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""
The exact fit inside one NUMA node: which cores, and how many siblings of each.

Integers in, integers out. Here the question is checked and the memory lent out; the answer is
found in _fit_search.pxi, which knows no Python and runs without the GIL.
"""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.stdlib cimport free as release
from libc.string cimport memset

include "_fit_search.pxi"

__all__ = ["fit_node"]


cdef int _number(object value, int least, int most, str field, int index=-1) except -1:
    """Return an integer that was asked for, or say which one is wrong."""
    cdef int overflow = 0
    cdef long long number
    if isinstance(value, int):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow and least <= number <= most:
            return number
    if index >= 0:
        field = f"{field}[{index}]"
    if not isinstance(value, int):
        raise TypeError(f"{field} is an integer, not {value!r}")
    raise ValueError(f"{field} is a number from {least} to {most}, not {value}")


cdef int _column(list values, str field, int *into) except -1:
    """Copy a column of PU counts."""
    cdef int index
    for index in range(len(values)):
        into[index] = _number(values[index], 0, MOST, field, index)
    return 0


cdef int _group_column(list values, int *into) except -1:
    """Number the groups in order of appearance; return how many there are."""
    cdef int index
    cdef dict numbers = {}
    for index in range(len(values)):
        value = values[index]
        if not isinstance(value, int):
            raise TypeError(f"groups[{index}] is an integer, not {value!r}")
        into[index] = numbers.setdefault(value, len(numbers))
    return len(numbers)


cdef int _measure(Node *node, int per_core, bint whole) except -1:
    """Check totals and frees; fill in room and kind; return the room of all cores together."""
    cdef int core, units, room = 0, total = 0
    for core in range(node.cores):
        if node.free[core] > node.total[core]:
            raise ValueError(
                f"frees[{core}] is {node.free[core]},"
                f" more than totals[{core}], which is {node.total[core]}"
            )
        total += node.total[core]
        if total > MOST:
            raise ValueError(f"totals add up to more than {MOST} at totals[{core}]")
        units = node.free[core]
        if per_core and units > per_core:
            units = per_core
        units //= node.unit
        if node.free[core] < node.total[core]:
            node.kind[core] = SHARED
            if whole:
                units = 0
        elif units * node.unit == node.total[core]:
            node.kind[core] = FILLED
        else:
            node.kind[core] = SPOILT
        node.room[core] = units
        room += units
    return room


cdef void _sort(Node *node) noexcept:
    """Put the cores group by group, in their order; measure the groups and lay out their tables."""
    cdef int core, group, table = 0
    cdef int *end = node.ahead  # of what a group has so far
    for core in range(node.cores):
        node.first[node.group[core] + 1] += 1
        node.limit[node.group[core]] += node.room[core]
    for group in range(node.groups):
        node.limit[group] = min(node.limit[group], node.want)
        node.table[group] = table
        table += node.limit[group] + 1
        node.first[group + 1] += node.first[group]
        end[group] = node.first[group]
    for core in range(node.cores):
        node.core[end[node.group[core]]] = core
        end[node.group[core]] += 1
    node.ahead[node.groups] = 0
    for group in range(node.groups - 1, -1, -1):
        node.ahead[group] = node.ahead[group + 1] + node.limit[group]


def fit_node(vcpus, unit, per_core, bint whole, groups, totals, frees):
    """
    Choose how many PUs of each core of a node to take, at the least cost.

    Args:
        vcpus: How many to place, 1 to 8192.
        unit: A core takes a multiple of so many; `vcpus` is one.
        per_core: A core takes at most so many; 0 for no limit.
        whole: Whether only cores whose PUs are all free may be taken from.
        groups: For each core, in order of preference, the L3 group it is in: any integers.
        totals: For each core, how many PUs it has; 8192 in all at most.
        frees: For each core, how many of them are free.

    Returns:
        For each core how many PUs are taken, `vcpus` in all, and the cost: L3 groups used, cores
        used that somebody else also uses, cores used in part that were all free, and free PUs left
        in the L3 groups used. No other choice costs less, the first number counting first. None
        when there is no choice at all.

    Raises:
        ValueError: A number is out of range; says which one.
        TypeError: Something is not an integer.
    """
    cdef Node node
    cdef int *columns = NULL
    cdef int *ints = NULL
    cdef int64_t *costs = NULL
    cdef int room, status, core_limit
    cdef list group_list = list(groups), total_list = list(totals), free_list = list(frees)

    node.want = _number(vcpus, 1, MOST, "vcpus")
    node.unit = _number(unit, 1, MOST, "unit")
    core_limit = _number(per_core, 0, MOST, "per_core")
    if node.want % node.unit:
        raise ValueError(f"vcpus is {vcpus}, which is no multiple of unit, {unit}")
    if 0 < core_limit < node.unit:
        raise ValueError(f"per_core is {per_core}, less than unit, {unit}")
    node.want //= node.unit
    node.cores = _number(len(group_list), 0, MOST, "the length of groups")
    if len(total_list) != node.cores or len(free_list) != node.cores:
        raise ValueError(
            f"groups, totals and frees are of one length,"
            f" not {node.cores}, {len(total_list)} and {len(free_list)}"
        )

    try:
        columns = <int *>calloc(7 * node.cores + 1, sizeof(int))
        if columns == NULL:
            raise MemoryError
        node.group = columns
        node.total = node.group + node.cores
        node.free = node.total + node.cores
        node.room = node.free + node.cores
        node.kind = node.room + node.cores
        node.core = node.kind + node.cores
        node.take = node.core + node.cores
        node.groups = _group_column(group_list, node.group)
        _column(total_list, "totals", node.total)
        _column(free_list, "frees", node.free)
        room = _measure(&node, core_limit, whole)
        if room < node.want:
            return None

        # The bit set is as wide as the costs, so it stands behind them.
        costs = <int64_t *>malloc(
            (room + node.groups + 2 * (node.want + 1) + room // 64 + 1) * sizeof(int64_t)
        )
        ints = <int *>calloc(4 * (node.groups + 1) + 3 * (room + 1), sizeof(int))
        if costs == NULL or ints == NULL:
            raise MemoryError
        node.costs = costs
        node.row = node.costs + room + node.groups
        node.next_row = node.row + node.want + 1
        node.sums = <uint64_t *>(node.next_row + node.want + 1)
        node.first = ints
        node.limit = node.first + node.groups + 1
        node.ahead = node.limit + node.groups + 1
        node.table = node.ahead + node.groups + 1
        node.filled_from = node.table + node.groups + 1
        node.spoilt = node.filled_from + room + 1
        node.shared = node.spoilt + room + 1
        _sort(&node)

        with nogil:
            status = _search(&node)
        if status < 0:
            raise MemoryError
        return [node.take[core] for core in range(node.cores)], (
            node.cost >> 3 * LEVEL,
            node.cost >> 2 * LEVEL & MASK,
            node.cost >> LEVEL & MASK,
            node.cost & MASK,
        )
    finally:
        release(columns)
        release(ints)
        release(costs)
