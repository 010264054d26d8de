"""What came of a simulation, as figures: of one run, and of several contestants over the same seeds."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence

import attrs

__all__ = ["Comparison", "Figure", "Mean", "Outcome"]


class Figure(enum.StrEnum):
    """What is compared; each is a number of an :class:`Outcome`."""

    VCPUS_SHARE = "vcpus_share"
    GUESTS_SHARE = "guests_share"
    EXTRA_NODES = "extra_nodes_a_guest"
    EXTRA_L3 = "extra_l3_a_guest"
    SHARED_CORES = "shared_cores_a_guest"
    MOVED_GUESTS = "moved_guests_a_guest"
    MOVED_VCPUS = "moved_vcpus_a_vcpu"
    MEAN_USE = "mean_use"
    PEAK_USE = "peak_use"
    DECISION_MEDIAN = "decision_median_us"
    DECISION_P99 = "decision_p99_us"


@attrs.frozen(kw_only=True)
class Outcome:
    """
    What came of one run.

    Two runs are equal where they decided alike, however long that took.

    Attributes:
        guests: How many came.
        vcpus: How many vCPUs these had.
        accepted: How many of them got a place.
        accepted_vcpus: How many vCPUs these had.
        extra_nodes: NUMA nodes that they used beyond the fewest that could hold their vCPUs, by the size of the
            largest one, summed over those accepted; of a guest that was moved, in its last place.
        extra_l3: The same for L3 groups.
        shared_cores: Cores that they came to and that another guest's vCPUs were on, summed.
        moved_guests: How often a running guest was moved.
        moved_vcpus: How many vCPUs these had.
        mean_use: vCPUs of running guests for each CPU that guests may use, on average from the first arrival to the
            last.
        peak_use: The most of it.
        decision_median_us: Microseconds that a decision took, half of them less; a refusal with its reasons is one.
        decision_p99_us: The same for all but one in a hundred.
    """

    guests: int
    vcpus: int
    accepted: int
    accepted_vcpus: int
    extra_nodes: int
    extra_l3: int
    shared_cores: int
    moved_guests: int
    moved_vcpus: int
    mean_use: float
    peak_use: float
    decision_median_us: float = attrs.field(eq=False)
    decision_p99_us: float = attrs.field(eq=False)

    @property
    def guests_share(self) -> float:
        """Of the guests that came, those accepted; 1 where none came."""
        return self.accepted / self.guests if self.guests else 1.0

    @property
    def vcpus_share(self) -> float:
        """Of the vCPUs asked for, those accepted; 1 where none were asked for."""
        return self.accepted_vcpus / self.vcpus if self.vcpus else 1.0

    @property
    def extra_nodes_a_guest(self) -> float:
        """Extra nodes of a guest that was accepted."""
        return self.extra_nodes / max(self.accepted, 1)

    @property
    def extra_l3_a_guest(self) -> float:
        """Extra L3 groups of a guest that was accepted."""
        return self.extra_l3 / max(self.accepted, 1)

    @property
    def shared_cores_a_guest(self) -> float:
        """Cores that a guest that was accepted shares when it comes."""
        return self.shared_cores / max(self.accepted, 1)

    @property
    def moved_guests_a_guest(self) -> float:
        """Guests moved for each that was accepted."""
        return self.moved_guests / max(self.accepted, 1)

    @property
    def moved_vcpus_a_vcpu(self) -> float:
        """How many vCPUs were moved for each that was accepted."""
        return self.moved_vcpus / max(self.accepted_vcpus, 1)

    def figure(self, figure: Figure) -> float:
        """
        Look a figure up.

        Args:
            figure: Which.

        Returns:
            Its value.
        """
        return float(getattr(self, figure.value))


@attrs.frozen(kw_only=True)
class Mean:
    """
    The average of a figure over seeds.

    Attributes:
        value: It.
        error: Its standard error; None where one seed tells of none.
    """

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """
        Take the average.

        Args:
            values: One for each seed, at least one.

        Returns:
            It.
        """
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(value=statistics.fmean(values), error=error)


@attrs.frozen(kw_only=True)
class Comparison:
    """
    What came of several contestants, each run on the same workloads.

    Attributes:
        contestants: Their names, in order.
        seeds: The seeds, in order.
        outcomes: For each contestant its outcome for each seed.
    """

    contestants: tuple[str, ...]
    seeds: tuple[int, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]

    def mean(self, contestant: int, figure: Figure) -> Mean:
        """
        Average a figure over the seeds.

        Args:
            contestant: Whose, from 0.
            figure: Which.

        Returns:
            The average.
        """
        return Mean.of([outcome.figure(figure) for outcome in self.outcomes[contestant]])

    def difference(self, contestant: int, figure: Figure) -> Mean:
        """
        Average by how much a figure differs from the first contestant's, seed by seed.

        Args:
            contestant: Whose, from 0.
            figure: Which.

        Returns:
            The average; since both had the same arrivals, its error is less than that of either alone.
        """
        pairs = zip(self.outcomes[contestant], self.outcomes[0], strict=True)
        return Mean.of([own.figure(figure) - first.figure(figure) for own, first in pairs])
