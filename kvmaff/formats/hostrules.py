"""What a file of specs says of the host whoever its guests are: ``[host]``, and ``[[pool]]`` for each CPU pool."""

from __future__ import annotations

from kvmaff.formats import amounts, fields
from kvmaff.formats.tables import Keys, Tables
from kvmaff.formats.tomltext import shown
from kvmaff.placement.request import HostRules, Pool

__all__ = ["host_rules"]

_HOST: Keys = {
    "reserved": ("reserved", fields.cpus),
    "overcommit": ("overcommit", amounts.ratio),
}
_POOL: Keys = {
    "name": ("name", fields.text),
    "cpus": ("cpus", fields.cpus),
    "overcommit": ("overcommit", amounts.ratio),
}


def host_rules(tables: Tables) -> HostRules:
    """
    Read what a file says of the host.

    Args:
        tables: The file; what is wrong is noted there.

    Returns:
        The rules, without what is wrong.
    """
    values = tables.one("host", _HOST)
    found = tables.document.data.get("pool", [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        tables.note(("pool",), "pool: is written [[pool]], one such table a pool")
        found = []
    names: dict[str, int] = {}
    pools: list[tuple[int, Pool]] = []
    for place, table in enumerate(found):
        number, path = place + 1, ("pool", place)
        label = f"pool {number}: "
        tables.unknown(path, label, table, _POOL)
        own = tables.values(path, label, table, _POOL)
        for key in ("name", "cpus"):
            if key not in table:
                tables.note(path, f"{label}{key}: is missing")
        if "name" in own and names.setdefault(own["name"], number) != number:
            first = names[own["name"]]
            tables.note((*path, "name"), f"{label}name: {shown(own['name'])} is pool {first}'s already")
        if "cpus" in own:
            pool = Pool(**{"name": "", **own})  # what has no name is noted, and may still be in another's way
            for other, before in pools:
                if both := before.cpus & pool.cpus:
                    tables.note((*path, "cpus"), f"{label}cpus: {both} are pool {other}'s already")
            pools.append((number, pool))
    return HostRules(pools=tuple(pool for _, pool in pools), **values)
