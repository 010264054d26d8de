"""The fields of one JSON object in a file of ours, each checked when it is taken: a file is input like any other."""

from __future__ import annotations

from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError

__all__ = ["Fields"]


class Fields:
    """
    One object.

    Args:
        data: What was read.
        where: What to call it in messages.

    Raises:
        ValueError: It is no object.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is no object")  # noqa: TRY004 - all damage is one kind of error
        self._data = data
        self.where = where

    def value(self, name: str) -> Any:
        """
        A field as it is.

        Args:
            name: Its name.

        Returns:
            Its value.

        Raises:
            ValueError: It is missing.
        """
        try:
            return self._data[name]
        except KeyError:
            raise ValueError(f"{self.where}: {name!r} is missing") from None

    def number(self, name: str, least: int = 0) -> int:
        """
        A whole number.

        Args:
            name: The field.
            least: The least that it may be.

        Returns:
            It.

        Raises:
            ValueError: It is none, or out of range.
        """
        value = self.value(name)
        if type(value) is not int or not least <= value < 1 << 63:
            raise ValueError(f"{self.where}: {name!r} is no number from {least}")
        return value

    def number_or_none(self, name: str, least: int = 0) -> int | None:
        """
        A whole number or null.

        Args:
            name: The field.
            least: The least that it may be.

        Returns:
            It.

        Raises:
            ValueError: It is neither.
        """
        return None if self.value(name) is None else self.number(name, least)

    def flag(self, name: str) -> bool:
        """
        A yes or no.

        Args:
            name: The field.

        Returns:
            It.

        Raises:
            ValueError: It is none.
        """
        value = self.value(name)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}: {name!r} is neither true nor false")  # noqa: TRY004 - as above
        return value

    def text(self, name: str) -> str:
        """
        A text.

        Args:
            name: The field.

        Returns:
            It.

        Raises:
            ValueError: It is none.
        """
        value = self.value(name)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: {name!r} is no text")  # noqa: TRY004 - as above
        return value

    def items(self, name: str) -> list[Any]:
        """
        A list.

        Args:
            name: The field.

        Returns:
            Its items.

        Raises:
            ValueError: It is none.
        """
        value = self.value(name)
        if not isinstance(value, list):
            raise ValueError(f"{self.where}: {name!r} is no list")  # noqa: TRY004 - as above
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """
        A list of whole numbers.

        Args:
            name: The field.

        Returns:
            They.

        Raises:
            ValueError: It is none, or a number is negative.
        """
        values = self.items(name)
        if any(type(value) is not int or not 0 <= value < 1 << 31 for value in values):
            raise ValueError(f"{self.where}: {name!r} is no list of numbers")
        return tuple(values)

    def texts(self, name: str) -> tuple[str, ...]:
        """
        A list of texts.

        Args:
            name: The field.

        Returns:
            They.

        Raises:
            ValueError: It is none.
        """
        values = self.items(name)
        if any(not isinstance(value, str) for value in values):
            raise ValueError(f"{self.where}: {name!r} is no list of texts")
        return tuple(values)

    def cpus(self, name: str) -> CpuSet:
        """
        A cpulist of at least one CPU.

        Args:
            name: The field.

        Returns:
            The CPUs.

        Raises:
            ValueError: It is none, or blank.
        """
        try:
            cpus = CpuSet.parse(self.text(name))
        except CpuTextError as error:
            raise ValueError(f"{self.where}: {name!r}: {error}") from error
        if not cpus:
            raise ValueError(f"{self.where}: {name!r} names no CPU")
        return cpus

    def cpus_or_none(self, name: str) -> CpuSet | None:
        """
        A cpulist, which may name no CPU, or null.

        Args:
            name: The field.

        Returns:
            The CPUs.

        Raises:
            ValueError: It is neither.
        """
        if self.value(name) is None:
            return None
        return self.cpus(name) if self.text(name) else CpuSet()

    def text_or_none(self, name: str) -> str | None:
        """
        A text or null.

        Args:
            name: The field.

        Returns:
            It.

        Raises:
            ValueError: It is neither.
        """
        return None if self.value(name) is None else self.text(name)
