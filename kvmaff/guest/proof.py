"""
Is a process a guest, or does it only say so?

A process is a guest because it holds a KVM VM, which only the kernel's ``anon_inode:kvm-vm`` link shows, or because
its executable is a known VMM that root installed. What a user can arrange is not believed:

* a name in comm or on the command line;
* a file called ``qemu-system-x86_64`` that the user owns, or in a folder that others may write to, where a hard
  link to any of root's programs could go by that name;
* a link text that does not lead to the same file from here, as in a mount namespace of the user's own;
* "… (deleted)" at the end of a path, unless the file really has no name left, as after an upgrade.
"""

from __future__ import annotations

import os
import re
import stat

import attrs

from kvmaff.guest.vmm import Vmm, vmm_of_executable
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.text import printable

__all__ = ["UNKNOWN_VMM", "Evidence", "examine"]

UNKNOWN_VMM = "kvm"
"""The name of the VMM of a process that holds a KVM VM and whose executable is not known."""

_DELETED = " (deleted)"
_VM_LINK = "anon_inode:kvm-vm"
_VCPU_LINK = re.compile(r"anon_inode:kvm-vcpu:([0-9]{1,4})")


@attrs.frozen(kw_only=True)
class Evidence:
    """
    What speaks for a process being a guest.

    Attributes:
        vmm: The VMM that its executable or its name points to; None for an unknown one.
        kvm: Whether it holds a KVM VM; None where that may not be looked at.
        vcpus: The vCPU numbers that its descriptors name.
        why: What proof is missing; None where it is a guest.
    """

    vmm: Vmm | None
    kvm: bool | None
    vcpus: frozenset[int]
    why: str | None


def examine(proc: Proc, pid: int, vmms: tuple[Vmm, ...]) -> Evidence | None:
    """
    Look for proof that a process is a guest.

    Args:
        proc: The open /proc.
        pid: The process.
        vmms: The VMMs to look for.

    Returns:
        The evidence, for a guest and for what claims to be one; None for everything else.
    """
    for known in vmms:
        if any(pid == vouched for vouched, _ in known.vouched) and (pid, _start(proc, pid)) in known.vouched:
            return Evidence(vmm=known, kvm=False, vcpus=frozenset(), why=None)
    try:
        exe = os.readlink(f"{pid}/exe", dir_fd=proc.fd)
    except PermissionError:
        return _claim(proc, pid, vmms, "its executable may not be looked at by this user; try as root")
    except OSError:
        return None  # a kernel thread, a zombie, or gone
    path = exe.removesuffix(_DELETED) if exe.endswith(_DELETED) else exe
    vmm = vmm_of_executable(os.path.basename(path), vmms)
    links = _links(proc, pid)
    if links is not None:
        kvm: bool | None = _VM_LINK in links
        numbers = [_VCPU_LINK.fullmatch(link) for link in links]
        vcpus = frozenset(int(number[1]) for number in numbers if number)
        if kvm:
            return Evidence(vmm=vmm, kvm=True, vcpus=vcpus, why=None)
    else:
        kvm = None
    if vmm is not None:
        # a recorded link leads to this machine's files, if anywhere: it proves nothing
        why = _distrust(proc, pid, exe) if proc.live else "a recording shows no more than its name"
        return Evidence(vmm=vmm, kvm=kvm, vcpus=frozenset(), why=why)
    shown = printable(os.fsencode(exe))
    return _claim(proc, pid, vmms, f"its executable is {shown} and it holds no KVM VM", kvm=kvm)


def _claim(
    proc: Proc, pid: int, vmms: tuple[Vmm, ...], why: str, *, kvm: bool | None = None
) -> Evidence | None:
    """Evidence for a process that only calls itself a VMM, so that it can be shown and explained."""
    comm = (proc.read(f"{pid}/comm", 64) or b"").rstrip(b"\n").decode("utf-8", "replace")
    vmm = vmm_of_executable(comm, vmms)
    if vmm is None:
        return None
    return Evidence(
        vmm=vmm, kvm=kvm, vcpus=frozenset(), why=f"it calls itself {printable(comm.encode())}, but {why}"
    )


def _links(proc: Proc, pid: int) -> set[str] | None:
    """Return what a process's descriptors lead to, or None where that may not be looked at."""
    try:
        fd = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc.fd)
    except OSError:
        return None
    links = set()
    try:
        for name in os.listdir(fd):
            try:
                links.add(os.readlink(name, dir_fd=fd))
            except FileNotFoundError:
                continue  # closed meanwhile
    except OSError:
        return None
    finally:
        os.close(fd)
    return links


def _distrust(proc: Proc, pid: int, exe: str) -> str | None:
    """Return why an executable with a VMM's name is not believed, or None where root installed it."""
    shown = printable(os.fsencode(exe))
    try:
        info = os.stat(f"{pid}/exe", dir_fd=proc.fd)
    except OSError as error:
        return f"its executable {shown} cannot be looked at: {error.strerror}"
    if info.st_uid != 0:
        return f"its executable {shown} belongs to user {info.st_uid}, not to root, and it holds no KVM VM"
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"its executable {shown} may be written by others than root, and it holds no KVM VM"
    path = exe
    if exe.endswith(_DELETED) and info.st_nlink == 0:
        path = exe.removesuffix(_DELETED)
        # Without a name there is no file of ours to compare with, so its path must mean what it means here.
        if not _sees_our_files(proc, pid):
            return f"its executable {shown} is one of another mount namespace, and it holds no KVM VM"
    else:
        try:
            here = os.stat(path, follow_symlinks=False)
        except OSError:
            return f"its executable {shown} is not on this file system, and it holds no KVM VM"
        if (here.st_dev, here.st_ino) != (info.st_dev, info.st_ino):
            return f"its executable is another file than {shown} of this host, and it holds no KVM VM"
    folder = os.path.dirname(path)
    while True:
        try:
            above = os.stat(folder)
        except OSError as error:
            return f"the folder {printable(os.fsencode(folder))} of its executable: {error.strerror}"
        if above.st_uid != 0 or above.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return (
                f"its executable {shown} is in {printable(os.fsencode(folder))}, where others than root may write, "
                "and it holds no KVM VM"
            )
        if folder == "/":
            return None
        folder = os.path.dirname(folder)


def _sees_our_files(proc: Proc, pid: int) -> bool:
    """Whether a process has our mount namespace and our root."""
    try:
        theirs = os.stat(f"{pid}/ns/mnt", dir_fd=proc.fd), os.stat(f"{pid}/root", dir_fd=proc.fd)
        ours = os.stat("self/ns/mnt", dir_fd=proc.fd), os.stat("/")
    except OSError:
        return False
    return all((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) for a, b in zip(theirs, ours, strict=True))


def _start(proc: Proc, pid: int) -> int:
    tasks = proc.tasks([pid])
    return next((task.start for task in tasks if task.tid == pid), 0)
