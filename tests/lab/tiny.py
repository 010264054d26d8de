"""
Guests of 64 KiB that need no assembler, no disk and no operating system: a ROM that starts all vCPUs at once.

Two of them: in :data:`SPIN` every vCPU spins, in :data:`TICK` every vCPU sleeps (``hlt``) and is woken twenty times
a second by the timer of its own local APIC, so that it moves at once when its thread is bound and costs next to
nothing. Every vCPU writes one ``+`` to port 0xe9 when it is up (``-device isa-debugcon,iobase=0xe9,…``).

All that happens, in 16-bit code with the ROM at 0xf0000 (segment 0xf000) and at the top of 4 GiB:

1. The first vCPU (BSP) comes from the reset vector, 16 bytes below the top, which jumps to f000:0000.
2. For a moment it goes into protected mode, to load ``fs`` with a limit of 4 GiB; back in real mode the limit stays
   ("unreal mode"). So ``fs:[esi + n]`` reaches the local APIC's registers at 0xfee00000.
3. It sends INIT and start-up (SIPI) to all the others, which begin at f000:0000 too.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

__all__ = ["SPIN", "TICK", "command", "write"]

_SIZE = 1 << 16
_APIC = 0xFEE00000
# Registers of the local APIC, and what is written there (Intel SDM volume 3, chapter "APIC")
_ID, _EOI, _SPURIOUS, _COMMAND = 0x20, 0xB0, 0xF0, 0x300
_TIMER, _TIMER_START, _TIMER_DIVIDE = 0x320, 0x380, 0x3E0
_VECTOR = 0x20  # of the timer's interrupt
_ENABLED = 0x1FF
_PERIODIC = 1 << 17
_BY_ONE = 0xB
_OTHERS_INIT = 0x000C4500
_OTHERS_START = 0x000C46F0  # at 0xf0 << 12
_TIMER_HZ = 1_000_000_000  # QEMU's
_WAKES = 20  # a second


class _Code:
    """Code as it is written down: bytes in hexadecimal, with ``{label}`` for a 16-bit address to be known later."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._uses: list[tuple[int, str, int]] = []

    def __call__(self, text: str, _meaning: str = "") -> None:
        """Add bytes; a use ``{label}`` is an absolute address, ``{>label}`` the distance of a short jump."""
        for part in re.split(r"(\{>?\w+\})", text):
            if part.startswith("{>"):
                self._uses.append((len(self._bytes), part[2:-1], 1))
                self._bytes += bytes(1)
            elif part.startswith("{"):
                self._uses.append((len(self._bytes), part[1:-1], 2))
                self._bytes += bytes(2)
            else:
                self._bytes += bytes.fromhex(part)

    def label(self, name: str) -> None:
        """Name the place where the next byte goes."""
        self._labels[name] = len(self._bytes)

    def apic(self, register: int, value: int) -> None:
        """Add ``mov dword fs:[esi + register], value``."""
        self("64 67 66 c7 86" + struct.pack("<II", register, value).hex())

    def rom(self) -> bytes:
        """Return the ROM: this code at its beginning, the reset vector near its end."""
        code = self._bytes
        for place, name, size in self._uses:
            target = self._labels[name]
            if size == 1:
                struct.pack_into("<b", code, place, target - (place + 1))
            else:
                struct.pack_into("<H", code, place, target)
        reset = bytes.fromhex("ea 0000 00f0")  # jmp f000:0000
        return bytes(code) + bytes(_SIZE - 16 - len(code)) + reset + bytes(16 - len(reset))


def _begin() -> _Code:
    """Return what every vCPU does first: reach its APIC by ``fs:[esi + n]``, and enable it."""
    code = _Code()
    code("fa", "cli")
    code("8c c8", "mov ax, cs")
    code("8e d8", "mov ds, ax")
    code("66 0f 01 16 {table}", "lgdt [table]")
    code("0f 20 c0", "mov eax, cr0")
    code("0c 01", "or al, 1")
    code("0f 22 c0", "mov cr0, eax: protected mode")
    code("bb 08 00", "mov bx, 8: the descriptor below")
    code("8e e3", "mov fs, bx")
    code("24 fe", "and al, 0xfe")
    code("0f 22 c0", "mov cr0, eax: real mode again")
    code("66 be" + struct.pack("<I", _APIC).hex(), "mov esi, _APIC")
    code.apic(_SPURIOUS, _ENABLED)
    return code


def _start_others(code: _Code) -> None:
    """Add: the first vCPU starts the others, and everybody says that it is up."""
    code("66 b9 1b000000", "mov ecx, 0x1b: IA32_APIC_BASE")
    code("0f 32", "rdmsr")
    code("f6 c4 01", "test ah, 1: bit 8, this is the BSP")
    code("74 {>up}", "jz up")
    code.apic(_COMMAND, _OTHERS_INIT)
    code("66 b9 204e0000", "mov ecx, 20000")
    code.label("wait")
    code("66 49", "dec ecx")
    code("75 {>wait}", "jnz wait")
    code.apic(_COMMAND, _OTHERS_START)
    code.label("up")
    code("b0 2b", "mov al, '+'")
    code("e6 e9", "out 0xe9, al")


def _end(code: _Code) -> bytes:
    """Add the descriptors, and return the ROM."""
    code.label("descriptors")
    code("00 00 00 00 00 00 00 00", "the null descriptor")
    code("ff ff 00 00 00 92 cf 00", "data, base 0, limit 4 GiB")
    code.label("table")
    code("0f 00", "limit: 16 bytes")
    code("{descriptors} 0f 00", "address: 0xf0000 + descriptors")
    return code.rom()


def _spin() -> bytes:
    code = _begin()
    _start_others(code)
    code.label("spin")
    code("eb {>spin}", "jmp spin")
    return _end(code)


def _tick() -> bytes:
    code = _begin()
    code("31 c0", "xor ax, ax")
    code("8e d0", "mov ss, ax")
    code("8e c0", "mov es, ax")
    # A stack for each: 64 bytes below 0x1000 + 64 * APIC id
    code("64 67 66 8b 86" + struct.pack("<I", _ID).hex(), "mov eax, fs:[esi + _ID]")
    code("66 c1 e8 18", "shr eax, 24")
    code("c1 e0 06", "shl ax, 6")
    code("05 00 10", "add ax, 0x1000")
    code("89 c4", "mov sp, ax")
    vector = 4 * _VECTOR  # of the table at 0, two words each
    code(f"26 c7 06 {struct.pack('<H', vector).hex()} {{woken}}", "mov word es:[vector], woken")
    code(f"26 8c 0e {struct.pack('<H', vector + 2).hex()}", "mov es:[vector + 2], cs")
    code.apic(_TIMER_DIVIDE, _BY_ONE)
    code.apic(_TIMER, _PERIODIC | _VECTOR)
    code.apic(_TIMER_START, _TIMER_HZ // _WAKES)
    _start_others(code)
    code.label("sleep")
    code("fb", "sti")
    code("f4", "hlt")
    code("eb {>sleep}", "jmp sleep")
    code.label("woken")
    code.apic(_EOI, 0)
    code("cf", "iret")
    return _end(code)


SPIN = _spin()
"""A ROM whose vCPUs spin."""
TICK = _tick()
"""A ROM whose vCPUs sleep, and wake twenty times a second."""


def write(rom: bytes, path: str | os.PathLike[str]) -> Path:
    """
    Write a ROM to a file.

    Args:
        rom: :data:`SPIN` or :data:`TICK`.
        path: The file.

    Returns:
        The file.
    """
    file = Path(path)
    file.write_bytes(rom)
    return file


def command(
    rom: str | os.PathLike[str],
    *,
    name: str = "tiny",
    vcpus: int = 2,
    max_vcpus: int | None = None,
    accel: str = "tcg,thread=multi",
    machine: str = "microvm",
    extra: tuple[str, ...] = (),
) -> list[str]:
    """
    Return the command line of a QEMU that runs a ROM, with a thread a vCPU.

    Args:
        rom: The file.
        name: The guest's name.
        vcpus: How many vCPUs it starts with.
        max_vcpus: With those that could be plugged in, which needs ``machine="q35"``; none where it is None.
        accel: QEMU's accelerator. Under KVM only the BSP is sure to come up where KVM is nested.
        machine: QEMU's machine; microvm starts fastest.
        extra: More arguments.
    """
    smp = f"{vcpus},maxcpus={max_vcpus}" if max_vcpus else str(vcpus)
    words = [
        "qemu-system-x86_64",
        "-name",
        f"guest={name},debug-threads=on",
        "-machine",
        machine,
        "-accel",
        accel,
    ]
    words += [
        "-smp",
        smp,
        "-m",
        "16",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-bios",
        os.fspath(rom),
    ]
    return [*words, *extra]
