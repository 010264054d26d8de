"""
What a guest's vCPUs spend their time on: the three execution modes.

Sources: proc(5), stat fields 14 (utime), 15 (stime) and 43 (guest_time, which utime includes). Under TCG no time is
guest time: emulation is user time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import attrs

from kvmaff.guest.guest import GuestThread
from kvmaff.kernel.scan import Proc

__all__ = ["Times", "cpu_times"]

_MS_PER_TICK = 1000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen(kw_only=True)
class Times:
    """
    CPU time by execution mode, in milliseconds since the threads started.

    Attributes:
        guest: Running the guest's code.
        user: In the VMM's own code.
        kernel: In the host's kernel, KVM included.
    """

    guest: int
    user: int
    kernel: int

    def since(self, earlier: Times) -> Times:
        """
        The time spent since an earlier reading.

        Args:
            earlier: The earlier reading.

        Returns:
            The difference.
        """
        return Times(
            guest=self.guest - earlier.guest,
            user=max(self.user - earlier.user, 0),
            kernel=self.kernel - earlier.kernel,
        )


def cpu_times(threads: Iterable[GuestThread], root: str = "/") -> Times:
    """
    Read the time that threads have spent, all of them together.

    Args:
        threads: The threads; those that are gone count as nothing.
        root: ``/``, or the root of a recorded machine.

    Returns:
        The times.

    Raises:
        HostReadError: There is no /proc.
    """
    guest = user = kernel = 0
    with Proc(root) as proc:
        for thread in threads:
            stat = proc.read(f"{thread.pid}/task/{thread.tid}/stat", 1024) or b""
            fields = stat.rpartition(b")")[2].split()  # field 3 is the first behind the name
            if len(fields) < 41:
                continue
            inside = int(fields[40])
            guest += inside
            user += max(int(fields[11]) - inside, 0)  # sampled apart: guest time may be ahead by a tick
            kernel += int(fields[12])
    return Times(guest=guest * _MS_PER_TICK, user=user * _MS_PER_TICK, kernel=kernel * _MS_PER_TICK)
