"""Who is moved for whose sake -> lines and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.placement.choices import Choice
from kvmaff.placement.explain import level_words
from kvmaff.placement.moves import Moved
from kvmaff.placement.order import Step
from kvmaff.placement.rebalance import CleanUp, Gain

__all__ = ["choices_table", "gains_table", "steps_table"]


def choices_table(choices: Sequence[Choice]) -> Table:
    """
    Show what each number of moves is good for.

    Args:
        choices: The answers.

    Returns:
        A table with a row for each.
    """
    table = _table("moves", "who has a place then", "who has none", "moved for it", "admitted")
    before: set[str] = set()
    for one in choices:
        asked = (
            {demand.spec.name for demand in one.placement.basis.request.demands if demand.now is None}
            if (one.placement and one.placement.basis)
            else set()
        )
        placed = [guest.spec.name for guest in one.placement.guests] if one.placement else []
        new = [name for name in placed if name in asked and name not in before]
        also = "also " if before and new else ""
        before |= set(new)
        table.add_row(
            str(one.moves),
            Text(also + (", ".join(new) or "nobody")),
            Text(", ".join(guest.name for guest in one.unplaced) or "-"),
            Text("; ".join(map(_moved, one.moved)) or "-"),
            _admitted(one),
        )
    return table


def steps_table(steps: Iterable[Step]) -> Table:
    """
    Show the order in which guests change places.

    Args:
        steps: The steps.

    Returns:
        A table with a row for each.
    """
    table = _table("step", "guest", "vCPUs go to", "nodes", "")
    for number, step in enumerate(steps, 1):
        table.add_row(
            str(number),
            Text(step.guest),
            str(step.place.vcpu_cpus),
            _nodes(step.place.nodes),
            "waits there, and goes on later" if step.waits else "",
        )
    return table


def gains_table(found: CleanUp) -> Table:
    """
    Show what guests would gain elsewhere.

    Args:
        found: Who gains what.

    Returns:
        A table with a row for each, who gains most first.
    """
    table = _table("guest", "vCPUs", "from", "to", "what it gains")
    moved = {one.guest: one for one in found.placement.moved()}
    for gain in found.gains:
        one = moved[gain.guest]
        table.add_row(
            Text(gain.guest),
            str(one.vcpus),
            _nodes(one.before),
            _nodes(one.after),
            Text("\n".join(_gained(gain))),
        )
    return table


def _gained(gain: Gain) -> list[str]:
    """The levels that differ: the first one counts."""
    lines = []
    for level, before, after in zip(gain.before.levels, gain.before.key, gain.after.key, strict=True):
        if before != after:
            lines.append(f"{level_words(level, before)} -> {level_words(level, after)}")
    return lines


def _admitted(one: Choice) -> str:
    admission = one.placement.admission if one.placement else None
    if admission is None:
        return "?"
    text = f"{admission.admitted} of {admission.asked} {_UNITS[admission.goal.value]}"
    return text if not admission.gap else f"{text}, at most {admission.bound} could be"


_UNITS = {"vcpus": "vCPUs", "guests": "guests"}


def _moved(one: Moved) -> str:
    return f"{one.guest} ({one.vcpus} vCPUs, {_nodes(one.before)} -> {_nodes(one.after)})"


def _nodes(nodes: Sequence[int]) -> str:
    if not nodes:
        return "-"
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
