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

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence

import attrs

from kvmaff.guest.holders import Holders
from kvmaff.guest.vmm import Vmm, vmm_of_executable
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.text import printable

__all__ = ["UNKNOWN_VMM", "Evidence", "Examiner"]

UNKNOWN_VMM = "kvm"
"""The name of the VMM of a process that holds a KVM VM and whose executable is not known."""

_DELETED = " (deleted)"
_MOST_PATHS = 1 << 14
_VCPU_LINK = re.compile(r"anon_inode:kvm-vcpu:([0-9]{1,10})")


@attrs.frozen(kw_only=True)
class Evidence:
    """
    What speaks for a process being a guest.

    Attributes:
        vmm: The VMM that its executable or its name points to; None for an unknown one.
        kvm: Whether it holds a KVM VM; None where that may not be looked at, or nobody needed to know.
        why: What proof is missing; None where it is a guest.
    """

    vmm: Vmm | None
    kvm: bool | None
    why: str | None


class Examiner:
    """
    Looks for proof that processes are guests.

    Every process is examined each time: one that was no guest a moment ago may have become one by exec(2) or by
    opening /dev/kvm. What is kept is only why an executable is believed or not, as long as it is the same file.

    Args:
        proc: The open /proc.
        vmms: The VMMs to look for.
    """

    def __init__(self, proc: Proc, vmms: tuple[Vmm, ...]) -> None:
        self.holders = Holders(proc)
        self._proc = proc
        self._vmms = vmms
        self._vouched = {one: known for known in reversed(vmms) for one in known.vouched}
        self._known: dict[bytes, Vmm | None] = {}
        self._trust: dict[object, str | None] = {}
        self._files: dict[int, object] = {}
        self._programs: dict[int, object] = {}

    def examine(
        self, pids: Sequence[int], *, claims: bool = True, always: bool = True
    ) -> tuple[dict[int, Evidence], set[int]]:
        """
        Look at processes.

        Args:
            pids: The processes.
            claims: Also say what only calls itself a VMM.
            always: Find out whether a process holds a VM also where its executable proves it to be a guest.

        Returns:
            By process the evidence, for guests and for what claims to be one; and those of them that run another
            program than at the last look.
        """
        found: dict[int, Evidence] = {}
        paths: dict[int, bytes] = {}
        hidden: list[int] = []
        without: list[int] = []
        vouched = {pid for pid, _ in self._vouched}
        for pid, (path, error) in zip(pids, self._proc.links(pids, "exe"), strict=True):
            if pid in vouched and (by := self._vouched.get((pid, self._proc.start_of(pid)))):
                found[pid] = Evidence(vmm=by, kvm=False, why=None)
            elif not error:
                paths[pid] = path
            elif error in (errno.EACCES, errno.EPERM):
                hidden.append(pid)
            else:
                without.append(pid)  # a kernel thread, a zombie, gone, or one whose main thread has ended
        self._files = {}
        byexe = {pid: vmm for pid, path in paths.items() if (vmm := self._vmm_of(path)) is not None}
        trust = {pid: self._believed(pid, paths[pid]) for pid in byexe}
        proved = () if always else {pid for pid, why in trust.items() if why is None}
        held = self.holders.find(list(paths), skip=proved)
        for pid, vmm in byexe.items():
            kvm = held.get(pid)
            found[pid] = Evidence(vmm=vmm, kvm=kvm, why=None if kvm else trust[pid])
        for pid, kvm in held.items():
            if kvm and pid not in byexe:
                found[pid] = Evidence(vmm=None, kvm=True, why=None)
        for pid in self.holders.among(without):
            found[pid] = Evidence(vmm=None, kvm=True, why=None)
        if claims:
            found |= self._claims(paths.keys() - found.keys(), paths, held)
            for pid in hidden:
                claim = self._claim(
                    pid, None, "its executable may not be looked at by this user; try as root"
                )
                if claim:
                    found[pid] = claim
        programs = {pid: (paths.get(pid), self._files.get(pid)) for pid in found}
        changed = {pid for pid, now in programs.items() if self._programs.get(pid, now) != now}
        self._programs = dict(programs)
        self._trust = {self._files[pid]: self._trust[self._files[pid]] for pid in trust if pid in self._files}
        return dict(sorted(found.items())), changed

    def vcpu_descriptors(self, pid: int) -> frozenset[int]:
        """
        The vCPUs for which a process holds a descriptor.

        Args:
            pid: The process.

        Returns:
            Their vcpu_ids; none where that may not be looked at.
        """
        try:
            fd = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc.fd)
        except OSError:
            return frozenset()
        found = set()
        try:
            for name in os.listdir(fd):
                try:
                    match = _VCPU_LINK.fullmatch(os.readlink(name, dir_fd=fd))
                except FileNotFoundError:
                    continue  # closed meanwhile
                if match:
                    found.add(int(match[1]))
        except OSError:
            return frozenset()
        finally:
            os.close(fd)
        return frozenset(found)

    def _vmm_of(self, path: bytes) -> Vmm | None:
        if path not in self._known:
            if len(self._known) > _MOST_PATHS:
                self._known.clear()
            name = os.fsdecode(path.removesuffix(_DELETED.encode()))
            self._known[path] = vmm_of_executable(os.path.basename(name), self._vmms)
        return self._known[path]

    def _believed(self, pid: int, path: bytes) -> str | None:
        """Why an executable with a VMM's name is not believed, or None; asked anew only for another file."""
        if not self._proc.live:
            # a recorded link leads to this machine's files, if anywhere: it proves nothing
            return "a recording shows no more than its name"
        try:
            info = os.stat(f"{pid}/exe", dir_fd=self._proc.fd)
        except OSError as error:
            return f"its executable {printable(path)} cannot be looked at: {error.strerror}"
        key = (path, info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_nlink, info.st_ctime_ns)
        if key not in self._trust or not info.st_nlink:  # without a name it depends on the process
            self._trust[key] = _distrust(self._proc, pid, os.fsdecode(path), info)
        self._files[pid] = key
        return self._trust[key]

    def _claims(
        self, pids: Iterable[int], paths: Mapping[int, bytes], held: Mapping[int, bool | None]
    ) -> dict[int, Evidence]:
        found = {}
        for pid in pids:
            why = f"its executable is {printable(paths[pid])} and it holds no KVM VM"
            claim = self._claim(pid, held.get(pid), why)
            if claim:
                found[pid] = claim
        return found

    def _claim(self, pid: int, kvm: bool | None, why: str) -> Evidence | None:
        """Evidence for a process that only calls itself a VMM, so that it can be shown and explained."""
        comm = (self._proc.read(f"{pid}/comm", 64) or b"").rstrip(b"\n").decode("utf-8", "replace")
        vmm = vmm_of_executable(comm, self._vmms)
        if vmm is None:
            return None
        return Evidence(vmm=vmm, kvm=kvm, why=f"it calls itself {printable(comm.encode())}, but {why}")


def _distrust(proc: Proc, pid: int, exe: str, info: os.stat_result) -> str | None:
    """Return why an executable with a VMM's name is not believed, or None where root installed it."""
    shown = printable(os.fsencode(exe))
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
