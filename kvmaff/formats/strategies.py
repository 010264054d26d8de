"""Strategies -> what JSON can hold; the shape is a contract, as those of :mod:`kvmaff.formats.plain`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from kvmaff.hooks.blame import Origin
from kvmaff.hooks.options import option_text
from kvmaff.placement.strategy import Option, Strategy, options_of

__all__ = ["strategies_data"]

_TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "text"}


def strategies_data(found: Iterable[tuple[Strategy, Origin]], *, default: str) -> dict[str, Any]:
    """
    Describe strategies.

    Args:
        found: Each with whose it is.
        default: The name of the one that decides where nothing is said.

    Returns:
        ``strategies``, a list: for each ``name, plugin, distribution, version`` (null where not known), ``summary``,
        ``vcpu_policy`` (of guests of which nothing is said), ``default`` and ``options``, a list: for each ``name,
        type`` (bool, int, float, text, choice), ``values`` (of a choice, else null), ``default`` and ``help``.
    """
    return {
        "strategies": [
            {
                "name": strategy.name,
                "plugin": origin.name,
                "distribution": origin.distribution,
                "version": origin.version,
                "summary": strategy.summary,
                "vcpu_policy": strategy.vcpu_policy.value,
                "default": strategy.name == default,
                "options": [_option(option) for option in options_of(strategy.options)],
            }
            for strategy, origin in found
        ]
    }


def _option(option: Option) -> dict[str, Any]:
    default = option.default
    if option.choices or (isinstance(default, float) and not math.isfinite(default)):
        default = option_text(default)  # JSON has no infinity
    return {
        "name": option.name,
        "type": _TYPES.get(option.kind, "choice"),
        "values": list(option.choices) or None,
        "default": default,
        "help": option.help,
    }
