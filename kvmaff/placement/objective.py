"""What a strategy wants, as data: the order of levels, and filters. A strategy hands one to ``solve``."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Grain", "Level", "Objective"]


class Level(enum.StrEnum):
    """One level of a score; each is minimised."""

    DISTANCE = "distance"
    NODES = "nodes"
    L3_GROUPS = "l3_groups"
    SHARED_CORES = "shared_cores"
    BROKEN_CORES = "broken_cores"
    LOAD = "load"
    LEFT = "left"
    NODE_LEFT = "node_left"
    LOST = "lost"
    NODE_LOAD = "node_load"
    L3_LOAD = "l3_load"
    CORE_LOAD = "core_load"


class Grain(enum.StrEnum):
    """How far the CPU set of a shared guest reaches."""

    PU = "pu"
    """As many PUs as it has vCPUs."""
    L3 = "l3"
    """Every PU of the L3 groups it is given that shared guests may use."""


@attrs.frozen(kw_only=True)
class Objective:
    """
    What is wanted of a placement.

    Attributes:
        name: The strategy's name.
        levels: For dedicated guests, what counts most first; levels not named do not count.
        shared_levels: The same for shared guests.
        grain: How far a shared guest's CPU set reaches.
        balance: Whether vCPUs go to the least loaded L3 groups and cores, one a core while there are cores;
            otherwise they fill L3 groups and cores.
        whole_cores: Whether a guest's cores are its own, every PU of them.
        from_isolated: Whether dedicated vCPUs go to isolated CPUs where the host has them, and nowhere else then.
            Otherwise isolated CPUs are left alone. Includes ``housekeeping``, since nothing balances load there.
        housekeeping: Whether the other threads of dedicated guests go to housekeeping CPUs instead of sharing.
        near: Whether the distance to a guest's devices, and to memory that it has already, counts.
    """

    name: str
    levels: tuple[Level, ...]
    shared_levels: tuple[Level, ...]
    grain: Grain = Grain.PU
    balance: bool = False
    whole_cores: bool = False
    from_isolated: bool = False
    housekeeping: bool = False
    near: bool = False

    @property
    def keeps_house(self) -> bool:
        """Whether other threads of dedicated guests are kept off their CPUs: asked for, or needed on isolated ones."""
        return self.housekeeping or self.from_isolated

    @property
    def exact(self) -> bool:
        """Whether the exact search over all nodes answers for dedicated guests: it knows the levels in one order."""
        known = (Level.DISTANCE, Level.L3_GROUPS, Level.SHARED_CORES, Level.BROKEN_CORES, Level.LOST)
        # a core of which every PU is the guest's is shared with nobody
        mine = (
            tuple(level for level in known if level is not Level.SHARED_CORES) if self.whole_cores else known
        )
        return not self.balance and self.levels in (known, mine)

    def levels_for(self, *, shared: bool) -> tuple[Level, ...]:
        """
        What counts for a guest.

        Args:
            shared: Whether all of its vCPUs float.

        Returns:
            The levels, what counts most first.
        """
        return self.shared_levels if shared else self.levels
