"""
Which plug-ins are installed: entry points of the group ``kvmaff``.

A distribution whose metadata cannot be read harms no other one. Nothing is imported here.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points

import attrs

from kvmaff.hooks.blame import Origin, clean, failure
from kvmaff.hooks.specs import PROJECT

__all__ = ["DISABLE", "Found", "disabled_globs", "find", "is_disabled"]

DISABLE = "KVMAFF_DISABLE_PLUGINS"
"""The environment variable that turns plug-ins off: globs over their names, parted by commas."""


@attrs.frozen(kw_only=True)
class Found:
    """
    A plug-in that is installed.

    Attributes:
        origin: Whose it is.
        entry_point: How to load it; None where that cannot be read.
        error: Why it cannot.
    """

    origin: Origin
    entry_point: EntryPoint | None
    error: str | None = None


def find(given: Iterable[EntryPoint] | None = None) -> tuple[Found, ...]:
    """
    Find the installed plug-ins.

    Args:
        given: Entry points to take instead; those of other groups are left out.

    Returns:
        The plug-ins in order of name, distribution and what they name, which is the same on every machine.
    """
    broken: list[Found] = []
    if given is not None:
        points = [point for point in given if point.group == PROJECT]
    else:
        try:
            points = list(entry_points(group=PROJECT))
        except Exception:  # noqa: BLE001 - one broken file fails them all: then each is read by itself
            points, broken = _one_by_one()
    found = [Found(origin=_origin(point), entry_point=point) for point in points]
    return tuple(sorted(found + broken, key=_order))


def _order(one: Found) -> tuple[str, str, str]:
    value = one.entry_point.value if one.entry_point else ""
    return one.origin.name, one.origin.distribution or "", value


def _origin(point: EntryPoint) -> Origin:
    distribution = version = None
    # metadata may lack a name or be unreadable, and the plug-in still work
    with contextlib.suppress(Exception):
        if point.dist is not None:
            distribution = clean(point.dist.name, 80) if point.dist.name else None
            version = clean(point.dist.version, 40) if point.dist.version else None
    return Origin(name=clean(point.name, 80), distribution=distribution, version=version)


def _one_by_one() -> tuple[list[EntryPoint], list[Found]]:
    """Read each distribution's entry points by themselves; only a broken one that speaks of us is listed."""
    points: list[EntryPoint] = []
    broken: list[Found] = []
    seen: set[str] = set()
    for distribution in distributions():
        name = "?"
        try:
            name = clean(distribution.name, 80)
            key = name.lower().replace("_", "-").replace(".", "-")
            if key not in seen:  # the first on the path is the one that is imported
                seen.add(key)
                points.extend(point for point in distribution.entry_points if point.group == PROJECT)
        except Exception as error:  # noqa: BLE001 - whatever a broken file makes the parser do
            if f"[{PROJECT}]" in _entry_points_text(distribution):
                origin = Origin(name=name, distribution=name)
                broken.append(
                    Found(
                        origin=origin,
                        entry_point=None,
                        error=f"its entry_points.txt cannot be read: {failure(error)}",
                    )
                )
    return points, broken


def _entry_points_text(distribution: Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except Exception:  # noqa: BLE001 - the same broken file
        return ""


def disabled_globs(text: str | None = None) -> tuple[str, ...]:
    """
    Read which plug-ins are turned off.

    Args:
        text: Globs parted by commas; None for what the environment says.

    Returns:
        The globs.
    """
    words = os.environ.get(DISABLE, "") if text is None else text
    return tuple(word for word in (word.strip() for word in words.split(",")) if word)


def is_disabled(name: str, globs: Iterable[str]) -> bool:
    """
    Tell whether a plug-in is turned off.

    Args:
        name: Its name.
        globs: Globs over names; upper and lower case differ.

    Returns:
        Whether one of them fits.
    """
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)
