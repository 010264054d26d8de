"""Who keeps the machines for a run of tests: one boot for all tests of one machine, one machine at a time."""

from __future__ import annotations

from .errors import LabError, LabUnavailable
from .lab import Lab
from .machine import Machine

__all__ = ["Yard"]


class Yard:
    """
    The machine that runs now, if any.

    Two at once would only slow each other down. A machine that died is booted again for the next who asks; one
    that did not come up is not tried again, nor is a kernel that cannot be had: trying may take minutes.
    """

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._failed: dict[Machine, LabError] = {}
        self._missing: dict[str, LabUnavailable] = {}

    def needs(self, machine: Machine) -> None:
        """
        Make sure that there is all that a boot needs.

        Args:
            machine: What is to be booted.

        Raises:
            LabUnavailable: No such machine can be booted here.
        """
        if machine.kernel in self._missing:
            raise self._missing[machine.kernel].with_traceback(None)
        try:
            Lab.needs(machine)
        except LabUnavailable as error:
            self._missing[machine.kernel] = error
            raise

    def lab(self, machine: Machine) -> Lab:
        """
        Return a running machine; another one that runs is ended.

        Args:
            machine: Which.

        Raises:
            LabUnavailable: No machine can be booted here.
            BootFailed: This one does not come up.
        """
        if self._lab and self._lab.machine == machine and self._lab.alive:
            return self._lab
        self.close()
        if machine in self._failed:
            raise self._failed[machine].with_traceback(None)
        self.needs(machine)
        try:
            self._lab = Lab.boot(machine)
        except LabError as error:
            self._failed[machine] = error
            raise
        return self._lab

    def close(self) -> None:
        """End the machine that runs. Again is harmless."""
        if self._lab:
            self._lab.close()
            self._lab = None
