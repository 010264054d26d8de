"""
Guests that come and go: what a simulation feeds a host with.

A workload gives the same arrivals for the same seed, on any machine, so that strategies are compared on equal ones.
"""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

import attrs

from kvmaff.guest.spec import MAX_VCPUS
from kvmaff.placement.future import SIZES

__all__ = ["Arrival", "Poisson", "Recorded", "Workload"]

_ABOVE_ZERO: Any = attrs.validators.gt(0)
_MOST = 1e15
"""No time is longer: sums of so many stay exact enough to be compared."""


def _moment(_instance: object, field: attrs.Attribute[float], value: float) -> None:
    if not -_MOST <= value <= _MOST:
        raise ValueError(f"{field.name} is a number from {-_MOST:g} to {_MOST:g}, not {value}")


def _stretch(_instance: object, field: attrs.Attribute[float], value: float) -> None:
    if not 1 / _MOST <= value <= _MOST:
        raise ValueError(f"{field.name} is a number from {1 / _MOST:g} to {_MOST:g}, not {value}")


def _sizes(_instance: object, field: attrs.Attribute[tuple[int, ...]], value: tuple[int, ...]) -> None:
    if not value or any(type(size) is not int or not 1 <= size <= MAX_VCPUS for size in value):
        raise ValueError(f"{field.name} are numbers of vCPUs from 1 to {MAX_VCPUS}, not {value}")


def _whole(_instance: object, field: attrs.Attribute[int], value: int) -> None:
    if type(value) is not int or not 1 <= value <= MAX_VCPUS:
        raise ValueError(f"{field.name} is a number from 1 to {MAX_VCPUS}, not {value}")


@attrs.frozen(kw_only=True)
class Arrival:
    """
    One guest that comes.

    Attributes:
        time: When, in a unit of the workload's own.
        name: Its name, which no other guest of the workload has.
        vcpus: How many vCPUs it has.
        memory_bytes: Its memory; 0 where not said.
        lifetime: How long it stays where it is accepted; infinite for one that stays.
    """

    time: float = attrs.field(validator=_moment)
    name: str
    vcpus: int = attrs.field(validator=_whole)
    memory_bytes: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    lifetime: float = attrs.field(validator=attrs.validators.ge(0))


class Workload(Protocol):
    """Where arrivals come from."""

    def arrivals(self, seed: int) -> tuple[Arrival, ...]:
        """
        Say who comes.

        Args:
            seed: What chance depends on, where there is any.

        Returns:
            The guests; the same for the same seed.
        """


@attrs.frozen(kw_only=True)
class Poisson:
    """
    Guests that come independently of one another: the times between them and their lifetimes are exponential.

    Attributes:
        cpus: How many CPUs the host has for guests.
        load: How many vCPUs would run on average if every guest were accepted, of ``cpus``.
        count: How many guests come.
        lifetime: How long a guest stays on average; the unit of time is this one's.
        sizes: vCPUs of a guest, each as likely as any other; a size that stands there twice is twice as likely.
        memory_per_vcpu: Bytes of memory for each vCPU; 0 where not said.
    """

    cpus: int = attrs.field(validator=_ABOVE_ZERO)
    load: float = attrs.field(default=0.9, validator=_stretch)
    count: int = attrs.field(default=2500, validator=attrs.validators.ge(0))
    lifetime: float = attrs.field(default=100.0, validator=_stretch)
    sizes: tuple[int, ...] = attrs.field(default=tuple(SIZES.elements()), validator=_sizes)
    memory_per_vcpu: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    def arrivals(self, seed: int) -> tuple[Arrival, ...]:
        """
        Say who comes.

        Args:
            seed: What chance depends on.

        Returns:
            The guests in order of time; the same for the same seed.
        """
        random = Random(seed)  # noqa: S311 - the same arrivals for the same seed are what is wanted
        mean = sum(self.sizes) / len(self.sizes)
        rate = self.load * self.cpus / (mean * self.lifetime)
        time, found = 0.0, []
        for number in range(self.count):
            time += random.expovariate(rate)
            vcpus = random.choice(self.sizes)
            found.append(
                Arrival(
                    time=time,
                    name=f"guest{number}",
                    vcpus=vcpus,
                    memory_bytes=vcpus * self.memory_per_vcpu,
                    lifetime=random.expovariate(1 / self.lifetime),
                )
            )
        return tuple(found)


@attrs.frozen(kw_only=True)
class Recorded:
    """
    Guests as they once came, or as somebody made them up.

    Attributes:
        guests: They.
    """

    guests: tuple[Arrival, ...]

    def arrivals(self, seed: int) -> tuple[Arrival, ...]:  # noqa: ARG002 - there is no chance in it
        """
        Say who comes.

        Args:
            seed: Nothing depends on it.

        Returns:
            The guests.
        """
        return self.guests
