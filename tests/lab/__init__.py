"""
The lab: a machine that nobody owns, booted by QEMU for tests and for people.

It runs a Debian kernel on any number of sockets, dies, cores, threads and NUMA nodes, on the host's own root file
system (which it only reads), and commands of this checkout in it. Standard library only, for any Python of 3.11 or
later, all but what joins it to pytest (``conftest.py``, ``batch.py``, ``reporter.py``); ``python -m tests.lab --help``
for people, ``tests/lab/conftest.py`` for tests.
"""

from .errors import BootFailed, CommandFailed, CommandTimeout, LabError, LabUnavailable, MachineDied
from .job import Job, Result
from .lab import Lab
from .machine import KERNELS, Machine, Node

__all__ = [
    "KERNELS",
    "BootFailed",
    "CommandFailed",
    "CommandTimeout",
    "Job",
    "Lab",
    "LabError",
    "LabUnavailable",
    "Machine",
    "MachineDied",
    "Node",
    "Result",
]
