"""What is read of a guest that another program describes: its spec, and what no spec can hold."""

from __future__ import annotations

import attrs

from kvmaff.guest.spec import GuestSpec

__all__ = ["SpecReading"]


@attrs.frozen(kw_only=True)
class SpecReading:
    """
    A spec that was made of what somebody else wrote.

    Attributes:
        spec: The spec.
        notes: What the spec does not say though it is so, a sentence each; each names the file.
    """

    spec: GuestSpec
    notes: tuple[str, ...] = ()
