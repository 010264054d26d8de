"""
Texts and values -> the options of a strategy.

A person types texts (``--option spill=yes``), a program or a TOML file has values; both are checked alike, and
everything that is wrong is said at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from kvmaff.errors import RequestError
from kvmaff.hooks.answers import OPTION_KINDS, option_kinds
from kvmaff.hooks.blame import clean
from kvmaff.placement.strategy import Strategy

__all__ = ["build_options", "near_miss"]

_BOOLS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def near_miss(word: str, words: Iterable[str]) -> str:
    """
    Suggest what somebody may have meant.

    Args:
        word: What they wrote.
        words: What there is.

    Returns:
        A clause to put after the sentence that refuses the word, or nothing where no word is near.
    """
    near = difflib.get_close_matches(word.lower(), sorted(words), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def build_options(strategy: Strategy, given: Mapping[str, object], everywhere: Mapping[str, Strategy]) -> Any:
    """
    Build the options of a strategy.

    Args:
        strategy: The strategy; its class of options was judged.
        given: Its options by name, as texts or as values of their type; ``-`` in a name counts as ``_``.
        everywhere: All strategies, so that an option of another one is recognised.

    Returns:
        A value of the strategy's own class of options; what was not given has its default.

    Raises:
        RequestError: An option is unknown, is given twice, or has a value of another type; or the class refuses
            the values. Everything that is wrong is named.
    """
    kinds = option_kinds(strategy.options)
    problems: list[str] = []
    values: dict[str, object] = {}
    for word, value in given.items():
        name = str(word).replace("-", "_")
        if name not in kinds:
            problems.append(_unknown(strategy, name, kinds, everywhere))
        elif name in values:
            problems.append(f"option {name!r} of strategy {strategy.name!r} is given twice")
        else:
            try:
                values[name] = _value(kinds[name], value)
            except ValueError as error:
                problems.append(f"option {name!r} of strategy {strategy.name!r} {error}")
    if not problems:
        try:
            return strategy.options(**values)
        except (ValueError, TypeError) as error:  # what attrs' validators raise
            problems.append(f"options of strategy {strategy.name!r}: {clean(error)}")
    raise RequestError.of(problems)


def _unknown(
    strategy: Strategy, name: str, kinds: Mapping[str, type], everywhere: Mapping[str, Strategy]
) -> str:
    said = f"strategy {strategy.name!r} has no option '{clean(name, 60)}'"
    near = near_miss(name, kinds)
    if near:
        return said + near
    others = [other.name for other in everywhere.values() if name in option_kinds(other.options)]
    if others:
        return f"{said}, {' and '.join(repr(other) for other in sorted(others))} has"
    listed = ", ".join(f"{option} ({OPTION_KINDS[kind]})" for option, kind in sorted(kinds.items()))
    return f"{said}; it has {listed or 'none'}"


def _value(kind: type, value: object) -> object:
    """Return the value as its type, or raise ValueError with what it should have been."""
    if kind is bool:
        if type(value) is bool:
            return value
        if type(value) is str and value.strip().lower() in _BOOLS:
            return _BOOLS[value.strip().lower()]
    elif kind is int:
        if type(value) is int:
            return value
        if type(value) is str and _INTEGER.fullmatch(value.strip()):
            return int(value)
    elif kind is float:
        if type(value) in (int, float, str):
            try:
                number = float(value)  # type: ignore[arg-type]
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
    elif type(value) is str:
        return value
    shown = f"'{clean(value, 60)}'" if type(value) is str else clean(repr(value), 60)
    raise ValueError(f"is {OPTION_KINDS[kind]}, not {shown}")
