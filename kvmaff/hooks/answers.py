"""
What plug-ins answer, judged: is each value of the kind and the shape that was asked for?

Each judge returns everything that is wrong, a sentence each. Exact types are asked for: a value of a class of their
own could answer differently every time it is looked at. The parts of a placement are verify's to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeGuard

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.guest.vmm import BUILTIN, Vmm
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.placement.moves import Admission, Goal
from kvmaff.placement.objective import Grain, Level, Objective
from kvmaff.placement.placement import Remedy, Removal, Unplaced
from kvmaff.placement.strategy import Strategy, options_of
from kvmaff.placement.verify import Violation

__all__ = [
    "items_of",
    "judge_admission",
    "judge_objective",
    "judge_strategy",
    "judge_unplaced",
    "judge_violation",
    "judge_vmm",
]

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
        options_of(value.options)
    except Exception as error:  # noqa: BLE001 - types may be named by any text, and are looked up by running it
        problems.append(f"its options: {clean(error)}")
    return [f"strategy {value.name!r}: {problem}" for problem in problems]


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
    wrong = [
        f"it names a guest without a reason: {_shown(one.name)}"
        for one in value
        if type(one.name) is not str
        or type(one.reasons) is not tuple
        or not one.reasons
        or not all(type(reason) is str for reason in one.reasons)
    ]
    return wrong + [
        f"what it says of a guest without a place is no Removal or Remedy: {_shown(one.name)}"
        for one in value
        if not _all(one.removed, _is_removal) or not _all(one.remedies, _is_remedy)
    ]


def judge_objective(value: object) -> TypeGuard[Objective]:
    """
    Judge what a strategy says it wanted.

    Args:
        value: The objective of its answer's basis.

    Returns:
        Whether the one search could be asked with it.
    """
    if type(value) is not Objective or not _is_line(value.name):
        return False
    flags = (value.balance, value.whole_cores, value.from_isolated, value.housekeeping, value.near)
    levels = (value.levels, value.shared_levels)
    return (
        all(type(flag) is bool for flag in flags)
        and type(value.grain) is Grain
        and all(_all(each, lambda level: type(level) is Level) for each in levels)
    )


def judge_admission(value: object) -> bool:
    """
    Judge what a strategy says of how many guests were admitted.

    Args:
        value: The admission of its answer.

    Returns:
        Whether it may be told.
    """
    if type(value) is not Admission or type(value.goal) is not Goal:
        return False
    numbers = (value.asked, value.admitted, value.bound)
    return (
        all(type(number) is int for number in numbers) and 0 <= value.admitted <= value.bound <= value.asked
    )


def _is_removal(value: object) -> bool:
    return (
        type(value) is Removal
        and _is_line(value.rule)
        and (value.by is None or _is_line(value.by))
        and type(value.cpus) is CpuSet
        and _all(value.nodes, lambda node: type(node) is int)
        and _all(value.l3_groups, lambda group: type(group) is CpuSet)
    )


def _is_remedy(value: object) -> bool:
    return type(value) is Remedy and all(
        type(text) is str and text.isprintable() for text in (value.what, value.to, value.text)
    )


def _all(value: object, good: Callable[[Any], bool]) -> bool:
    return type(value) is tuple and all(map(good, value))


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
