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
# 5. Cells of a guest are whole in a node each. They are given nodes one after the other, the largest first; of cells
#    that are alike the earlier one's node comes first. The same bounds hold.
# 6. After so many steps the search ends with the best so far, and says that it was not proved. Where cells have no
#    place by then, it goes on for 16 times as many before it says that there is none.

cdef enum:
    MOST_NODES = 64
    MOST_CELLS = 256
    RESOURCES = 4


cdef struct Host:
    int nodes
    int want             # units
    int unit
    int *first           # [nodes + 1] a node's cores begin there
    int *room            # [nodes] units that it can take
    int *open            # [nodes] PUs that may be taken
    int *groups          # [nodes]
    int *wide            # [nodes] an L3 group that goes beyond the node, -1: none
    int64_t *distance    # [nodes * nodes] of one unit to another
    int64_t *near        # [nodes] of one unit to what is elsewhere
    int *alike           # [nodes] the first node that is like it in everything
    int *cluster         # [nodes] the first of the nodes that are near one another
    int64_t nearest      # between two nodes
    int64_t farther      # at least, between two clusters
    int64_t *memo        # [nodes * (want + 1)] what a node costs, plus 1; 0: not known
    Node all             # of which the cores stand node by node
    Node work            # one node of it
    # cells
    int cells
    int *size            # [cells] units
    int *cell_alike      # [cells] the first cell that is like it
    int resources
    int64_t *need        # [cells * resources]
    int64_t *have        # [nodes * resources]
    # the search
    int64_t steps        # that are left
    int64_t limit        # how many there were
    bint proved
    int64_t best_distance
    int64_t best_cost
    int *best            # [nodes] units, or [cells] nodes
    int *now             # [nodes] units, or [cells] nodes


cdef int64_t FAR = <int64_t>1 << 62


cdef void _open(Host *host, int place, int units) noexcept nogil:
    """Make one node's question: so many units."""
    cdef int begin = host.first[place]
    cdef Node *node = &host.work
    node[0] = host.all
    node.cores = host.first[place + 1] - begin
    node.groups = host.groups[place]
    node.want = units
    node.group += begin
    node.total += begin
    node.free += begin
    node.room += begin
    node.kind += begin
    node.take += begin
    _sort(node)


cdef int64_t _node_cost(Host *host, int place, int units) noexcept nogil:
    """Return what so many units cost in a node, without distances."""
    cdef int64_t *known
    cdef int open, after
    if units == 0:
        return 0
    known = host.memo + <int64_t>place * (host.want + 1) + units
    if known[0] == 0:
        _open(host, place, units)
        _search(&host.work, False)
        open = host.open[place]
        after = max(open - units * host.unit, 0)
        known[0] = host.work.cost + host.all.accept[open] - host.all.accept[after] + 1
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


cdef void _offer(Host *host, int64_t distance, const int *units, const int *answer, int length) noexcept nogil:
    """Take an answer if it is better than the best."""
    cdef int64_t cost
    cdef int place
    if distance > host.best_distance:
        return
    cost = _wide_cost(host, units)
    for place in range(host.nodes):
        if units[place]:
            cost += _node_cost(host, place, units[place])
            if distance == host.best_distance and cost >= host.best_cost:
                return
    if distance < host.best_distance or cost < host.best_cost:
        host.best_distance = distance
        host.best_cost = cost
        for place in range(length):
            host.best[place] = answer[place]


cdef int64_t _apart(const Host *host, int rest, const int *room, int count) noexcept nogil:
    """Return in how many pairs at least `rest` units are apart, in places with so much room; -1: there is not enough."""
    cdef int64_t pairs = <int64_t>rest * rest
    cdef uint64_t done = 0
    cdef int place, chosen, take
    while rest > 0:
        chosen, take = -1, 0
        for place in range(count):
            if room[place] > take and not done >> place & 1:
                chosen, take = place, room[place]
        if chosen < 0:
            return -1
        done |= <uint64_t>1 << chosen
        take = min(rest, take)
        pairs -= <int64_t>take * take
        rest -= take
    return pairs // 2


cdef int64_t _bound(const Host *host, int rest, const int64_t *linear) noexcept nogil:
    """
    Return the least distance that `rest` more units add, over the nodes that are not used yet.

    Each part is bounded by itself: to what is placed already, on the nearest nodes with room; among one another, in
    the fewest nodes and in the fewest clusters of nodes that hold them.
    """
    cdef int room[MOST_NODES]
    cdef int together[MOST_NODES]
    cdef int64_t total = 0, best, pairs
    cdef int place, left = rest, chosen, take
    cdef uint64_t done = 0
    memset(together, 0, host.nodes * sizeof(int))
    for place in range(host.nodes):
        room[place] = 0 if host.now[place] else host.room[place]
        together[host.cluster[place]] += room[place]
    while left > 0:
        chosen, best = -1, FAR
        for place in range(host.nodes):
            if room[place] and linear[place] < best and not done >> place & 1:
                chosen, best = place, linear[place]
        if chosen < 0:
            return FAR
        done |= <uint64_t>1 << chosen
        take = min(left, room[chosen])
        total += take * best
        left -= take
    pairs = _apart(host, rest, room, host.nodes)
    if pairs < 0:
        return FAR
    total += pairs * host.nearest
    if host.farther > host.nearest:
        total += _apart(host, rest, together, host.nodes) * (host.farther - host.nearest)
    return total


cdef void _fill(Host *host, int begin, int left, int64_t distance, int64_t cost,
                const int64_t *linear) noexcept nogil:
    """Share what is left among nodes; those before `begin` are decided, but may still be the one partly used."""
    cdef int64_t more[MOST_NODES]
    cdef int64_t here, least
    cdef int place, other, ahead = 0, behind = 0
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
        if here + host.nearest * host.room[place] * (left - host.room[place]) > host.best_distance:
            continue
        host.steps -= 1
        if host.steps < 0:
            host.proved = False
            return
        host.now[place] = host.room[place]
        for other in range(host.nodes):
            more[other] = linear[other] + host.room[place] * host.distance[place * host.nodes + other]
        least = _bound(host, left - host.room[place], more)
        if least < FAR and here + least <= host.best_distance:
            # equal distances are decided by what nodes cost: more than what is spent it will be
            if here + least < host.best_distance or cost + _node_cost(host, place, host.room[place]) < host.best_cost:
                _fill(host, place + 1, left - host.room[place], here,
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
    while cell < host.cells:
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
    cdef int64_t here, least, best
    cdef int place, other, size, res, begin = 0
    cdef bint fits
    if cell == host.cells:
        _offer(host, distance, used, host.now, host.cells)
        return
    size = host.size[cell]
    if cell and host.cell_alike[cell] == host.cell_alike[cell - 1]:
        begin = host.now[cell - 1]
    for place in range(begin, host.nodes):
        fits = used[place] + size <= host.room[place]
        for res in range(host.resources):
            fits = fits and host.need[cell * host.resources + res] <= have[place * host.resources + res]
        if not fits:
            continue
        host.steps -= 1
        if host.steps < (0 if host.best_distance < FAR else -15 * host.limit):
            host.proved = False
            return
        here = distance + size * linear[place]
        if here > host.best_distance:
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


cdef void _cluster(Host *host) noexcept nogil:
    """Put nodes that are the least distance apart into clusters, and see how far these are apart."""
    cdef int one, other, place, n = host.nodes
    cdef int64_t far
    host.nearest = host.farther = FAR
    for one in range(n):
        host.cluster[one] = one
        for other in range(one):
            if host.room[one] and host.room[other]:
                host.nearest = min(host.nearest, host.distance[one * n + other])
    for one in range(n):
        for other in range(one):
            if host.distance[one * n + other] <= host.nearest and host.cluster[one] != host.cluster[other]:
                for place in range(one + 1):
                    if host.cluster[place] == host.cluster[one] and place != one:
                        host.cluster[place] = host.cluster[other]
                host.cluster[one] = host.cluster[other]
    for one in range(n):
        for other in range(one):
            far = host.distance[one * n + other]
            if host.room[one] and host.room[other] and host.cluster[one] != host.cluster[other]:
                host.farther = min(host.farther, far)
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
    cdef int64_t distance = 0
    cdef int place, other, left = host.want, chosen = seed, take
    for place in range(host.nodes):
        linear[place] = host.near[place]
    while True:
        take = min(left, host.room[chosen])
        host.now[chosen] = take
        distance += take * linear[chosen]
        left -= take
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


cdef void _search_host(Host *host) noexcept nogil:
    """Find the best answer: units by node, or nodes by cell."""
    cdef int used[MOST_NODES]
    cdef int64_t linear[MOST_NODES]
    cdef int place, other
    memset(used, 0, sizeof(used))
    for place in range(host.nodes):
        linear[place] = host.near[place]
        host.alike[place] = place
    if host.cells:
        if _hold(host, 0, used):
            _assign(host, 0, 0, used, linear, host.have)
        return
    _cluster(host)
    for place in range(host.nodes):
        if host.room[place] >= host.want:
            break
    else:  # several nodes: only then does it matter which are alike
        for place in range(host.nodes):
            for other in range(place):
                if host.alike[other] == other and _like(host, other, place):
                    host.alike[place] = other
                    break
        memset(host.now, 0, host.nodes * sizeof(int))
        for place in range(host.nodes):
            if host.room[place]:
                _greedy(host, place)
    memset(host.now, 0, host.nodes * sizeof(int))
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
            _open(host, place, units[place])
            _search(&host.work, True)
