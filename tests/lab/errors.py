"""What can go wrong with the lab: one tree, each message fit to be shown."""

from __future__ import annotations

__all__ = ["BootFailed", "CommandFailed", "CommandTimeout", "LabError", "LabUnavailable", "MachineDied"]


class LabError(Exception):
    """Something of the lab did not work."""


class LabUnavailable(LabError):
    """The lab cannot work here: a program, a package or a right is missing. Tests skip with this reason."""


class BootFailed(LabError):
    """QEMU did not start, or the machine inside did not come up in time."""


class MachineDied(LabError):
    """The machine ended, or stopped answering, while something was still to be done in it."""


class CommandFailed(LabError):
    """A command ended with another exit code than 0, and 0 was asked for."""


class CommandTimeout(LabError, TimeoutError):
    """A command did not end in time; it was killed, the machine goes on."""
