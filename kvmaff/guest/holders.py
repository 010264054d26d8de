"""
Who holds a KVM VM: what no process can claim.

Three ways, the cheapest that can be trusted here first:

* no VM exists at all: KVM is not there, or nothing uses its modules;
* debugfs, mounted or not: the kernel lists each VM as ``kvm/<tid of its creator>-<descriptor>`` with the thread of each
  vCPU in ``vcpuN/pid`` (virt/kvm/kvm_main.c). A VM is believed where its descriptor is found to be one, the list as a
  whole only where all are: a VM whose creator ended or closed it is held by somebody else;
* descriptors: every link of every process is read. What debugfs says of the other VMs' vCPUs stays true.

Numbers in debugfs are those of the first pid namespace; in another one it is left alone. The N of ``vcpuN`` is KVM's
vcpu_id, on x86 the APIC id: with three cores a socket, 3 is missing.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Collection, Mapping, Sequence

from kvmaff.kernel.debugfs import open_debugfs
from kvmaff.kernel.scan import Proc

__all__ = ["Holders", "How"]

VM_LINK = "anon_inode:kvm-vm"
_VM_FOLDER = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
_VCPU_FOLDER = re.compile(r"vcpu([0-9]{1,10})")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO (include/linux/proc_ns.h)."""
_MISC = "/sys/class/misc/kvm"
_MODULES = "/sys/module"


class How(enum.StrEnum):
    """How VMs were found."""

    NONE = "none"
    DEBUGFS = "debugfs"
    DESCRIPTORS = "descriptors"


class Holders:
    """
    Finds the processes that hold a VM.

    Args:
        proc: The open /proc.
    """

    def __init__(self, proc: Proc) -> None:
        self.how = How.DESCRIPTORS  # how the last search went
        self._proc = proc
        self._folders: dict[int, list[str]] = {}
        self._may = proc.live and _first_namespace(proc)
        self._debugfs: int | None = None
        self._tried = False  # whether debugfs was asked since KVM is there

    def close(self) -> None:
        """Let go of debugfs."""
        if self._debugfs is not None:
            os.close(self._debugfs)
            self._debugfs = None

    def find(self, pids: Sequence[int], skip: Collection[int] = ()) -> dict[int, bool | None]:
        """
        Find them.

        Args:
            pids: The processes that may hold one.
            skip: Those of them into whose descriptors nobody needs to look.

        Returns:
            Whether a process holds a VM, None where that may not be looked at; without those of ``skip`` that were
            not looked at.
        """
        self._folders = {}
        if self._proc.live and _no_vm():
            self.how = How.NONE
            return dict.fromkeys(pids, False)
        if self._may and not self._tried:
            self._tried, self._debugfs = True, open_debugfs("kvm")
        if self._debugfs is not None and self._listed(self._debugfs, frozenset(pids)):
            self.how = How.DEBUGFS
            return {pid: pid in self._folders for pid in pids}
        self.how = How.DESCRIPTORS
        looked = [pid for pid in pids if pid not in skip]
        found = self._proc.holders(looked, VM_LINK)
        return {pid: _held(found, pid) for pid in looked}

    def folders(self, pid: int) -> tuple[str, ...] | None:
        """
        What the kernel calls a process's VMs.

        Args:
            pid: The process.

        Returns:
            Their names in debugfs; None where that does not tell of any.
        """
        return tuple(self._folders[pid]) if pid in self._folders else None

    def among(self, pids: Collection[int]) -> set[int]:
        """
        Which of some processes debugfs lists, whatever else can be seen of them.

        Args:
            pids: The processes: one whose main thread has ended shows neither executable nor descriptors.

        Returns:
            Those that hold a VM; none where debugfs does not tell.
        """
        return self._folders.keys() & set(pids)

    def vcpus(self, pid: int) -> dict[int, int] | None:
        """
        The vCPU threads of a VM as the kernel lists them.

        Args:
            pid: The process, one that :meth:`find` found.

        Returns:
            Thread number by vcpu_id, 0 for a vCPU that never ran, that of an ended thread for one that was unplugged;
            None where the kernel does not tell. A process with several VMs has none that could be called its vCPU 0.
        """
        folders = self._folders.get(pid, [])
        if len(folders) != 1 or self._debugfs is None:
            return None
        try:
            fd = os.open(folders[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._debugfs)
        except OSError:
            return None
        try:
            names = [match for match in map(_VCPU_FOLDER.fullmatch, os.listdir(fd)) if match]
            return {int(name[1]): _number(f"{name[0]}/pid", fd) for name in names}
        except (OSError, ValueError):
            return None  # before Linux 5.18 it has no such file
        finally:
            os.close(fd)

    def _listed(self, debugfs: int, pids: frozenset[int]) -> bool:
        """Note each process's VMs' folders; False where the list leaves a VM's holder open."""
        try:
            names = os.listdir(debugfs)
        except OSError:
            self.close()  # KVM was unloaded: its folder is another one when it comes back
            self._tried = False
            return False
        whole = True
        for match in filter(None, map(_VM_FOLDER.fullmatch, names)):
            creator = int(match[1])
            try:
                link = os.readlink(f"{creator}/fd/{match[2]}", dir_fd=self._proc.fd)
            except OSError:
                link = ""
            pid = creator if creator in pids else self._proc.process_of(creator)
            if link != VM_LINK or pid is None:
                whole = False
                continue
            self._folders.setdefault(pid, []).append(match[0])
        return whole


def _held(found: Mapping[int, int | OSError], pid: int) -> bool | None:
    held = found.get(pid)
    return None if isinstance(held, OSError) else held is not None


def _no_vm() -> bool:
    """Whether no VM can exist: KVM has no device, or no module of it is in use."""
    if not os.path.exists(_MISC):
        return os.path.isdir(_MODULES) and not os.path.exists(f"{_MODULES}/kvm")
    counts = []
    for name in ("kvm_intel", "kvm_amd"):  # a VM and each of its descriptors use the vendor's module
        if os.path.exists(f"{_MODULES}/{name}"):
            try:
                counts.append(_number(f"{_MODULES}/{name}/refcnt"))
            except (OSError, ValueError):
                return False  # built in, so that nobody counts
    others = {name for name in os.listdir(_MODULES) if name.startswith("kvm_")} - {"kvm_intel", "kvm_amd"}
    return bool(counts) and not any(counts) and not others


def _number(path: str, folder: int | None = None) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return int(os.read(fd, 32))
    finally:
        os.close(fd)


def _first_namespace(proc: Proc) -> bool:
    try:
        return os.readlink("self/ns/pid", dir_fd=proc.fd) == _FIRST_PID_NAMESPACE
    except OSError:
        return False
