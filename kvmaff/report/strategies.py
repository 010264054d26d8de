"""Strategies and their options -> tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.hooks.blame import Origin, clean
from kvmaff.hooks.options import option_text
from kvmaff.placement.strategy import Option, Strategy, options_of

__all__ = ["options_table", "strategies_table"]

_SHOWN = 60  # characters of a default, which may be any text
_WORDS: dict[type, str] = {bool: "yes, no", int: "whole number", float: "number", str: "text"}

Found = Sequence[tuple[Strategy, Origin]]


def strategies_table(found: Found, *, default: str) -> Table:
    """
    Show strategies.

    Args:
        found: Each with whose it is.
        default: The name of the one that decides where nothing is said.

    Returns:
        A row for each: its name, whose it is, how guests are placed of which nothing is said, and what it wants.
    """
    table = _table("strategy", "from plug-in", "guests unless said", "what it wants")
    for strategy, origin in found:
        name = Text(strategy.name, style="bold")
        if strategy.name == default:
            name.append(" (default)", style="dim")
        whose = " ".join(word for word in (origin.distribution, origin.version) if word)
        plugin = Text(f"{origin.name} ({whose})" if whose else origin.name)
        table.add_row(name, plugin, Text(strategy.vcpu_policy.value), Text(strategy.summary))
    return table


def options_table(found: Found) -> Table | None:
    """
    Show the options of strategies.

    Args:
        found: The strategies, each with whose it is.

    Returns:
        A row for each option: its name, what values it has, which holds unless said, and what it does; None where
        there is no option.
    """
    table = _table("strategy", "option", "values", "default", "what it does")
    for strategy, _ in found:
        name = strategy.name
        for option in options_of(strategy.options):
            table.add_row(
                Text(name, style="bold"),
                Text(option.name, style="bold"),
                Text(_values(option)),
                Text(clean(option_text(option.default), _SHOWN)),
                Text(option.help),
            )
            name = ""  # once is enough
    return table if table.rows else None


def _values(option: Option) -> str:
    return ", ".join(option.choices) or _WORDS[option.kind]


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
