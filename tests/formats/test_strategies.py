"""Strategies as JSON: the shape is a contract."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import attrs
import pytest

from kvmaff import NoOptions, PluginManager, Strategy, VcpuPolicy, option
from kvmaff.formats.strategies import strategies_data
from kvmaff.hooks.blame import Origin
from kvmaff.hooks.decide import find_strategy


class Reach(enum.StrEnum):
    """An enum."""

    PU = "pu"
    L3 = "l3"


@attrs.frozen
class Options:
    """One of each type."""

    reach: Reach = option(Reach.L3, "how far")
    spill: bool = option(default=False, help="whether")
    most: int = 4
    ratio: float = math.inf
    where: str = option("\x1b", help="where")


def _described(options: type = Options, origin: Origin | None = None) -> dict[str, Any]:
    strategy = Strategy(
        name="test", summary="a test's", place=print, options=options, vcpu_policy=VcpuPolicy.DEDICATED
    )
    data = strategies_data([(strategy, origin or Origin(name="mine"))], default="numa")
    assert data == json.loads(json.dumps(data, allow_nan=False))
    (found,) = data["strategies"]
    return found


def test_a_strategy() -> None:
    """Who gives it, what it wants and how guests are placed, each under its key; null is what is not known."""
    assert {
        "name": "test",
        "plugin": "mine",
        "distribution": None,
        "version": None,
        "summary": "a test's",
        "vcpu_policy": "dedicated",
        "default": False,
        "options": [],
    } == _described(NoOptions)
    found = _described(NoOptions, Origin(name="mine", distribution="kvmaff-mine", version="1.5"))
    assert ("kvmaff-mine", "1.5") == (found["distribution"], found["version"])


def test_options() -> None:
    """Each option has its type, its values where these can be listed, its default as JSON has it, and its help."""
    assert [
        ["name", "type", "values", "default", "help"],
        ["reach", "choice", ["pu", "l3"], "l3", "how far"],
        ["spill", "bool", None, False, "whether"],
        ["most", "int", None, 4, ""],
        ["ratio", "float", None, "inf", ""],
        ["where", "text", None, "\x1b", "where"],
    ] == [list(_described()["options"][0]), *(list(one.values()) for one in _described()["options"])]


@pytest.mark.parametrize("name", PluginManager.load().strategies())
def test_what_is_installed(name: str) -> None:
    """Every strategy that is installed with these tests is described, one of them as the default."""
    found = find_strategy(PluginManager.load(), name)
    (data,) = strategies_data([found], default="numa")["strategies"]
    assert (name, name == "numa") == (data["name"], data["default"])
    assert all(one["help"] for one in data["options"])
