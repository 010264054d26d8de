# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""
A host's sets of CPUs laid out in columns for the search, and what it chose written back as CPUs.

Bits in, integers out: the same that plain loops over cores would do, where a host has hundreds of them.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #define KVMAFF_LOWEST(word) __builtin_ctzll(word)
    #define KVMAFF_COUNT(word) __builtin_popcountll(word)
    """
    int KVMAFF_LOWEST(uint64_t word) nogil
    int KVMAFF_COUNT(uint64_t word) nogil

__all__ = ["count_free", "far_apart", "lay_out", "pick"]

cdef enum:
    MOST = 8192
    WORDS = MOST // 64
    MOST_NODES = 64

cdef struct Table:
    int32_t node[MOST]
    int32_t group[MOST]
    int32_t core[MOST]   # by CPU: first its core as given, then its place
    int32_t first[MOST]  # the lowest CPU of a core as given
    int32_t total[MOST]


cdef int _size(object bits) except -1:
    """Return how many words a set has."""
    cdef int size = (bits.bit_length() + 63) // 64
    if size > WORDS:
        raise ValueError(f"a CPU is a number below {MOST}")
    return size


cdef int _read(object bits, uint64_t *words, int size) except -1:
    """Read a set's words, of which there are at most so many."""
    cdef bytes raw = bits.to_bytes(8 * size, "little")
    memcpy(words, PyBytes_AsString(raw), 8 * size)
    return 0


cdef void _label(int32_t *column, const uint64_t *words, int size, int32_t value, bint again) noexcept nogil:
    """Write a value to all CPUs of a set; to those too that have one already, if again."""
    cdef int at, cpu
    cdef uint64_t word
    for at in range(size):
        word = words[at]
        while word:
            cpu = 64 * at + KVMAFF_LOWEST(word)
            word &= word - 1
            if again or column[cpu] < 0:
                column[cpu] = value


cdef bytes _packed(int32_t *column, int count):
    return PyBytes_FromStringAndSize(<const char *>column, count * sizeof(int32_t))


cdef const uint64_t *_sets(bytes packed, int size) except NULL:
    """Return the words of packed sets, each of so many."""
    if not 0 < size <= WORDS or len(packed) % (8 * size):
        raise ValueError(f"sets are packed as {size} words each, up to {WORDS}, not as {len(packed)} bytes")
    return <const uint64_t *><const void *>PyBytes_AsString(packed)


def lay_out(size, bytes cores, bytes groups, bytes nodes):
    """
    Lay the cores of a host out node by node.

    Args:
        size: How many 64-bit words each set has, which are packed one after another, the lowest CPUs first.
        cores: Each core's PUs, in any order.
        groups: Each L3 group's.
        nodes: Each node's, at most 64; a CPU in several counts in the first.

    Returns:
        For each core, node by node and in each in order of the lowest CPU: its node's place, its L3 group (the last one
        that has its lowest CPU, -1 for none), how many PUs it has; for each CPU up to the highest the place of its core,
        or -1; for each node the number of an L3 group that is all it has and others have, too, or -1. CPUs of nodes in
        no core are cores of one PU. All as packed 32-bit integers.

    Raises:
        ValueError: A core has no PU, two cores have the same one, or one is in no node.
    """
    cdef Table table
    cdef int32_t begin[MOST_NODES + 1]
    cdef int32_t only[MOST_NODES]
    cdef int32_t wide[MOST_NODES]
    cdef int32_t place_node[MOST]
    cdef int32_t place_group[MOST]
    cdef int32_t place_total[MOST]
    cdef int32_t place_of[MOST]
    cdef int many = size
    cdef const uint64_t *core_sets = _sets(cores, many)
    cdef const uint64_t *group_sets = _sets(groups, many)
    cdef const uint64_t *node_sets = _sets(nodes, many)
    cdef int core_count = <int>(len(cores) // (8 * many))
    cdef int group_count = <int>(len(groups) // (8 * many))
    cdef int node_count = <int>(len(nodes) // (8 * many))
    cdef int index, cpu, at, highest = 64 * many, count = 0, place, other, numbers = 0
    cdef uint64_t word
    if node_count > MOST_NODES or core_count > MOST:
        raise ValueError(f"a host has up to {MOST_NODES} nodes and {MOST} cores, not {node_count} and {core_count}")
    memset(table.node, 0xFF, highest * sizeof(int32_t))
    memset(table.group, 0xFF, highest * sizeof(int32_t))
    memset(table.core, 0xFF, highest * sizeof(int32_t))
    for index in range(node_count):
        _label(table.node, node_sets + index * many, many, index, False)
    for index in range(group_count):
        _label(table.group, group_sets + index * many, many, index, True)
    for index in range(core_count):
        table.first[count] = -1
        table.total[count] = 0
        for at in range(many):
            word = core_sets[index * many + at]
            table.total[count] += KVMAFF_COUNT(word)
            while word:
                cpu = 64 * at + KVMAFF_LOWEST(word)
                word &= word - 1
                if table.first[count] < 0:
                    table.first[count] = cpu
                if table.core[cpu] >= 0:
                    raise ValueError(f"cores[{index}] has PUs that an earlier core also has: {cpu}")
                table.core[cpu] = count
        if table.first[count] < 0:
            raise ValueError(f"cores[{index}] has no PU")
        if table.node[table.first[count]] < 0:
            raise ValueError(f"cores[{index}] is in no node")
        count += 1
    for cpu in range(highest):
        if table.node[cpu] >= 0 and table.core[cpu] < 0:
            table.core[cpu] = count
            table.first[count] = cpu
            table.total[count] = 1
            count += 1

    # where each node's cores begin; then all in order of their lowest CPUs
    memset(begin, 0, sizeof(begin))
    for index in range(count):
        begin[table.node[table.first[index]] + 1] += 1
    for place in range(node_count):
        begin[place + 1] += begin[place]
    for cpu in range(highest):
        index = table.core[cpu]
        if index >= 0 and table.first[index] == cpu:
            at = begin[table.node[cpu]]
            begin[table.node[cpu]] += 1
            place_of[index] = at
            place_node[at] = table.node[cpu]
            place_group[at] = table.group[cpu]
            place_total[at] = table.total[index]
    for cpu in range(highest):
        if table.core[cpu] >= 0:
            table.core[cpu] = place_of[table.core[cpu]]

    # an L3 group that is all of several nodes counts once in them together
    for place in range(node_count):
        only[place] = -2  # -1: several, or none
        wide[place] = -1
    for at in range(count):
        place = place_node[at]
        if only[place] == -2:
            only[place] = place_group[at]
        elif only[place] != place_group[at]:
            only[place] = -1
    for place in range(node_count):
        if only[place] < 0:
            continue
        for at in range(count):
            if place_group[at] == only[place] and place_node[at] != place:
                for other in range(place):
                    if wide[other] >= 0 and only[other] == only[place]:
                        wide[place] = wide[other]
                        break
                else:
                    wide[place] = numbers
                    numbers += 1
                break
    return (
        _packed(place_node, count),
        _packed(place_group, count),
        _packed(place_total, count),
        _packed(table.core, highest),
        _packed(wide, node_count),
    )


def count_free(free, bytes core_of, cores):
    """
    Count the free PUs of each core.

    Args:
        free: The bits of the PUs that may be taken; those of no core do not matter.
        core_of: As :func:`lay_out` gives it.
        cores: How many cores there are.

    Returns:
        A number for each core, packed as 32-bit integers.
    """
    cdef uint64_t words[WORDS]
    cdef int32_t counts[MOST]
    cdef const int32_t *core = <const int32_t *><const void *>PyBytes_AsString(core_of)
    cdef int at, cpu, highest = <int>(len(core_of) // sizeof(int32_t)), many = cores
    cdef int size = _size(free)
    cdef uint64_t word
    _read(free, words, size)
    size = min(size, (highest + 63) // 64)
    if not 0 <= many <= MOST:
        raise ValueError(f"cores is a number up to {MOST}, not {cores}")
    memset(counts, 0, many * sizeof(int32_t))
    for at in range(size):
        word = words[at]
        while word:
            cpu = 64 * at + KVMAFF_LOWEST(word)
            word &= word - 1
            if cpu < highest and 0 <= core[cpu] < many:
                counts[core[cpu]] += 1
    return _packed(counts, many)


def pick(free, bytes core_of, list takes):
    """
    Pick the lowest free PUs of some cores.

    Args:
        free: The bits of the PUs that may be taken.
        core_of: As :func:`lay_out` gives it.
        takes: (core, how many) for each.

    Returns:
        For each the CPUs, ascending.
    """
    cdef uint64_t words[WORDS]
    cdef int32_t place[MOST]
    cdef int32_t due[MOST]
    cdef const int32_t *core = <const int32_t *><const void *>PyBytes_AsString(core_of)
    cdef int at, cpu, index, highest = <int>(len(core_of) // sizeof(int32_t))
    cdef int size = _size(free)
    cdef uint64_t word
    cdef list found = [[] for _ in takes]
    _read(free, words, size)
    size = min(size, (highest + 63) // 64)
    memset(place, 0xFF, sizeof(place))
    for at in range(len(takes)):
        index, cpu = takes[at]
        if not 0 <= index < MOST:
            raise ValueError(f"a core is a number below {MOST}, not {index}")
        place[index], due[index] = at, cpu
    for at in range(size):
        word = words[at]
        while word:
            cpu = 64 * at + KVMAFF_LOWEST(word)
            word &= word - 1
            if cpu >= highest or core[cpu] < 0:
                continue
            index = core[cpu]
            if place[index] >= 0 and due[index] > 0:
                due[index] -= 1
                (<list>found[place[index]]).append(cpu)
    return found


def far_apart(list numbers, list told, int unknown, int local, int most):
    """
    Work out how far nodes are apart.

    Args:
        numbers: The nodes' numbers.
        told: For each node (number, distance) of those it tells.
        unknown: The distance where nothing is told.
        local: The distance of a node from itself.
        most: The largest that is told on.

    Returns:
        For each node and each other the larger one of the two ways less the local one, at least 1, packed as 64-bit
        integers; 0 for the same.
    """
    cdef int64_t far[MOST_NODES * MOST_NODES]
    cdef int count = <int>len(numbers), one, other
    cdef int64_t away, back
    cdef dict place
    if count > MOST_NODES:
        raise ValueError(f"a host has up to {MOST_NODES} nodes, not {count}")
    place = {number: at for at, number in enumerate(numbers)}
    for one in range(count * count):
        far[one] = unknown
    for one in range(count):
        for number, distance in told[one]:
            at = place.get(number)
            if at is not None:
                other = at
                far[one * count + other] = min(distance, most + local)
    for one in range(count):
        far[one * count + one] = 0
        for other in range(one):
            away, back = far[one * count + other], far[other * count + one]
            away = min(max(max(away, back) - local, 1), most)
            far[one * count + other] = far[other * count + one] = away
    return PyBytes_FromStringAndSize(<const char *>far, count * count * sizeof(int64_t))
