"""
What a placement promises a guest, against what was asked for it.

Nothing of a stranger's value is asked before its type was looked at: equality may be anything, and may raise.
"""

from __future__ import annotations

import attrs

from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy

__all__ = ["differences", "same"]

_MORE: dict[str, tuple[object, ...]] = {
    "vcpu_policy": (VcpuPolicy.SHARED,),
    "thread_policy": (ThreadPolicy.PREFER,),
    "emulator_policy": (EmulatorPolicy.SHARE,),
    "iothread_policy": (EmulatorPolicy.SHARE,),
}
"""The policies in place of which a strategy may promise another one: the mildest, which is also the default."""


def differences(asked: GuestSpec, promised: GuestSpec) -> list[str]:
    """
    Compare the spec in a placement with the one that was asked for.

    A strategy may promise more (the strategy ``isolated`` dedicates), never less, and nothing else.

    Args:
        asked: The request's spec.
        promised: The placement's, from a stranger.

    Returns:
        The fields in which it promises something else.
    """
    if asked is promised:
        return []
    wrong = []
    for field in attrs.fields(GuestSpec):
        ours, theirs = getattr(asked, field.name), getattr(promised, field.name, None)
        if same(ours, theirs):
            continue
        if ours not in _MORE.get(field.name, ()) or type(theirs) is not type(ours):
            wrong.append(field.name)
    return wrong


def same(ours: object, theirs: object) -> bool:
    """
    Whether a stranger's value is ours; asks no method of a type that is not ours.

    Args:
        ours: A value of the request.
        theirs: Anything.

    Returns:
        True where both are of one type, and equal in every part.
    """
    if ours is theirs:
        return True
    if type(theirs) is not type(ours):
        return False
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    kind: type = type(ours)
    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind)]
        return all(same(getattr(ours, name), getattr(theirs, name, None)) for name in names)
    return ours == theirs
