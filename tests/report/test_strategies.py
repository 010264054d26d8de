"""Strategies and their options as tables."""

from __future__ import annotations

import io

import attrs
from rich.console import Console
from rich.table import Table

from kvmaff import NoOptions, PluginManager, Strategy, option
from kvmaff.hooks.blame import Origin
from kvmaff.hooks.decide import find_strategy
from kvmaff.report.strategies import options_table, strategies_table


@attrs.frozen
class Hostile:
    """Options of which a default is any text, and a help looks like markup."""

    where: str = option("\x1b[2J\u202e" + "x" * 999, "[red]where[/red] it is")
    most: int = 4


def _shown(table: Table | None, width: int = 160) -> str:
    assert table is not None
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def _found(options: type) -> list[tuple[Strategy, Origin]]:
    strategy = Strategy(name="test", summary="[b]a test's", place=print, options=options)
    return [(strategy, Origin(name="mine", distribution="kvmaff-mine", version="1.5"))]


def test_strategies() -> None:
    """A row says the name, whose it is, how guests are placed and what is wanted; one of them is the default."""
    text = _shown(strategies_table(_found(NoOptions), default="test"))
    for words in ("test (default)", "mine (kvmaff-mine 1.5)", "shared", "[b]a test's"):
        assert words in text
    assert "default" not in _shown(strategies_table(_found(NoOptions), default="numa"))


def test_options() -> None:
    """A row says the option, its values, what holds unless said, and what it does; the strategy is named once."""
    text = _shown(options_table(_found(Hostile)))
    assert 1 == text.count("test")
    for words in ("where", "text", "[red]where[/red] it is", "most", "whole number", "4", "?[2J?xxx"):
        assert words in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert len(text) < 2000
    assert None is options_table(_found(NoOptions))


def test_all_of_ours_on_a_narrow_terminal() -> None:
    """Nothing is cut off at 80 columns: every value and every word of help is there."""
    manager = PluginManager.load()
    found = [find_strategy(manager, name) for name in manager.strategies()]
    text = _shown(options_table(found), 80)
    assert "…" not in text
    for words in ("core", "node", "l3", "pu", "yes, no", "devices"):
        assert words in text
