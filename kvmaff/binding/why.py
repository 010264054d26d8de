"""Why the kernel did not do what was asked of a thread, and what to do about it, in a sentence."""

from __future__ import annotations

import errno
import os

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.tree import open_tree
from kvmaff.kernel.masks import Raw

__all__ = ["explain"]


def explain(pid: int, tid: int, asked: CpuSet, after: CpuSet | None, raw: Raw, error: int) -> str:
    """
    Say why a thread could not be bound, and what to do.

    Args:
        pid: Its process.
        tid: Its number.
        asked: The CPUs asked for.
        after: What the kernel gave it, where it gave anything.
        raw: The outcome.
        error: The errno, or 0.

    Returns:
        A sentence without full stop.
    """
    if raw is Raw.MOVED:
        return "somebody else changed its mask at the same moment; it was left alone, try again"
    if raw is Raw.STRAY:
        return (
            "it ended while it was bound and its number now names another thread, which may have got its mask"
        )
    if raw is Raw.UNSURE:
        return f"it was bound, and then it could not be seen whether it is: {os.strerror(error)}"
    if raw is not Raw.CLIPPED and error not in (errno.EINVAL, 0):
        hints = {
            errno.EPERM: "not allowed to bind it: that needs CAP_SYS_NICE (root), or the same user as the thread's",
            errno.EACCES: "not allowed to look at it; try as root",
            errno.EBUSY: "it has the deadline scheduling class, which may not be bound to fewer CPUs",
        }
        return hints.get(error, os.strerror(error))
    with open_tree("/") as tree:
        grant = Cgroups(tree).granted(pid, tid)
        online = tree.cpus("sys/devices/system/cpu/online") or asked
    if not asked <= online:
        return f"CPU {asked - online} is not online"
    if grant is not None and not asked <= grant.cpus:
        lead = f"CPUs {asked} were asked, its cgroup {grant.cgroup} grants {grant.cpus}"
        if raw is Raw.CLIPPED:
            return f"{lead}, so the kernel gave it {after}"
        left = asked & grant.cpus
        return f"{lead}, so only {left} would be left" if left else f"{lead}, so none is left"
    if raw is Raw.CLIPPED:
        return f"CPUs {asked} were asked, the kernel gave it {after}"
    return "the kernel does not let it be bound; it may be a kernel thread that belongs to its CPU"
