"""What guests that run may be moved for the sake of others: budgets, goals, and what came of it, as values."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Admission", "Goal", "Moved", "Moves"]


class Goal(enum.StrEnum):
    """What counts where not all guests have a place."""

    VCPUS = "vcpus"
    GUESTS = "guests"


@attrs.frozen(kw_only=True)
class Moves:
    """
    How much of what runs may be moved: a budget, which nothing is weighed against.

    Attributes:
        guests: At most so many guests. One whose dedicated vCPUs keep their CPUs is not moved, whatever its other
            threads do, and the vCPUs that float beside them; one without dedicated vCPUs is where these float.
        vcpus: With so many vCPUs together; None for no limit.
        memory_bytes: With so much memory together, which is far then or has to follow them; None for no limit.
    """

    guests: int = 0
    vcpus: int | None = None
    memory_bytes: int | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("guests", "vcpus", "memory_bytes"):
            value = getattr(self, name)
            if value is None and name != "guests":
                continue
            if type(value) is not int or value < 0:
                raise ValueError(f"moves: {name} is a number from 0, not {value!r}")


@attrs.frozen(kw_only=True)
class Moved:
    """
    One guest that is moved.

    Attributes:
        guest: Its name.
        vcpus: How many vCPUs it has.
        memory_bytes: How much memory it has.
        before: The NUMA nodes of its vCPUs.
        after: The same then.
    """

    guest: str
    vcpus: int
    memory_bytes: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Admission:
    """
    How many of the guests to come have a place, and how many more could have one at most.

    Attributes:
        goal: What is counted: vCPUs or guests.
        asked: How many there are of them, of guests that had no place before.
        admitted: How many have a place now.
        bound: No answer within the budget admits more; proved.
    """

    goal: Goal
    asked: int
    admitted: int
    bound: int

    @property
    def gap(self) -> int:
        """How many more could be admitted at most; 0: nothing better exists."""
        return self.bound - self.admitted
