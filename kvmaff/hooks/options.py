"""
Texts and values -> the options of a strategy.

A person types texts (``--option spill=yes``), a program or a TOML file has values; both are checked alike, and
everything that is wrong is said at once.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from kvmaff.errors import WrongUsage
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.placement.strategy import Option, Strategy, options_of

__all__ = ["build_options", "near_miss", "option_text", "rebuild_options"]

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
    folded = {one.casefold(): one for one in sorted(words)}
    near = difflib.get_close_matches(word.strip().casefold(), folded, n=1)
    return f", did you mean {folded[near[0]]!r}?" if near else ""


def option_text(value: object) -> str:
    """
    Write the value of an option as a person types it.

    Args:
        value: The value, of a type that an option may have.

    Returns:
        The text; :func:`build_options` reads it as the same value.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.StrEnum):
        return str.__str__(value._value_)  # what str(value) gives may be a plug-in's
    return repr(value) if isinstance(value, float) else str(value)


def build_options(
    strategy: Strategy, origin: Origin, given: Mapping[str, object], everywhere: Mapping[str, Strategy]
) -> Any:
    """
    Build the options of a strategy.

    Args:
        strategy: The strategy; its class of options was judged.
        origin: Whose it is.
        given: Its options by name, as texts or as values of their type; ``-`` in a name counts as ``_``.
        everywhere: All strategies, so that an option of another one is recognised.

    Returns:
        A value of the strategy's own class of options; what was not given has its default.

    Raises:
        WrongUsage: An option is unknown, is given twice, or has a value of another type; or the class refuses
            the values. Everything that is wrong is named.
        PluginError: The class of options fails.
    """
    options = {option.name: option for option in options_of(strategy.options)}
    problems: list[str] = []
    values: dict[str, object] = {}
    for word, value in given.items():
        name = str(word).replace("-", "_")
        if name not in options:
            problems.append(_unknown(strategy, name, options, everywhere))
        elif name in values:
            problems.append(f"option {name!r} of strategy {strategy.name!r} is given twice")
        else:
            try:
                values[name] = _value(options[name], value)
            except ValueError as error:
                problems.append(f"option {name!r} of strategy {strategy.name!r} {error}")
    if problems:
        raise WrongUsage.of(problems)
    refused = ""
    with blamed(origin, f"the options of strategy {strategy.name!r} failed"):
        try:
            return strategy.options(**values)
        except (ValueError, TypeError) as error:  # what attrs' validators raise
            refused = f"options of strategy {strategy.name!r}: {clean(error)}"
    raise WrongUsage.of([refused])


def rebuild_options(strategy: Strategy, origin: Origin, options: object) -> Any:
    """
    Build options again of what a program put into them: a class does not look at the types of its fields.

    Args:
        strategy: The strategy.
        origin: Whose it is.
        options: A value of its class of options.

    Returns:
        The same with every value of its type.

    Raises:
        WrongUsage: A value is none of its type.
        PluginError: The class of options fails.
    """
    with blamed(origin, f"the options of strategy {strategy.name!r} failed"):
        given = {option.name: getattr(options, option.attribute) for option in options_of(type(options))}
    return build_options(strategy, origin, given, {})


def _unknown(
    strategy: Strategy, name: str, options: Mapping[str, Option], everywhere: Mapping[str, Strategy]
) -> str:
    said = f"strategy {strategy.name!r} has no option '{clean(name, 60)}'"
    near = near_miss(name, options)
    if near:
        return said + near
    others = [
        other.name
        for other in everywhere.values()
        if any(name == option.name for option in options_of(other.options))
    ]
    if others:
        listed = " and ".join(repr(other) for other in sorted(others))
        return f"{said}, {listed} {'has' if len(others) == 1 else 'have'}"
    listed = ", ".join(
        f"{one.name} ({one.expects})" for one in sorted(options.values(), key=lambda one: one.name)
    )
    return f"{said}; it has {listed or 'none'}"


def _value(option: Option, value: object) -> object:
    """Return the value as its type, or raise ValueError with what it should have been."""
    kind, near = option.kind, ""
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
    elif kind is str:
        if type(value) is str:
            return value
    elif type(value) is kind:
        return value
    elif type(value) is str:
        choices, word = option.choices, value.strip()
        alike = [choice for choice in choices if choice.casefold() == word.casefold()]
        if word in choices or len(alike) == 1:
            return choices[word if word in choices else alike[0]]
        near = near_miss(word, choices)
    shown = f"'{clean(value, 60)}'" if type(value) is str else clean(repr(value), 60)
    raise ValueError(f"is {option.expects}, not {shown}{near}")
