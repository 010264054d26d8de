# The search over NUMA nodes: no Python object, no GIL. Its rules:
#
# 1. What a place costs, the first level counting most: the distances between all pairs of vCPUs, and of each to what
#    the guest already has elsewhere (near); then the sum of what the nodes cost by themselves (_fit_search.pxi).
# 2. Every distance between two nodes is at least 1, so moving vCPUs between two nodes that are both partly used always
#    pays in one direction. Hence all nodes of a best place are filled, but one at most. They need not be few: a node
#    that could be left out may save distance between two others.
# 3. Filled nodes are chosen in a fixed order, the one that is not filled at each step among all the others. A branch
#    is left where not even this would beat the best: what is still to come on the nearest nodes with room, in as few
#    of these as hold it, the least distance apart; each node at least its least cost.
# 4. Of nodes that are alike in everything, the first ones are filled first.
# 5. Where one node takes all at no distance, that is the answer, of guests with cells as well. Each node is bounded
#    first, from sums alone; mostly few must be searched then.
# 6. Cells of a guest are whole in a node each. They are given nodes one after the other, the largest first; of cells
#    that are alike the earlier one's node comes first. The same bounds hold.
#    Cells without vCPUs come last and cost nothing: they need a node that has what they need, any will do.
# 7. After so many steps the search ends with the best so far, and says that it was not proved. Where cells have no
#    place by then, it goes on for 16 times as many before it says that there is none.

cdef enum:
    MOST_NODES = 64
    MOST_CELLS = 256
    RESOURCES = 4


cdef enum Ready:
    LATER  # rooms and kinds of a node's cores are not worked out yet: of most nodes they never are
    TORN   # nor is their order, since groups do not follow one another
    READY


cdef struct Host:
    int nodes
    int cores
    int most_groups      # no node has more
    int most_rooms       # no L3 group has more units; 0 where some go beyond their node, which are counted otherwise
    int want             # units
    int unit
    int *first           # [nodes + 1] a node's cores begin there
    int *group_first     # [nodes + 1] and its groups there
    int *room            # [nodes] units that it can take
    int *open            # [nodes] PUs that may be taken
    const int *wide      # [nodes] an L3 group that goes beyond the node, -1: none
    const int64_t *distance  # [nodes * nodes] of one unit to another
    const int64_t *near  # [nodes] of one unit to what is elsewhere
    int *ready           # [nodes] see Ready
    int *roomy           # [nodes] the nodes, those with most room first
    int *alike           # [nodes] the first node that is like it in everything
    int *cluster         # [nodes] the first of the nodes that are near one another
    int64_t nearest      # between two nodes
    int64_t farther      # at least, between two clusters
    int64_t *memo        # [nodes * (want + 1)] what a node costs, plus 1; 0: not known
    bint spoilt          # whether any core is SPOILT
    Node all             # of which the cores and the groups stand node by node
    int core_limit       # PUs of a core
    bint whole
    int full_most        # no core that is all free has more units
    int shared_most      # and none that is not
    Node work            # one node of it
    # cells
    int cells
    int *size            # [cells] units
    int *cell_alike      # [cells] the first cell that is like it
    int resources
    const int64_t *need  # [cells * resources]
    int64_t *have        # [nodes * resources]
    # the search
    int64_t steps        # that are left
    int64_t limit        # how many there were
    bint proved
    int64_t best_distance
    int64_t best_cost
    int *best            # [nodes] units, or [cells] nodes
    int *now             # [nodes] units, or [cells] nodes
    int64_t offers       # how many times there was a better one


cdef int64_t FAR = <int64_t>1 << 62
cdef int[64] NOTHING  # zeros


cdef inline int _units(const Host *host, int free, int total) noexcept nogil:
    """Return how many units a core can give."""
    cdef int units = min(free, host.core_limit)
    units = units if host.unit == 1 else units // host.unit
    return units & -<int>(free == total or not host.whole)


cdef void _sort(Node *all, int begin, int end, int base, int groups) noexcept nogil:
    """Put the cores of a node group by group, in their order, and see where each group begins."""
    cdef int core, group
    cdef int *first = all.first
    cdef int *next = all.ahead  # the place of a group's next core
    memset(next + base, 0, (groups - base + 1) * sizeof(int))
    for core in range(begin, end):
        next[base + all.group[core] + 1] += 1
    next[base] = begin
    for group in range(base, groups):
        next[group + 1] += next[group]
        first[group] = next[group]
    for core in range(begin, end):
        group = base + all.group[core]
        all.core[next[group]] = core
        next[group] += 1


cdef void _prepare(Host *host, int place) noexcept nogil:
    """Work out what a node's cores have to give."""
    cdef Node *all = &host.all
    cdef int core, units, begin = host.first[place], end = host.first[place + 1]
    for core in range(begin, end):
        units = _units(host, all.free[core], all.total[core])
        all.room[core] = units
        all.kind[core] = SPOILT if units * all.unit < all.total[core] else FILLED
        if all.free[core] < all.total[core]:
            all.kind[core] = SHARED
        all.core[core] = core
    if host.ready[place] == TORN:
        _sort(all, begin, end, host.group_first[place], host.group_first[place + 1])
    host.ready[place] = READY


cdef void _open(Host *host, int place, int units) noexcept nogil:
    """Make one node's question: so many units."""
    cdef int begin = host.group_first[place]
    cdef Node *node = &host.work
    if host.ready[place] != READY:
        _prepare(host, place)
    node[0] = host.all
    node.groups = host.group_first[place + 1] - begin
    node.want = units
    node.first += begin
    node.open += begin
    node.rooms += begin
    node.filled_rooms += begin
    node.spoilt_rooms += begin


cdef inline int64_t _node_lost(const Host *host, int place, int units) noexcept nogil:
    """Return the acceptance that a node as such loses."""
    return host.all.accept[host.open[place]] - host.all.accept[max(host.open[place] - units * host.unit, 0)]


cdef inline int64_t _floor(const Host *host, int filled, int spoilt, int units) noexcept nogil:
    """Return what taking so many units costs at least, of cores with so much room; where all is even, exactly that."""
    cdef int shared = 0
    if units <= filled:
        return _cost(0, 0, 1, 0) if host.all.even and units % host.all.even else 0
    units -= filled
    if units > spoilt:
        shared = (units - spoilt + host.shared_most - 1) // host.shared_most
        units = max(units - shared * host.shared_most, 0)
    return _cost(0, shared, (units + host.full_most - 1) // host.full_most, 0)


cdef int _roomiest(const int *rooms, const int *more, int count, int units, int some) noexcept nogil:
    """Return how few places hold so many units; where `some` is not 0, what so many places hold at most."""
    cdef uint64_t done = 0
    cdef int place, chosen, most, used = 0, held = 0
    while (used < some if some else held < units) and used < count:
        chosen, most = 0, -1
        for place in range(count):
            if not done >> place & 1 and rooms[place] + more[place] > most:
                chosen, most = place, rooms[place] + more[place]
        done |= <uint64_t>1 << chosen
        held += most
        used += 1
    return held if some else used


cdef inline int _two(const int *rooms, const int *more, int count) noexcept nogil:
    """Return what the two roomiest places hold: what nearly all ask, in one pass without branches."""
    cdef int place, room, first = 0, second = 0
    for place in range(count):
        room = rooms[place] + more[place]
        second = max(second, min(first, room))
        first = max(first, room)
    return first + second


cdef int64_t _least_cost(const Host *host, int place, int units) noexcept nogil:
    """Return what so many units cost at least in a node that has room for them, without searching it."""
    cdef int begin = host.group_first[place]
    cdef int count = host.group_first[place + 1] - begin
    cdef const Node *all = &host.all
    cdef int64_t best = NEVER, cost, known = host.memo[<int64_t>place * (host.want + 1) + units]
    cdef int group, used, filled, full
    if known:
        return known - 1
    for group in range(begin, begin + count):
        if all.rooms[group] < units:
            continue
        cost = _cost(1, 0, 0, _lost(all, all.open[group], units))
        if cost < best:
            best = min(best, cost + _floor(host, all.filled_rooms[group], all.spoilt_rooms[group], units))
    if best == NEVER:
        best = _cost(2, 0, 0, 0)
        if count <= 64:
            # the fewest groups, and of these the least that so many could cost
            if _two(all.rooms + begin, NOTHING, count) >= units:
                used, full = 2, _two(all.filled_rooms + begin, all.spoilt_rooms + begin, count)
            else:
                used = _roomiest(all.rooms + begin, NOTHING, count, units, 0)
                full = _roomiest(all.filled_rooms + begin, all.spoilt_rooms + begin, count, 0, used)
            filled = full
            if host.spoilt:
                filled = _roomiest(all.filled_rooms + begin, NOTHING, count, 0, used)
            best = _cost(used, 0, 0, 0)
            if units > filled:
                best += _floor(host, filled, full - filled, units)
    best += _node_lost(host, place, units)
    if host.wide[place] >= 0:
        best -= _cost(1, 0, 0, 0)  # counted with all that are used
    return best


cdef int64_t _node_cost(Host *host, int place, int units) noexcept nogil:
    """Return what so many units cost in a node, without distances."""
    cdef int64_t *known
    if units == 0:
        return 0
    known = host.memo + <int64_t>place * (host.want + 1) + units
    if known[0] == 0:
        _open(host, place, units)
        _search(&host.work, False)
        known[0] = host.work.cost + _node_lost(host, place, units) + 1
        if host.wide[place] >= 0:
            known[0] -= _cost(1, 0, 0, 0)  # counted with all that are used
    return known[0] - 1


cdef inline int64_t _wide_cost(const Host *host, const int *units) noexcept nogil:
    """Return the cost of the L3 groups that go beyond nodes."""
    cdef uint64_t seen = 0
    cdef int place
    for place in range(host.nodes):
        if units[place] and host.wide[place] >= 0:
            seen |= <uint64_t>1 << host.wide[place]
    return _cost(KVMAFF_ONES(seen), 0, 0, 0)


cdef bint _may_improve(const Host *host, int64_t distance, const int *units) noexcept nogil:
    """Whether so many units by node may cost less than the best."""
    cdef int64_t cost
    cdef int place
    if distance != host.best_distance:
        return distance < host.best_distance
    cost = _wide_cost(host, units)
    for place in range(host.nodes):
        if units[place]:
            cost += _least_cost(host, place, units[place])
    return cost < host.best_cost


cdef void _offer(Host *host, int64_t distance, const int *units, const int *answer, int length) noexcept nogil:
    """Take an answer if it is better than the best."""
    cdef int64_t cost
    cdef int place
    if not _may_improve(host, distance, units):
        return
    cost = _wide_cost(host, units)
    for place in range(host.nodes):
        if units[place]:
            cost += _node_cost(host, place, units[place])
            if distance == host.best_distance and cost >= host.best_cost:
                return
    host.best_distance = distance
    host.best_cost = cost
    host.offers += 1
    for place in range(length):
        host.best[place] = answer[place]


cdef int64_t _apart(const Host *host, int rest, int but) noexcept nogil:
    """
    Return in how many pairs `rest` units are apart, in the fewest nodes not used yet, without one; -1: no room.

    These are the roomiest, and no other nodes hold the units with fewer pairs apart.
    """
    cdef int64_t pairs = <int64_t>rest * rest
    cdef int index = 0, place, take
    while rest > 0 and index < host.nodes:
        place = host.roomy[index]
        index += 1
        if place == but or host.now[place]:
            continue
        take = min(rest, host.room[place])
        pairs -= <int64_t>take * take
        rest -= take
    return -1 if rest else pairs // 2


cdef int64_t _clusters_apart(const Host *host, int rest, const int *room) noexcept nogil:
    """Return in how many pairs `rest` units are apart at least, in clusters with so much room, which is enough."""
    cdef int64_t pairs = <int64_t>rest * rest
    cdef uint64_t done = 0
    cdef int place, chosen, take
    while rest > 0:
        chosen = take = 0
        for place in range(host.nodes):
            if room[place] > take and not done >> place & 1:
                chosen, take = place, room[place]
        done |= <uint64_t>1 << chosen
        take = min(rest, take)
        pairs -= <int64_t>take * take
        rest -= take
    return pairs // 2


cdef int64_t _bound(const Host *host, int rest, int64_t pairs, const int64_t *linear) noexcept nogil:
    """
    Return the least distance that `rest` more units add, over the nodes that are not used yet; `pairs` are apart.

    Each part is bounded by itself: to what is placed already, on the nearest nodes with room; among one another, in
    the fewest nodes and in the fewest clusters of nodes that hold them.
    """
    cdef int room[MOST_NODES]
    cdef int together[MOST_NODES]
    cdef int64_t total = 0, best, far
    cdef int place, left = rest, chosen, take
    memset(together, 0, host.nodes * sizeof(int))
    for place in range(host.nodes):
        room[place] = 0 if host.now[place] else host.room[place]
        together[host.cluster[place]] += room[place]
    while left > 0:
        chosen, best = -1, FAR
        for place in range(host.nodes):
            far = linear[place] if room[place] else FAR
            chosen = place if far < best else chosen
            best = min(best, far)
        if chosen < 0:
            return FAR
        take = min(left, room[chosen])
        room[chosen] = 0
        total += take * best
        left -= take
    total += pairs * host.nearest
    if host.farther > host.nearest:
        total += _clusters_apart(host, rest, together) * (host.farther - host.nearest)
    return total


cdef void _fill(Host *host, int begin, int left, int64_t distance, int64_t cost,
                const int64_t *linear) noexcept nogil:
    """Share what is left among nodes; those before `begin` are decided, but may still be the one partly used."""
    cdef int64_t more[MOST_NODES]
    cdef int64_t here, least, pairs, floor
    cdef int place, other, rest, ahead = 0, behind = 0
    for place in range(host.nodes):
        if host.now[place] == 0 and host.room[place] >= left:
            here = distance + left * linear[place]
            if here <= host.best_distance:
                host.now[place] = left
                _offer(host, here, host.now, host.now, host.nodes)
                host.now[place] = 0
    for place in range(host.nodes):
        if place >= begin:
            ahead += host.room[place]
        elif host.now[place] == 0:
            behind = max(behind, host.room[place])
    for place in range(begin, host.nodes):
        # of those passed over one may still be partly used, and no more
        if ahead + behind < left:
            return
        ahead -= host.room[place]
        behind = max(behind, host.room[place])
        if host.room[place] == 0 or host.room[place] >= left:
            continue
        if host.alike[place] != place and _skipped(host, place):
            continue
        here = distance + host.room[place] * linear[place]
        rest = left - host.room[place]
        # what is left is no nearer to all the others, and no nearer together
        pairs = _apart(host, rest, place)
        if pairs < 0 or here + host.nearest * (<int64_t>rest * (host.want - rest) + pairs) > host.best_distance:
            continue
        host.steps -= 1
        if host.steps < 0:
            host.proved = False
            return
        host.now[place] = host.room[place]
        for other in range(host.nodes):
            more[other] = linear[other] + host.room[place] * host.distance[place * host.nodes + other]
        least = _bound(host, rest, pairs, more)
        if least < FAR and here + least <= host.best_distance:
            # equal distances are decided by what nodes cost: more than what is spent it will be
            floor = cost
            if host.most_rooms:
                floor += _cost((rest + host.most_rooms - 1) // host.most_rooms, 0, 0, 0)
            if here + least < host.best_distance or (
                floor + _least_cost(host, place, host.room[place]) < host.best_cost
                and floor + _node_cost(host, place, host.room[place]) < host.best_cost
            ):
                _fill(host, place + 1, rest, here,
                      cost + _node_cost(host, place, host.room[place]), more)
        host.now[place] = 0


cdef bint _skipped(const Host *host, int place) noexcept nogil:
    """Whether an earlier node that is alike is not filled: then this one stays empty too."""
    cdef int other
    for other in range(host.alike[place], place):
        if host.alike[other] == host.alike[place] and host.now[other] == 0:
            return True
    return False


cdef bint _hold(const Host *host, int cell, const int *used) noexcept nogil:
    """Whether nodes may still hold the cells from one on: none of it counts more than one size at a time."""
    cdef int place, left, count = 0, units = 0, slots, usable
    while cell < host.cells and host.size[cell]:
        count += 1
        units += host.size[cell]
        cell += 1
        if cell < host.cells and host.size[cell] == host.size[cell - 1]:
            continue
        slots = usable = 0
        for place in range(host.nodes):
            left = host.room[place] - used[place]
            slots += left // host.size[cell - 1]
            if left >= host.size[cell - 1]:
                usable += left
        if slots < count or usable < units:
            return False
    return True


cdef void _assign(Host *host, int cell, int64_t distance, int *used, int64_t *linear, int64_t *have) noexcept nogil:
    """Give the cells from one on a node each."""
    cdef int64_t more[MOST_NODES]
    cdef int64_t here, least, best, offers = host.offers
    cdef int place, other, size, res, begin = 0
    cdef bint fits
    size = host.size[cell]
    if size == 0 and not _may_improve(host, distance, used):
        return  # the cells that are left cost nothing
    if cell and host.cell_alike[cell] == host.cell_alike[cell - 1]:
        begin = host.now[cell - 1]
    for place in range(begin, host.nodes):
        fits = used[place] + size <= host.room[place]
        for res in range(host.resources):
            fits = fits and host.need[cell * host.resources + res] <= have[place * host.resources + res]
        here = distance + size * linear[place]
        if not fits or here > host.best_distance:
            continue
        host.steps -= 1
        if host.steps < (0 if host.best_distance < FAR else -15 * host.limit):
            host.proved = False
            return
        if cell + 1 == host.cells:
            host.now[cell] = place
            used[place] += size
            _offer(host, here, used, host.now, host.cells)
            used[place] -= size
            if size == 0 and host.offers > offers:
                return  # any other node costs the same
            continue
        for other in range(host.nodes):
            more[other] = linear[other] + size * host.distance[place * host.nodes + other]
        if host.best_distance == FAR:
            used[place] += size
            fits = _hold(host, cell + 1, used)
            used[place] -= size
            if not fits:
                continue
        least = 0
        for other in range(cell + 1, host.cells):
            best = FAR
            for res in range(host.nodes):
                if more[res] < best and host.room[res] >= host.size[other]:
                    best = more[res]
            if best == FAR:
                return
            least += best * host.size[other]
        if here + least > host.best_distance:
            continue
        host.now[cell] = place
        used[place] += size
        for res in range(host.resources):
            have[place * host.resources + res] -= host.need[cell * host.resources + res]
        _assign(host, cell + 1, here, used, more, have)
        for res in range(host.resources):
            have[place * host.resources + res] += host.need[cell * host.resources + res]
        used[place] -= size
        if size == 0 and host.offers > offers:
            return


cdef void _cluster(Host *host) noexcept nogil:
    """Put nodes that are the least distance apart into clusters, and see how far these are apart."""
    cdef int one, other, place, n = host.nodes
    cdef int64_t far
    host.nearest = host.farther = FAR
    for one in range(n):
        host.cluster[one] = one
        if host.room[one] == 0:
            continue
        for other in range(one):
            far = host.distance[one * n + other] if host.room[other] else FAR
            host.nearest = min(host.nearest, far)
    for one in range(n):
        for other in range(one):
            if host.distance[one * n + other] <= host.nearest and host.cluster[one] != host.cluster[other]:
                for place in range(one + 1):
                    if host.cluster[place] == host.cluster[one] and place != one:
                        host.cluster[place] = host.cluster[other]
                host.cluster[one] = host.cluster[other]
    for one in range(n):
        if host.room[one] == 0:
            continue
        for other in range(one):
            far = host.distance[one * n + other] if host.room[other] else FAR
            host.farther = min(host.farther, FAR if host.cluster[one] == host.cluster[other] else far)
    if host.nearest == FAR:
        host.nearest = 0  # no two nodes have room
    if host.farther == FAR:
        host.farther = host.nearest


cdef bint _like(const Host *host, int one, int other) noexcept nogil:
    """Whether two nodes may change places in any answer without changing its cost."""
    cdef int place, n = host.nodes
    cdef int cores = host.first[one + 1] - host.first[one]
    cdef const Node *all = &host.all
    if host.room[one] != host.room[other] or host.near[one] != host.near[other] or host.wide[one] != host.wide[other]:
        return False
    if host.open[one] != host.open[other] or host.first[other + 1] - host.first[other] != cores:
        return False
    for place in range(n):
        if place != one and place != other and host.distance[one * n + place] != host.distance[other * n + place]:
            return False
    return (
        memcmp(all.group + host.first[one], all.group + host.first[other], cores * sizeof(int)) == 0
        and memcmp(all.total + host.first[one], all.total + host.first[other], cores * sizeof(int)) == 0
        and memcmp(all.free + host.first[one], all.free + host.first[other], cores * sizeof(int)) == 0
    )


cdef void _greedy(Host *host, int seed) noexcept nogil:
    """Offer what comes of taking the nearest node with room again and again, beginning with one."""
    cdef int64_t linear[MOST_NODES]
    cdef int64_t distance = 0, more
    cdef int place, other, left = host.want, chosen = seed, take
    for place in range(host.nodes):
        linear[place] = host.near[place]
    while True:
        take = min(left, host.room[chosen])
        host.now[chosen] = take
        distance += take * linear[chosen]
        left -= take
        # the search that follows finds what is as good; here one good answer is enough
        more = <int64_t>left * (host.want - left) + _apart(host, left, -1)
        if distance + host.nearest * more >= host.best_distance:
            break
        if left == 0:
            _offer(host, distance, host.now, host.now, host.nodes)
            break
        for place in range(host.nodes):
            linear[place] += take * host.distance[chosen * host.nodes + place]
        chosen = -1
        for place in range(host.nodes):
            if host.now[place] == 0 and host.room[place] and (
                chosen < 0
                # what a unit there costs, and how many more can follow at that price
                or linear[place] * min(left, host.room[chosen]) < linear[chosen] * min(left, host.room[place])
            ):
                chosen = place
        if chosen < 0:
            break
    memset(host.now, 0, host.nodes * sizeof(int))


cdef bint _holds_all(const Host *host, int place) noexcept nogil:
    """Whether a node has room for the whole guest, and what all its cells need."""
    cdef int cell, res
    cdef int64_t left
    if host.room[place] < host.want:
        return False
    for res in range(host.resources):
        left = host.have[place * host.resources + res]
        for cell in range(host.cells):
            if host.need[cell * host.resources + res] > left:
                return False
            left -= host.need[cell * host.resources + res]
    return True


cdef bint _in_one_node(Host *host) noexcept nogil:
    """Take one node, the first of the best, if any has room for all; the one that may be best is searched first."""
    cdef int64_t bounds[MOST_NODES]
    cdef int64_t least = FAR, cost
    cdef int place, chosen, best = -1
    cdef uint64_t holds = 0
    for place in range(host.nodes):
        if _holds_all(host, place):
            holds |= <uint64_t>1 << place
            least = min(least, host.near[place])
    if holds == 0:
        return False
    for place in range(host.nodes):
        bounds[place] = FAR
        if holds >> place & 1 and host.near[place] == least:
            bounds[place] = _least_cost(host, place, host.want)
            if host.wide[place] >= 0:
                bounds[place] += _cost(1, 0, 0, 0)
    while True:
        chosen = 0
        for place in range(1, host.nodes):
            if bounds[place] < bounds[chosen]:
                chosen = place
        if bounds[chosen] == FAR or bounds[chosen] > host.best_cost:
            break
        if bounds[chosen] == host.best_cost and chosen > best:
            break
        bounds[chosen] = FAR
        cost = _node_cost(host, chosen, host.want)
        if host.wide[chosen] >= 0:
            cost += _cost(1, 0, 0, 0)
        if cost < host.best_cost or (cost == host.best_cost and chosen < best):
            best, host.best_cost = chosen, cost
    host.best_distance = host.want * least
    if host.cells:
        for place in range(host.cells):
            host.best[place] = best
    else:
        memset(host.best, 0, host.nodes * sizeof(int))
        host.best[best] = host.want
    return True


cdef void _search_host(Host *host) noexcept nogil:
    """Find the best answer: units by node, or nodes by cell."""
    cdef int used[MOST_NODES]
    cdef int64_t linear[MOST_NODES]
    cdef int place, other
    for place in range(host.nodes):
        linear[place] = host.near[place]
        host.alike[place] = place
    # cells without vCPUs may let the others into nodes that do not hold all
    if _in_one_node(host) and host.best_distance == 0 and not (host.cells and host.size[host.cells - 1] == 0):
        return
    if host.cells:
        memset(used, 0, sizeof(used))
        if _hold(host, 0, used):
            _assign(host, 0, 0, used, linear, host.have)
        return
    _cluster(host)
    host.most_rooms = 1
    for other in range(host.group_first[host.nodes]):
        host.most_rooms = max(host.most_rooms, host.all.rooms[other])
    for place in range(host.nodes):
        if host.wide[place] >= 0:
            host.most_rooms = 0
    for place in range(host.nodes):
        other = place
        while other and host.room[host.roomy[other - 1]] < host.room[place]:
            host.roomy[other] = host.roomy[other - 1]
            other -= 1
        host.roomy[other] = place
    memset(host.now, 0, host.nodes * sizeof(int))
    if host.best_distance == FAR:  # several nodes: only then does it matter which are alike
        for place in range(host.nodes):
            for other in range(place):
                # both at once: that only one of them is equal is not seldom
                if (host.room[place] ^ host.room[other]) | (host.open[place] ^ host.open[other]):
                    continue
                if host.alike[other] == other and _like(host, other, place):
                    host.alike[place] = other
                    break
        for other in range(host.nodes):
            place = host.roomy[other]
            if host.room[place]:
                _greedy(host, place)
    _fill(host, 0, host.want, 0, 0, linear)


cdef void _answer(Host *host, int *units) noexcept nogil:
    """Fill in `take` and what each node gives."""
    cdef int place
    memset(units, 0, host.nodes * sizeof(int))
    for place in range(host.cells or host.nodes):
        if host.cells:
            units[host.best[place]] += host.size[place]
        else:
            units[place] = host.best[place]
    for place in range(host.nodes):
        if units[place]:
            memset(host.all.take + host.first[place], 0, (host.first[place + 1] - host.first[place]) * sizeof(int))
            _open(host, place, units[place])
            _search(&host.work, True)
