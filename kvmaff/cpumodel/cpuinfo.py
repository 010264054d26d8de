"""
What /proc/cpuinfo tells of what a host can give its guests: the source where neither QEMU nor CPUID can be asked.

Rule 1: it says yes or nothing. A flag that is missing means nothing, since kernels hide flags (by ``clearcpuid=``, for
a mitigation, or because nobody asked for a name), so nobody may read a no out of it.

Rule 2: yes means that KVM gives the feature to a guest of QEMU on that host, by Linux 5.15 or newer with KVM's modules
as they come, and by a QEMU that knows the name. What some of those kernels show and do not pass on is left out, and so
is what a module's option decides (arch/x86/kvm/cpuid.c, vmx/vmx.c, svm/svm.c; QEMU: target/i386/kvm/kvm.c).

Rule 3: yes is said only of what all processors show, as those of hybrid machines differ; and only of a machine that
shows ``vmx`` or ``svm``, without which KVM does not run, or is not the one that is known here (PVM gives much less).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from kvmaff.cpumodel.cpuidbits import LINUX_TO_QEMU
from kvmaff.cpuset import MAX_CPUS
from kvmaff.errors import HostReadError
from kvmaff.kernel.text import printable

__all__ = ["CPUINFO", "CpuinfoCpu", "address_bits", "read_cpuinfo"]

CPUINFO = "/proc/cpuinfo"

_LARGEST = 1 << 24
"""/proc/cpuinfo has about 1.5 KiB a processor."""
_KEPT = 1 << 12
"""Lines to remember: what comes once for each of thousands of processors is looked at once."""
_LONGEST = 1 << 14
"""No line of flags has more bytes."""
_SHOWN = 6
"""So many problems are told."""
_TIRED = 100
"""After so many, the same ones among them, nothing more is read."""

_VIRTUAL = frozenset({"vmx", "svm"})
_EMULATED = frozenset({"arat", "hypervisor", "tsc-adjust", "tsc-deadline", "x2apic"})
"""KVM, or QEMU with KVM's APIC, makes these itself: every guest can have them, whatever the host's CPU has."""
_UNSURE = frozenset(
    name
    for names in (
        # no guest gets them, or not without more than a name
        "acpi cid dca ds-cpl est extapic ht ia64 ibs lwp monitor nodeid-msr pbe perfctr-nb pn skinit smx tce tm tm2",
        "avic decodeassists svm-lock wdt xtpr",
        # QEMU takes it from nobody unless it is asked for, and then on any host
        "topoext",
        # a module's option decides: nested, enable_pmu, pt_mode, sgx; or QEMU's -overcommit cpu-pm
        "svm flushbyasid lbrv npt nrip-save pause-filter pfthreshold tsc-scale v-vmsave-vmload vgif vmcb-clean vnmi",
        "vmx ds dtes64 pdcm perfctr-core perfmon-v2 intel-pt sgx sgxlc waitpkg",
        # kernels show them longer than KVM passes them on, or KVM has ceased to
        "arch-lbr flush-l1d fred lam mpx",
        # KVM passes those on for one of the vendors that have them
        "ace2 ace2-en phe phe-en pmm pmm-en xcrypt xcrypt-en xstore xstore-en",
    )
    for name in names.split()
)
_SURE = {linux: qemu for linux, qemu in LINUX_TO_QEMU.items() if qemu not in _UNSURE}
_ONLY_WITH = {
    # AMD's bus lock is passed on by mistake or not at all; a hypervisor below may show what AMD's CPUs do not have
    "bus-lock-detect": [{"vmx"}],
    "arch-capabilities": [{"vmx"}],
    # not without two-dimensional paging, nor where the kernel itself does not use it
    "pku": [{"ospke"}, {"ept", "npt"}],
    # passed on since 5.17, shown since 5.11; whoever shows ibt is 5.18, and every CPU with AMX has it
    **{name: [{"ibt"}] for name in ("amx-tile", "amx-int8", "amx-bf16")},
}
"""For each, groups of flags: one at least of each group has to be shown, too."""
_BY_CONTROL = frozenset({"invpcid", "pdpe1gb", "pku", "rdpid", "rdtscp", "xsaves"})
"""KVM gives these where VMX or the page tables can: so all real CPUs do, but a hypervisor below may not."""
_TSX = frozenset({"hle", "rtm"})
_WIDE = frozenset({"lm", "pdpe1gb"})
"""The KVM of a 32-bit kernel does not give these."""

_ELSEWHERE = {
    b"CPU implementer": "Arm",
    b"CPU architecture": "Arm",
    b"bogomips per cpu": "IBM Z",
    b"timebase": "POWER",
    b"hart": "RISC-V",
    b"isa": "RISC-V",
    b"CPU Family": "LoongArch",
    b"cpu model": "MIPS",
    b"cpucaps": "SPARC",
}
"""What lines are called that x86's /proc/cpuinfo does not have."""
_NUMBERS = {b"cpu family": 0xF + 0xFF, b"model": 0xFF, b"stepping": 0xF}
"""The largest that CPUID can tell."""
_KEYS = (b"vendor_id", b"cpu family", b"model", b"stepping", b"model name", b"flags")
_NARROW = b"fdiv_bug"
"""Told by kernels of 32 bits alone."""
_ADDRESSES = re.compile(rb"^address sizes\s*: ([0-9]{1,3}) bits physical", re.MULTILINE)
_FLAG = re.compile(r"[a-z0-9][a-z0-9_.:+-]{0,63}", re.ASCII)
_Said = tuple[bytes | None, ...]
"""What a processor says for each of the keys."""


@attrs.frozen(kw_only=True)
class CpuinfoCpu:
    """
    A host's CPU as /proc/cpuinfo tells it.

    Attributes:
        vendor: The word behind ``vendor_id``, as ``GenuineIntel``.
        family: Its number; where processors differ in family, model or stepping, those of the smallest.
        model: The same.
        stepping: The same.
        name: What it calls itself, made printable; empty where it does not.
        features: QEMU's names of what KVM surely gives a guest there; what is missing is unknown.
        shown: The flags that all processors show, by Linux's names.
    """

    vendor: str
    family: int
    model: int
    stepping: int
    name: str
    features: frozenset[str]
    shown: frozenset[str]


def read_cpuinfo(text: str | bytes, path: str = "/proc/cpuinfo") -> CpuinfoCpu:
    """
    Read /proc/cpuinfo of an x86 machine.

    ``arat``, ``hypervisor``, ``tsc-adjust``, ``tsc-deadline`` and ``x2apic`` are features of every host with VMX or
    SVM: KVM makes the timers and the APIC in software (EMULATED_F in its cpuid.c), and QEMU adds what older ones do not
    tell. ``umip`` and ``arch-capabilities`` KVM can make too, but not for both vendors: the flag has to be shown.

    Args:
        text: What the file holds.
        path: What to call it in messages.

    Returns:
        The CPU.

    Raises:
        HostReadError: It is none, is of another architecture, or cannot be true; says all that is wrong.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(data) > _LARGEST:
        raise HostReadError(f"{path}: it has {len(data)} bytes, more than {_LARGEST}", path=path)
    found = _Processors()
    found.read(data)
    if found.elsewhere and not any(said[-1] for said in found.kinds):
        raise HostReadError(
            f"{path}: it is of no x86 machine but of {' or '.join(sorted(found.elsewhere))}, whose guests have other "
            "CPU models",
            path=path,
        )
    wrong = found.wrong
    cpus = [_cpu(said, f"processor {number}", wrong) for said, number in found.kinds.items()]
    if not cpus and not wrong:
        wrong.append("there is no processor in it")
    if len({cpu.vendor for cpu in cpus}) > 1 and not wrong:
        vendors = ", ".join(sorted({repr(cpu.vendor) for cpu in cpus})[:_SHOWN])
        wrong.append(f"its processors are of several vendors: {vendors}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise HostReadError(f"{path}: {'; '.join(wrong[:_SHOWN])}{more}", path=path)
    least = min(cpus, key=lambda cpu: (cpu.family, cpu.model, cpu.stepping, cpu.name))
    shown = frozenset.intersection(*(cpu.shown for cpu in cpus))
    sure = set(_sure(shown))
    if any("hypervisor" in cpu.shown for cpu in cpus):
        sure -= _BY_CONTROL
    if any(_broken_tsx(cpu) for cpu in cpus):
        sure -= _TSX
    if found.narrow:
        sure -= _WIDE
    return attrs.evolve(least, shown=shown, features=frozenset(sure))


def address_bits(data: bytes) -> int | None:
    """
    Say how many bits the physical addresses of a machine have.

    Args:
        data: What its /proc/cpuinfo holds.

    Returns:
        The least that any processor says; None where none does.
    """
    said = {int(bits) for bits in _ADDRESSES.findall(data) if 32 <= int(bits) <= 64}
    return min(said, default=None)


class _Processors:
    """
    The processors of a file, each different one once: thousands of them say the same.

    Attributes:
        kinds: The number of the first processor, as it stands there, by what it says.
        narrow: Whether the kernel is one of 32 bits.
        elsewhere: Whose /proc/cpuinfo has lines like some of these.
        wrong: What cannot be true, each once; empty where it all can.
    """

    def __init__(self) -> None:
        self.kinds: dict[_Said, str] = {}
        self.narrow = False
        self.elsewhere: set[str] = set()
        self.wrong: list[str] = []
        self._refused = 0
        self._numbers: set[str] = set()
        self._number: str | None = None
        self._said: dict[bytes, bytes] = {}

    def read(self, data: bytes) -> None:
        """Read to the end, or to where too much is wrong to be of interest."""
        lines: dict[bytes, tuple[bytes, bytes] | None] = {b"": None}
        for line in data.split(b"\n"):
            pair = lines.get(line, ())
            if pair == ():
                pair = self._looked_at(line)
                if len(lines) < _KEPT:
                    lines[line] = pair
            if pair:
                self._line(*pair)
                if len(self.wrong) > _SHOWN or self._refused > _TIRED:
                    return
        self._end()

    def _looked_at(self, line: bytes) -> tuple[bytes, bytes] | None:
        """Take a line apart that a processor's values are in; take note of another that says something."""
        key, _, value = line.partition(b":")
        key = key.strip()
        if key == b"processor" or key in _KEYS:
            return key, value.strip()
        if key in _ELSEWHERE:
            self.elsewhere.add(_ELSEWHERE[key])
        elif key == _NARROW:
            self.narrow = True
        return None

    def _line(self, key: bytes, value: bytes) -> None:
        if key == b"processor":
            self._end()
            self._number = printable(value, 16)
        elif self._number is None:
            self._refuse(f"{key.decode()!r} stands before the first 'processor'")
        else:
            if key in self._said:
                self._refuse(f"processor {self._number} has several lines {key.decode()!r}")
            self._said[key] = value

    def _end(self) -> None:
        """Keep what the last processor said."""
        said, self._said = self._said, {}
        number = self._number
        if number is None:
            return
        if not re.fullmatch(r"[0-9]{1,5}", number) or int(number) >= MAX_CPUS:
            self._refuse(f"processor {number!r}: its number is none from 0 to {MAX_CPUS - 1}")
        elif number in self._numbers:
            self._refuse(f"there are two processors {number}")
        else:
            self._numbers.add(number)
            self.kinds.setdefault(tuple(said.get(key) for key in _KEYS), number)

    def _refuse(self, problem: str) -> None:
        self._refused += 1
        if problem not in self.wrong:
            self.wrong.append(problem)


def _cpu(said: _Said, where: str, wrong: list[str]) -> CpuinfoCpu:
    """Check what a processor says; its features come later."""
    values = dict(zip(_KEYS, said, strict=True))
    if len(wrong) <= _SHOWN:
        wrong += [
            f"{where} has no line {key.decode()!r}"
            for key, value in values.items()
            if value is None and key != b"model name"
        ]
        if values[b"vendor_id"] == b"":
            wrong.append(f"{where}: its vendor has no name")
        if len(values[b"flags"] or b"") > _LONGEST:
            wrong.append(f"{where}: its flags have more than {_LONGEST} bytes")
    numbers = {}
    for key, most in _NUMBERS.items():
        value = values[key]
        numbers[key] = int(value) if value is not None and re.fullmatch(rb"[0-9]{1,9}", value) else -1
        if value is not None and not 0 <= numbers[key] <= most and len(wrong) <= _SHOWN:
            wrong.append(
                f"{where}: {key.decode()} is a number from 0 to {most}, not {printable(value, 32)!r}"
            )
    flags = (values[b"flags"] or b"")[:_LONGEST].decode("ascii", "replace").split()
    return CpuinfoCpu(
        vendor=printable(values[b"vendor_id"] or b"", 32),
        family=numbers[b"cpu family"],
        model=numbers[b"model"],
        stepping=numbers[b"stepping"],
        name=printable(values[b"model name"] or b""),
        features=frozenset(),
        shown=frozenset(flag for flag in flags if _FLAG.fullmatch(flag)),
    )


def _sure(shown: frozenset[str]) -> Iterator[str]:
    """Yield what KVM gives where all processors show these."""
    if not shown & _VIRTUAL:
        return
    yield from _EMULATED
    for linux, qemu in _SURE.items():
        if linux in shown and all(shown & group for group in _ONLY_WITH.get(qemu, ())):
            yield qemu


def _broken_tsx(cpu: CpuinfoCpu) -> bool:
    """Whether QEMU gives no guest TSX there, since it does not work: the first Haswells."""
    return cpu.vendor == "GenuineIntel" and (
        (cpu.family, cpu.model) in {(6, 60), (6, 69), (6, 70)}
        or ((cpu.family, cpu.model) == (6, 63) and cpu.stepping < 4)
    )
