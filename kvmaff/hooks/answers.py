"""
What plug-ins answer, judged: is each value of the kind and the shape that was asked for?

Each judge returns everything that is wrong, a sentence each. Exact types are asked for: a value of a class of their
own could answer differently every time it is looked at. The parts of a placement are verify's to judge.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from itertools import islice
from typing import Any

import attrs

from kvmaff.guest.spec import VcpuPolicy
from kvmaff.guest.vmm import BUILTIN, Vmm
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.placement.placement import Unplaced
from kvmaff.placement.strategy import Strategy
from kvmaff.placement.verify import Violation

__all__ = [
    "OPTION_KINDS",
    "items_of",
    "judge_strategy",
    "judge_unplaced",
    "judge_violation",
    "judge_vmm",
    "option_kinds",
]

OPTION_KINDS: dict[type, str] = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}
"""The types that an option may have, and what a person calls a value of each."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_MOST = 1000
"""More values than this no plug-in means to give: an endless generator must not hang everybody."""


def items_of(origin: Origin, hook: str, answer: object) -> list[object]:
    """
    Take the values out of an answer.

    Args:
        origin: Whose answer it is.
        hook: The hook that it answers.
        answer: What was returned.

    Returns:
        Its values.

    Raises:
        PluginError: It is not iterable, fails on the way, or does not end.
    """
    # a text is iterable too, and never what is meant
    if type(answer) in (str, bytes) or not isinstance(answer, Iterable):
        raise origin.error(f"{hook} gave {_kind(answer)}, not an iterable")
    with blamed(origin, f"{hook} gave what fails when it is read"):
        values = list(islice(answer, _MOST + 1))
    if len(values) > _MOST:
        raise origin.error(f"{hook} gave more than {_MOST} values")
    return values


def judge_strategy(value: object) -> list[str]:
    """
    Judge a strategy.

    Args:
        value: What a plug-in gave for one.

    Returns:
        What is wrong with it.
    """
    if type(value) is not Strategy:
        return [f"{_kind(value)} is no Strategy"]
    if not _is_line(value.name) or len(value.name) > 64 or not _NAME.fullmatch(value.name):
        return [f"a strategy's name is lower-case words, digits and '-', not {_shown(value.name)}"]
    problems = []
    place: object = value.place
    if not _is_line(value.summary):
        problems.append(f"its summary is one printable line, not {_shown(value.summary)}")
    if not callable(place):
        problems.append(f"its place is {_kind(place)}, which cannot be called")
    policy: object = value.vcpu_policy
    if type(policy) is not VcpuPolicy:
        problems.append(f"its vcpu_policy is {_kind(policy)}, no VcpuPolicy")
    try:
        option_kinds(value.options)
    except (TypeError, NameError) as error:
        problems.append(f"its options: {clean(error)}")
    return [f"strategy {value.name!r}: {problem}" for problem in problems]


def option_kinds(options: object) -> dict[str, type]:
    """
    Say which options a class of options has.

    Args:
        options: The class.

    Returns:
        The type of each option, by name.

    Raises:
        TypeError: It is no attrs class, or an option has no default or a type that no text can say.
        NameError: A type is named that its module does not have.
    """
    if not isinstance(options, type) or not attrs.has(options):
        raise TypeError(f"{_shown(options)} is no attrs class")
    hints = typing.get_type_hints(options)
    kinds: dict[str, type] = {}
    for field in attrs.fields(options):
        if not field.init:
            continue
        kind = hints.get(field.name)
        if kind not in OPTION_KINDS:
            raise TypeError(f"{field.alias} is of a type other than str, int, float and bool")
        if field.default is attrs.NOTHING:
            raise TypeError(f"{field.alias} has no default")
        kinds[str(field.alias)] = kind
    return kinds


def judge_vmm(value: object) -> list[str]:
    """
    Judge a VMM.

    Args:
        value: What a plug-in gave for one.

    Returns:
        What is wrong with it.
    """
    if type(value) is not Vmm:
        return [f"{_kind(value)} is no Vmm"]
    if not _is_line(value.name):
        return [f"a VMM's name is one printable line, not {_shown(value.name)}"]
    problems = []
    if any(value.name == builtin.name and value != builtin for builtin in BUILTIN):
        problems.append("a built-in VMM has that name")
    # one string would count as a tuple of its letters, and "*" among them fits every process
    problems += [
        f"its {field} are a tuple of texts, not {_shown(texts)}"
        for field, texts in (("executables", value.executables), ("name_options", value.name_options))
        if type(texts) is not tuple or not all(type(text) is str for text in texts)
    ]
    problems += _pattern("vcpu", value.vcpu)
    if value.iothread is not None:
        problems += _pattern("iothread", value.iothread)
    if type(value.vouched) is not frozenset or not all(_is_pair(pair) for pair in value.vouched):
        problems.append(f"its vouched is a frozenset of (pid, start), not {_shown(value.vouched)}")
    return [f"VMM {value.name!r}: {problem}" for problem in problems]


def judge_violation(value: object) -> list[str]:
    """
    Judge an objection.

    Args:
        value: What a plug-in gave for one.

    Returns:
        What is wrong with it.
    """
    if type(value) is not Violation:
        return [f"{_kind(value)} is no Violation"]
    texts = [value.rule, value.message, *([] if value.guest is None else [value.guest])]
    return [] if all(type(text) is str for text in texts) else ["a Violation's fields are texts"]


def judge_unplaced(value: object) -> list[str]:
    """
    Judge what a strategy says of the guests that it found no place for.

    Args:
        value: The ``unplaced`` of its PlacementImpossible.

    Returns:
        What is wrong with it.
    """
    if type(value) is not tuple or not value or not all(type(one) is Unplaced for one in value):
        return ["it does not name the guests without a place: unplaced is a tuple of Unplaced"]
    return [
        f"it names a guest without a reason: {_shown(one.name)}"
        for one in value
        if type(one.name) is not str
        or type(one.reasons) is not tuple
        or not one.reasons
        or not all(type(reason) is str for reason in one.reasons)
    ]


def _is_line(text: object) -> bool:
    return type(text) is str and bool(text) and text.isprintable()


def _is_pair(pair: object) -> bool:
    return type(pair) is tuple and len(pair) == 2 and all(type(number) is int for number in pair)


def _pattern(field: str, text: object) -> list[str]:
    if type(text) is not str:
        return [f"its {field} is a pattern, not {_shown(text)}"]
    try:
        groups = re.compile(text).groups
    except re.error as error:
        return [f"its {field} {_shown(text)} is no pattern: {clean(error)}"]
    # the first group is the vCPU's number, or the IOThread's name
    return [] if groups else [f"its {field} {_shown(text)} has no group"]


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {clean(type(value).__name__, 60)}"


def _shown(value: object) -> str:
    return f"'{clean(value, 60)}'" if type(value) is str else _kind(value)
