# The search inside one NUMA node: no Python object, no GIL. Its rules:
#
# 1. A core takes a multiple of `unit` of its free PUs, at most `per_core`; the search counts in
#    units.
# 2. A core is one of three kinds, and only these matter for what it costs:
#    SHARED  somebody else uses a part of it: 1 shared core, however much is taken;
#    SPOILT  it is all free and can never be filled: 1 broken core, however much is taken;
#    FILLED  it is all free and can be filled: nothing when full, 1 broken core when not.
# 3. So the cheapest way to take m from given cores has a closed form (_cheapest): from FILLED cores
#    alone where they have room (fill one after the other: at most one is broken), then from the
#    fewest, roomiest SPOILT ones, then from the fewest, roomiest SHARED ones. Only "is m the sum of
#    some FILLED cores?" needs a search, and that is a bit set shifted once a core.
# 4. An L3 group is thereby a table: what taking m there costs, for every m. A search over groups,
#    from the last to the first, adds them up.
# 5. Few groups come first. The fewest that have room for all are the roomiest ones; what those have
#    too much is the slack, and no best answer leaves more than the slack untaken in its groups.
# 6. A cost is one 64-bit number: groups, shared and broken in 14 bits each, lost in 19. Every level
#    is a sum over groups, so adding and comparing costs is one instruction each.
# 7. Of the best answers it is the one that takes most from the first group, then from the second
#    and so on; among those, most from a group's first core and so on. Groups count in the order
#    in which their first cores appear.
# 8. What is lost is acceptance: accept[n] says what n free PUs in one place are worth to guests to
#    come. It is counted for an L3 group here and for the node by who asks.
# 9. Where one group can take all, one is taken: then no table is needed.
# 10. Mostly a host is even: all cores have the same PUs, and one that is in use has room for one
#    unit at most. Then sums of rooms say all that is to know of a group's cores: what FILLED cores
#    make up exactly are the multiples of one core, and "the fewest" is a division.

cdef extern from *:
    """
    #define KVMAFF_LOWEST_BIT(word) __builtin_ctzll(word)
    #define KVMAFF_ONES(word) __builtin_popcountll(word)
    """
    int lowest_bit "KVMAFF_LOWEST_BIT"(uint64_t word) nogil
    int KVMAFF_ONES(uint64_t word) nogil

cdef enum:
    MOST = 8192  # PUs in a host, hence cores, vCPUs and every level of a cost
    LEVEL = 14   # bits that hold 0 to MOST
    LOST = 19    # bits that hold what is lost: at most 31 a PU, once in its group and once in its node

cdef enum Kind:
    FILLED
    SPOILT
    SHARED

cdef int64_t NEVER = <int64_t>1 << 62  # above every cost, and so is its sum with one


# The question, and all the memory that the answer needs. A "place" is an index into `core`,
# where the cores stand group by group.
cdef struct Node:
    int groups
    int want            # in units
    int unit
    int even            # units of a core that is all free, where that says it all (rule 10); else 0
    const int *total    # [cores] PUs
    const int *free     # [cores] PUs
    int *group          # [cores] counted in order of appearance
    int *room           # [cores] units
    int *kind           # [cores]
    int *core           # [cores] the cores, group by group
    int *take           # [cores] the answer, PUs; of those that are not in a group that is used nothing is written
    const int *accept   # [MOST + 1] what so many free PUs are worth to guests to come
    int *first          # [groups + 1] the place where a group begins
    int *open           # [groups] PUs of a group that may be taken
    int *rooms          # [groups] units of all its cores together
    int *filled_rooms   # [groups] and of its FILLED ones
    int *spoilt_rooms   # [groups]
    int *limit          # [groups] units a group can take, at most `want`
    int *ahead          # [groups + 1] what that group and all later ones can take, of limit
    int64_t *costs      # [sum of (limit + 1)] a group's table begins at costs[table[group]]
    int *table          # [groups]
    int64_t *row        # [want + 1] best cost of taking that many from the groups seen
    int64_t *next_row   # [want + 1]
    int *filled_from    # [room + 1] see Rest
    int *spoilt         # [room + 1]
    int *shared         # [room + 1]
    uint64_t *sums      # [room / 64 + 1]
    uint16_t *choices   # [(want + 1) * groups]
    int64_t cost


# The cores of one group from some place on, as far as costs go.
cdef struct Rest:
    int even           # as the node's
    int most           # no core has more room
    int filled_room    # all FILLED cores together, and so on
    int spoilt_room
    int shared_room
    int *filled_from   # [units] the last place from which on some FILLED cores make up exactly that
    int *spoilt        # [room] how many SPOILT cores have it
    int *shared        # [room]


cdef inline int64_t _cost(int groups, int shared, int broken, int lost) noexcept nogil:
    return (((<int64_t>groups << LEVEL | shared) << LEVEL | broken) << LOST) | lost


cdef inline int _lost(const Node *node, int open, int units) noexcept nogil:
    return node.accept[open] - node.accept[max(open - units * node.unit, 0)]


cdef int _fewest(const int *count, int most, int units, int *covered) noexcept nogil:
    """Return how few cores have room for so many units, and what they have room for together."""
    cdef int used = 0, room = most, enough
    covered[0] = 0
    while covered[0] < units and room > 0:
        enough = (units - covered[0] + room - 1) // room
        if enough > count[room]:
            enough = count[room]
        used += enough
        covered[0] += enough * room
        room -= 1
    return used


cdef int64_t _cheapest(const Rest *rest, int place, int units) noexcept nogil:
    """Return the least cost of taking so many units from the rest, which begins at the place."""
    cdef int shared, broken, covered = 0
    if units <= rest.filled_room:
        if rest.even:
            return 0 if units % rest.even == 0 else _cost(0, 0, 1, 0)
        return 0 if rest.filled_from[units] >= place else _cost(0, 0, 1, 0)
    units -= rest.filled_room
    if units > rest.spoilt_room + rest.shared_room:
        return NEVER
    if rest.even:
        shared = max(units - rest.spoilt_room, 0)
        return _cost(0, shared, (units - shared + rest.even - 1) // rest.even, 0)
    shared = _fewest(rest.shared, rest.most, units - rest.spoilt_room, &covered)
    # The last shared core may hold more than it had to, which may save spoilt ones.
    broken = _fewest(rest.spoilt, rest.most, units - covered, &covered)
    return _cost(0, shared, broken, 0)


cdef inline int64_t _core_cost(const Node *node, int core, int units) noexcept nogil:
    if units == 0:
        return 0
    if node.kind[core] == SHARED:
        return _cost(0, 1, 0, 0)
    if node.kind[core] == SPOILT or units < node.room[core]:
        return _cost(0, 0, 1, 0)
    return 0


cdef inline void _count(const Node *node, int core, int times, Rest *rest) noexcept nogil:
    """Put a core into the rest (times 1) or take it out (times -1)."""
    cdef int room = node.room[core]
    if node.kind[core] == FILLED:
        rest.filled_room += times * room
    elif node.kind[core] == SPOILT:
        rest.spoilt_room += times * room
        if not rest.even:
            rest.spoilt[room] += times
    else:
        rest.shared_room += times * room
        if not rest.even:
            rest.shared[room] += times


cdef void _load(Node *node, int group, Rest *rest) noexcept nogil:
    """Make the rest all of a group."""
    cdef int place, core, room, word, step, bit, highest = 0
    cdef uint64_t moved
    cdef int begin = node.first[group], end = node.first[group + 1]
    rest.even = node.even
    if node.even:
        rest.filled_room, rest.spoilt_room = node.filled_rooms[group], node.spoilt_rooms[group]
        rest.shared_room = node.rooms[group] - rest.filled_room - rest.spoilt_room
        return
    rest.most = rest.filled_room = rest.spoilt_room = rest.shared_room = 0
    rest.filled_from, rest.spoilt, rest.shared = node.filled_from, node.spoilt, node.shared
    for place in range(begin, end):
        if node.room[node.core[place]] > rest.most:
            rest.most = node.room[node.core[place]]
    memset(rest.spoilt, 0, (rest.most + 1) * sizeof(int))
    memset(rest.shared, 0, (rest.most + 1) * sizeof(int))
    for place in range(begin, end):
        _count(node, node.core[place], 1, rest)

    # The sums that the cores from a place on can make up; from the last core to the first, so that
    # a sum's first sight is the last place that still makes it.
    memset(node.sums, 0, (rest.filled_room // 64 + 1) * sizeof(uint64_t))
    memset(rest.filled_from, 0xFF, (rest.filled_room + 1) * sizeof(int))
    node.sums[0] = 1
    rest.filled_from[0] = end
    for place in range(end - 1, begin - 1, -1):
        core = node.core[place]
        room = node.room[core]
        if node.kind[core] != FILLED or room == 0:
            continue
        highest += room
        step, bit = room // 64, room % 64
        for word in range(highest // 64, step - 1, -1):
            moved = node.sums[word - step] << bit
            if bit and word > step:
                moved |= node.sums[word - step - 1] >> (64 - bit)
            moved &= ~node.sums[word]
            node.sums[word] |= moved
            while moved:
                rest.filled_from[64 * word + lowest_bit(moved)] = place
                moved &= moved - 1


cdef void _tabulate(Node *node, int group) noexcept nogil:
    """Write down what each take costs in a group."""
    cdef Rest rest
    cdef int units
    cdef int64_t *costs = node.costs + node.table[group]
    _load(node, group, &rest)
    costs[0] = 0
    for units in range(1, node.limit[group] + 1):
        costs[units] = _cheapest(&rest, node.first[group], units) + _cost(
            1, 0, 0, _lost(node, node.open[group], units)
        )


cdef int64_t _in_one(Node *node, int group, int units) noexcept nogil:
    """Return the least cost of taking so many units from one group; mostly one word of sums says it."""
    cdef Rest rest
    cdef int place, core, filled = 0
    cdef uint64_t sums = 1
    if node.even:
        _load(node, group, &rest)
        return _cheapest(&rest, 0, units)
    for place in range(node.first[group], node.first[group + 1]):
        core = node.core[place]
        if node.kind[core] == FILLED:
            filled += node.room[core]
            if filled > 63:
                break
            sums |= sums << node.room[core]
    if units <= filled < 64:
        return 0 if sums >> units & 1 else _cost(0, 0, 1, 0)
    _load(node, group, &rest)
    return _cheapest(&rest, node.first[group], units)


cdef int _alone(Node *node) noexcept nogil:
    """Return the group that takes all at the least cost, which becomes the node's; -1: none can."""
    cdef int group, chosen = -1
    cdef int64_t cost
    node.cost = NEVER
    for group in range(node.groups):
        if node.rooms[group] < node.want:
            continue
        cost = _cost(1, 0, 0, _lost(node, node.open[group], node.want))
        if cost >= node.cost:
            continue
        cost += _in_one(node, group, node.want)
        if cost < node.cost:
            node.cost = cost
            chosen = group
    return chosen


cdef void _take(Node *node, int group, int units) noexcept nogil:
    """Take so many units from the cores of a group, at the least cost, the first cores first."""
    cdef Rest rest
    cdef int place, core, here
    cdef int64_t due
    _load(node, group, &rest)
    due = _cheapest(&rest, node.first[group], units)
    for place in range(node.first[group], node.first[group + 1]):
        core = node.core[place]
        _count(node, core, -1, &rest)
        here = min(units, node.room[core])
        while _core_cost(node, core, here) + _cheapest(&rest, place + 1, units - here) != due:
            here -= 1
        due -= _core_cost(node, core, here)
        units -= here
        node.take[core] = here * node.unit


cdef void _lay_out(Node *node) noexcept nogil:
    """Measure the groups against what is wanted, and lay out their tables."""
    cdef int group, table = 0
    for group in range(node.groups):
        node.limit[group] = min(node.rooms[group], node.want)
        node.table[group] = table
        table += node.limit[group] + 1
    node.ahead[node.groups] = 0
    for group in range(node.groups - 1, -1, -1):
        node.ahead[group] = node.ahead[group + 1] + node.limit[group]


cdef inline int _low(const Node *node, int group) noexcept nogil:
    """Return the least that this group and the later ones must take together."""
    return max(0, node.want - (node.ahead[0] - node.ahead[group]))


cdef inline int _high(const Node *node, int group) noexcept nogil:
    """Return the most that they can take."""
    return min(node.want, node.ahead[group])


cdef void _search(Node *node, bint take) noexcept nogil:
    """Find the cost, and fill in `take` where that is wanted."""
    cdef int group, units, here, low, high, slack = 0
    cdef int64_t cost
    cdef int64_t *costs
    cdef int64_t *row = node.row
    cdef int64_t *after = node.next_row
    cdef uint16_t *choice = node.choices

    group = _alone(node)
    if group >= 0:
        if take:
            _take(node, group, node.want)
        return
    _lay_out(node)
    for group in range(node.groups):
        _tabulate(node, group)
    memset(node.shared, 0, (node.want + 1) * sizeof(int))
    for group in range(node.groups):
        node.shared[node.limit[group]] += 1
    _fewest(node.shared, node.want, node.want, &slack)
    slack -= node.want

    after[0] = 0
    for group in range(node.groups - 1, -1, -1):
        costs = node.costs + node.table[group]
        low, high = _low(node, group + 1), _high(node, group + 1)
        for units in range(_low(node, group), _high(node, group) + 1):
            row[units] = NEVER
            choice[0] = 0
            for here in range(
                min(node.limit[group], units - low),
                max(1, node.limit[group] - slack, units - high) - 1,
                -1,
            ):
                cost = costs[here] + after[units - here]
                if cost < row[units]:
                    row[units] = cost
                    choice[0] = here
            if low <= units <= high and after[units] < row[units]:
                row[units] = after[units]
                choice[0] = 0
            choice += 1
        row, after = after, row
    node.cost = after[node.want]

    units = node.want
    for group in range(node.groups if take else 0):
        choice -= _high(node, group) - _low(node, group) + 1
        here = choice[units - _low(node, group)]
        if here:
            _take(node, group, here)
        units -= here
