"""
What a strategy is: a frozen value that a plug-in contributes, and what its options are.

Options are fields of an attrs class, each with a default and a type that a text can say. :func:`option` makes one with
the sentence that explains it, which ``kvmaff strategies`` shows.
"""

from __future__ import annotations

import enum
import functools
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from kvmaff.guest.spec import VcpuPolicy
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest

__all__ = ["NoOptions", "Option", "Strategy", "option", "options_of"]

T = TypeVar("T")

_HELP = "help"
_PLAIN: dict[type, str] = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}
"""The plain types that an option may have, and what a person calls a value of each."""
_MOST_CHOICES = 100


@attrs.frozen(kw_only=True)
class NoOptions:
    """The options of a strategy that has none."""


@attrs.frozen(kw_only=True)
class Strategy:
    """
    A way to decide where guests run.

    Attributes:
        name: What it is called, in lower case.
        summary: One sentence for a list of strategies.
        place: Decides: takes a request, gives the place of every guest. Pure: no I/O, no clock, no chance without a
            seed, so that the same request has the same answer. Raises PlacementImpossible where a guest has no
            place. Most call :func:`kvmaff.placement.solve.solve` with an objective of their own.
        vcpu_policy: The policy of guests of which nothing is said.
        options: The attrs class of its options; each field has a default and a type of str, int, float, bool or an
            enum.StrEnum. :func:`option` makes one that says what it is for.
    """

    name: str
    summary: str
    place: Callable[[PlacementRequest], Placement]
    options: type = NoOptions
    vcpu_policy: VcpuPolicy = VcpuPolicy.SHARED


def option(default: T, help: str, *, validator: Callable[[Any, Any, T], Any] | None = None) -> T:  # noqa: A002
    """
    Make an option: a field of the attrs class that a strategy names as its ``options``.

    Args:
        default: What holds where it is not given.
        help: One line that says what it does, for ``kvmaff strategies``; click and argparse call it so, too.
        validator: Raises ValueError for a value of the right type that is none all the same, as attrs' own do.

    Returns:
        The field; to a type checker, a value of the option's type.
    """
    return attrs.field(default=default, metadata={_HELP: help}, validator=validator)


@attrs.frozen(kw_only=True)
class Option:
    """
    What is known of one option.

    Attributes:
        name: What it is given by.
        attribute: What the class of options has it as.
        kind: Its type: str, int, float, bool, or a subclass of enum.StrEnum.
        default: What holds where it is not given.
        help: What it does, one line; empty where its author does not say.
    """

    name: str
    attribute: str
    kind: type
    default: Any
    help: str = ""

    @property
    def choices(self) -> dict[str, enum.StrEnum]:
        """The values of an enum by the text that says each; nothing for other types."""
        return _choices(self.kind)

    @property
    def expects(self) -> str:
        """What a person calls a value of it: "yes or no", "a number", "one of l3, pu"."""
        if self.kind in _PLAIN:
            return _PLAIN[self.kind]
        return f"one of {', '.join(self.choices)}"


def options_of(options: object) -> tuple[Option, ...]:
    """
    Say which options a class of options has.

    Args:
        options: The class.

    Returns:
        Its options, in their order.

    Raises:
        TypeError: It is no attrs class, or an option has no default, a type that no text can say, or a help that is
            no line; says everything that is wrong.
        NameError: A type is named that its module does not have.
    """
    if not isinstance(options, type) or not attrs.has(options):
        raise TypeError(f"{_kind(options)} is no attrs class")
    # what a class says of itself is asked at each decision; a metaclass of a stranger's may hash as it likes
    return _known_options(options) if type(options) is type else _options_of(options)


def _options_of(options: type) -> tuple[Option, ...]:
    hints = typing.get_type_hints(options)
    found, problems = [], []
    for field in attrs.fields(options):
        if field.init:
            wrong = _wrong(field, hints.get(field.name))
            if wrong:
                problems.append(f"{field.alias} {wrong}")
            else:
                found.append(
                    Option(
                        name=str(field.alias),
                        attribute=field.name,
                        kind=hints[field.name],
                        default=field.default,
                        help=field.metadata.get(_HELP, ""),
                    )
                )
    if problems:
        raise TypeError("; ".join(problems))
    return tuple(found)


_known_options = functools.lru_cache(256)(_options_of)


def _choices(kind: type) -> dict[str, enum.StrEnum]:
    # not by calling the enum, nor by str(): a plug-in's may do as it likes in both
    members: dict[str, Any] = getattr(kind, "__members__", {})
    return {member._value_: member for member in members.values()}


def _wrong(field: attrs.Attribute[Any], kind: object) -> str:
    """Say what is wrong with an option, or nothing."""
    # a plain EnumType: one of a plug-in's own could answer differently every time
    enumerated = type(kind) is enum.EnumType and issubclass(kind, enum.StrEnum)
    if not isinstance(kind, type) or (kind not in _PLAIN and not enumerated):
        return "is of a type other than str, int, float, bool and enum.StrEnum"
    if enumerated:
        words = list(_choices(kind))
        if not words or len(words) > _MOST_CHOICES or not all(_is_word(word) for word in words):
            return f"is an enum whose values are not 1 to {_MOST_CHOICES} printable words"
    if field.default is attrs.NOTHING:
        return "has no default"
    # a whole number is a number
    if type(field.default) is not kind and not (kind is float and type(field.default) is int):
        return f"is {'an enum' if enumerated else _PLAIN[kind]}, its default is {_kind(field.default)}"
    said = field.metadata.get(_HELP, "")
    if type(said) is not str or not said.isprintable():
        return "has a help that is not one printable line"
    return ""


def _is_word(text: str) -> bool:
    plain = type(text) is str and 0 < len(text) <= 60 and text.isprintable()
    return plain and not any(char.isspace() or char == "," for char in text)


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
