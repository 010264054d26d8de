"""
What all plug-ins give for a hook whose answers have names: the good ones by name, and who did what wrong.

Rule: a name that two plug-ins give is nobody's. A bad value takes nothing from the good one of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

from kvmaff.errors import PluginError
from kvmaff.guest.vmm import Vmm
from kvmaff.hooks.answers import items_of
from kvmaff.hooks.blame import Origin, blamed
from kvmaff.hooks.found import DISABLE
from kvmaff.hooks.plugin import Plugin
from kvmaff.placement.strategy import Strategy

__all__ = ["Offer", "gather"]

T = TypeVar("T", Strategy, Vmm)


@attrs.frozen(kw_only=True)
class Offer(Generic[T]):
    """
    What all plug-ins give for one hook.

    Attributes:
        good: The values that can be used, by name, in order of name.
        givers: Whose each of them is, by name.
        bad: The error to raise for each name that is given and cannot be used.
        problems: Who did what wrong.
    """

    good: Mapping[str, T]
    givers: Mapping[str, Plugin]
    bad: Mapping[str, PluginError]
    problems: tuple[tuple[Plugin, str], ...]


def gather(
    hook: str,
    kind: str,
    plugins: Sequence[Plugin],
    ask: Callable[[Plugin], list[object]],
    judge: Callable[[object], list[str]],
) -> Offer[Any]:
    """
    Ask plug-in by plug-in, judge value by value, combine by name.

    Args:
        hook: The hook.
        kind: What a person calls one of its values.
        plugins: Those that implement it.
        ask: Gives all answers of a plug-in.
        judge: Says what is wrong with a value.

    Returns:
        What they give; never fails.
    """
    claims: dict[str, list[tuple[Plugin, Any]]] = {}
    bad: dict[str, PluginError] = {}
    problems: list[tuple[Plugin, str]] = []
    for one in plugins:
        try:
            values = [value for answer in ask(one) for value in items_of(one.origin, hook, answer)]
        except PluginError as error:
            problems.append((one, one.origin.strip(error)))
            continue
        for value in values:
            wrong = _judged(one.origin, hook, value, judge)
            problems += [(one, what) for what in wrong]
            if type(value) in (Strategy, Vmm):
                named: Any = value
                if not wrong:
                    claims.setdefault(named.name, []).append((one, value))
                elif type(named.name) is str:
                    bad[named.name] = one.origin.error("; ".join(wrong))
    for name, givers in claims.items():
        bad.pop(name, None)
        if len(givers) > 1:
            bad[name] = _clash(kind, name, [one.origin for one, _ in givers])
            problems += [(one, str(bad[name])) for one in dict.fromkeys(one for one, _ in givers)]
    good = sorted(name for name in claims if name not in bad)
    return Offer(
        good={name: claims[name][0][1] for name in good},
        givers={name: claims[name][0][0] for name in good},
        bad=bad,
        problems=tuple(problems),
    )


def _judged(origin: Origin, hook: str, value: object, judge: Callable[[object], list[str]]) -> list[str]:
    try:
        with blamed(origin, f"{hook} gave what cannot be looked at"):
            return judge(value)
    except PluginError as error:
        return [origin.strip(error)]


def _clash(kind: str, name: str, givers: list[Origin]) -> PluginError:
    whose = sorted({str(origin) for origin in givers})
    if len(whose) == 1:
        text = f"{whose[0]}: it gives {kind} {name!r} {len(givers)} times"
    else:
        text = f"{kind} {name!r} is given by {' and by '.join(whose)}; turn off all but one by {DISABLE}"
    return PluginError(text, plugin=givers[0].name, plugins=tuple(origin.name for origin in givers))
