"""QEMU's command line for a machine, and the one fact about the host that it needs."""

from __future__ import annotations

import ctypes
import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path

from .machine import Machine, cpulist

__all__ = ["CHANNEL", "QEMU", "arguments", "tsc_khz"]

QEMU = "qemu-system-x86_64"
CHANNEL = "kvmaff.lab"
"""The name of the port on which the agent answers."""

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret


def arguments(
    machine: Machine,
    *,
    image: Path,
    initramfs: Path,
    share: Path,
    console: Path,
    channel: int,
    khz: int | None,
) -> list[str]:
    """
    Return what QEMU is to be started with.

    * ``thread=single``: with a thread a vCPU Linux 6.12 panics now and then, as it patches its own code.
    * The CPU is an Intel one: under TCG AMD's do not show siblings.
    * ``min-level=32``: where dies make 31 the CPU's highest leaf, QEMU 10 fails an assertion when the kernel
      asks for a higher one.
    * 9p is the one file system that Debian's kernels and QEMU share without a daemon.
    * ``panic=-1`` and ``-no-reboot`` make a panic the end of QEMU, at once.

    Args:
        machine: The machine.
        image: The kernel.
        initramfs: Its first files.
        share: The folder that both sides write.
        console: The file for what the kernel says.
        channel: A descriptor: one end of a stream socket, the other end of which the asker has.
        khz: What :func:`tsc_khz` gave.

    Returns:
        The program and its arguments.
    """
    shape = f"sockets={machine.sockets},dies={machine.dies},cores={machine.cores},threads={machine.threads}"
    words = [QEMU, "-name", "kvmaff-lab,debug-threads=on", "-nodefaults", "-no-user-config", "-no-reboot"]
    words += ["-display", "none", "-machine", "q35", "-accel", "tcg,thread=single"]
    words += ["-cpu", f"{machine.cpu},min-level=32"]
    words += ["-m", f"{machine.memory}M", "-smp", f"{machine.present_cpus},maxcpus={machine.cpus},{shape}"]
    for number, node in enumerate(machine.nodes):
        numa = f"node,nodeid={number}" + "".join(f",cpus={cpu}" for cpu in cpulist(node.cpus))
        if node.memory:
            words += ["-object", f"memory-backend-ram,id=memory{number},size={node.memory}M"]
            numa += f",memdev=memory{number}"
        words += ["-numa", numa]
    for a, row in enumerate(machine.distances):
        for b, value in enumerate(row):
            words += ["-numa", f"dist,src={a},dst={b},val={value}"]
    line = ["console=ttyS0 quiet panic=-1 oops=panic mitigations=off nopti tsc=reliable"]
    line += [f"tsc_early_khz={khz}"] if khz else []
    words += [
        "-kernel",
        str(image),
        "-initrd",
        str(initramfs),
        "-append",
        " ".join([*line, machine.append]).strip(),
    ]
    words += ["-chardev", f"file,id=console,path={_quoted(console)}", "-serial", "chardev:console"]
    root = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
    words += ["-fsdev", root, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
    words += ["-fsdev", f"local,id=share,path={_quoted(share)},security_model=none"]
    words += ["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]
    words += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=channel,fd={channel}"]
    words += ["-device", f"virtserialport,chardev=channel,name={CHANNEL}"]
    return words


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def tsc_khz() -> int | None:
    """
    Return how fast the host's time stamp counter runs, in kHz; None where it cannot be told.

    TCG shows that counter to the machine, whose kernel would otherwise measure it against an emulated timer: on a
    busy host it was a factor of four off, and so was every clock.
    """
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
            code.write(_RDTSC)
            place = ctypes.c_char.from_buffer(code)
            read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
            first = min(_reading(read) for _ in range(20))
            time.sleep(0.05)
            second = min(_reading(read) for _ in range(20))
            del place, read
    except (OSError, PermissionError):  # a host that forbids code in written memory
        found = re.search(
            r"^cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE
        )
        return round(float(found[1]) * 1000) if found else None
    return round((second[2] - first[2]) / (second[1] - first[1]) * 1e6)


def _reading(read: Callable[[], int]) -> tuple[int, int, int]:
    """Return how long it took to read both clocks, the time in ns, and the counter."""
    before = time.monotonic_ns()
    counter = read()
    after = time.monotonic_ns()
    return after - before, (before + after) // 2, counter
