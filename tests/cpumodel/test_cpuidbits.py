"""Names of CPU features by bit: QEMU and the CPU itself are asked what each of them means by a name."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpumodel.cpuidbits import LINUX_TO_QEMU, QEMU_BITS, CpuidBit
from kvmaff.cpumodel.cpuinfo import read_cpuinfo

from ..conftest import needs_qemu
from ..qmp import Command, ask_qemu, qemu_version

NEWER = {"flush-l1d", "fred", "lam", "overflow-recov", "perfmon-v2", "succor", "vnmi"}
"""Features that QEMU 7.2 does not have, and 10.1 has: what is installed cannot say where those are that it lacks."""
NOT_NAMED = {(0xD, 0)}
"""Leaves whose bits are no features but parts of a CPU's state: they come and go with features."""
MADE_UP = {
    # not one bit by that name, but what the kernel concludes or does
    *(
        "ibrs",
        "ibpb",
        "stibp",
        "ssbd",
        "ibrs_enhanced",
        "pti",
        "constant_tsc",
        "nonstop_tsc",
        "rep_good",
        "cpuid",
    ),
    *("tpr_shadow", "flexpriority", "ept", "vpid", "ept_ad", "vmmcall", "split_lock_detect", "user_shstk"),
}


def bits_of(words: Iterable[dict[str, Any]]) -> set[CpuidBit]:
    """The bits of an answer with a register each."""
    return {
        CpuidBit(
            leaf=word["cpuid-input-eax"],
            subleaf=word.get("cpuid-input-ecx", 0),
            register=word["cpuid-register"].lower(),
            bit=bit,
        )
        for word in words
        for bit in range(32)
        if word["features"] >> bit & 1
    }


def of_qemu(names: list[str]) -> dict[str, set[CpuidBit]]:
    """
    What bits a CPU has, or would have if TCG could, that has nothing but the feature and an APIC, for each feature.

    QEMU 7.2 crashes when a CPU with an APIC is plugged beside one without; so all have one.
    """
    paths = [f"/machine/peripheral/cpu{at}" for at in range(1, len(names) + 1)]
    plugged: list[Command] = [
        (
            "device_add",
            {
                "driver": "base-x86_64-cpu",
                "id": f"cpu{at}",
                "socket-id": at,
                "core-id": 0,
                "thread-id": 0,
                "apic": True,
                name: True,
            },
        )
        for at, name in enumerate(names, 1)
    ]
    asked: list[Command] = [
        ("qom-get", {"path": path, "property": said})
        for path in ["/machine/unattached/device[0]", *paths]
        for said in ("feature-words", "filtered-features")
    ]
    places = f"1,maxcpus={len(names) + 1},sockets={len(names) + 1},cores=1,threads=1"
    machine = ("-accel", "tcg,thread=single", "-M", "q35", "-m", "16", "-smp", places, "-cpu", "base,apic=on")
    done = ask_qemu(machine, *plugged, *asked)
    assert (0, (), [{}] * len(names)) == (done.code, done.errors, list(done.returns[: len(names)]))
    answers = iter(done.returns[len(names) :])
    apic, *others = [
        bits_of(words) | bits_of(filtered) for words, filtered in zip(answers, answers, strict=True)
    ]
    return {name: bits - apic or apic for name, bits in zip(names, others, strict=True)}


@needs_qemu
def test_qemu_has_each_name_at_that_bit() -> None:
    """Every name that the installed QEMU has, and no other: those that it does not have are newer than it."""
    if qemu_version() < (7, 2):
        pytest.skip("older than what was looked at")
    (base,) = ask_qemu(
        ["-M", "none"], ("query-cpu-model-expansion", {"type": "static", "model": {"name": "base"}})
    ).returns
    names = [name for name in QEMU_BITS if name in base["model"]["props"]]
    assert set() == set(QEMU_BITS) - set(names) - (NEWER if qemu_version() < (10, 1) else set())
    assert len(names) == 182 if qemu_version() == (7, 2) else len(names) >= 182
    found = {
        name: {bit for bit in bits if (bit.leaf, bit.subleaf) not in NOT_NAMED}
        for name, bits in of_qemu(names).items()
    }
    assert {name: {QEMU_BITS[name]} for name in names} == found


_ASK = """
#include <cpuid.h>
#include <stdio.h>
int main(void) {
    unsigned leaf, subleaf, r[4];
    while (scanf("%u %u", &leaf, &subleaf) == 2) {
        if (!__get_cpuid_count(leaf, subleaf, r, r + 1, r + 2, r + 3)) r[0] = r[1] = r[2] = r[3] = 0;
        printf("%u %u %u %u\\n", r[0], r[1], r[2], r[3]);
    }
    return 0;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no x86 machine")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_this_cpu_has_each_bit_that_linux_shows(tmp_path: Path) -> None:
    """CPUID says yes wherever the flags of all processors here do; the made-up vnmi of Intel's CPUs is no bit."""
    cpu = read_cpuinfo(Path("/proc/cpuinfo").read_bytes())
    (tmp_path / "ask.c").write_text(_ASK)
    subprocess.run(["cc", "-O1", tmp_path / "ask.c", "-o", tmp_path / "ask"], check=True)
    leaves = sorted({(bit.leaf, bit.subleaf) for bit in QEMU_BITS.values()})
    asked = "".join(f"{leaf} {subleaf}\n" for leaf, subleaf in leaves)
    told = subprocess.run([tmp_path / "ask"], input=asked, capture_output=True, text=True, check=True).stdout
    said = {
        (*leaf, register): int(value)
        for leaf, line in zip(leaves, told.splitlines(), strict=True)
        for register, value in zip(("eax", "ebx", "ecx", "edx"), line.split(), strict=True)
    }
    shown = {flag for flag in cpu.shown if flag in LINUX_TO_QEMU}
    if cpu.vendor == "GenuineIntel":
        shown.discard("vnmi")
    bits = {flag: QEMU_BITS[LINUX_TO_QEMU[flag]] for flag in shown}
    assert len(shown) > 20
    assert set() == {
        flag for flag, bit in bits.items() if not said[bit.leaf, bit.subleaf, bit.register] >> bit.bit & 1
    }


def test_one_name_one_bit_one_name() -> None:
    """No two features share a name on either side, or a bit; every bit is one of a register of 32."""
    assert 189 == len(LINUX_TO_QEMU) == len(set(LINUX_TO_QEMU.values())) == len(set(QEMU_BITS.values()))
    assert set(LINUX_TO_QEMU.values()) == set(QEMU_BITS)
    assert {True} == {
        0 <= bit.bit < 32 and bit.register in {"eax", "ebx", "ecx", "edx"} for bit in QEMU_BITS.values()
    }


@given(hs.sampled_from(sorted(LINUX_TO_QEMU)))
def test_equal_spelling_is_no_accident(linux: str) -> None:
    """A Linux name that looks like one of QEMU's is that one."""
    alike = linux.replace("_", "-")
    assert alike == LINUX_TO_QEMU[linux] or alike not in QEMU_BITS


@pytest.mark.parametrize(
    ("linux", "qemu"),
    [
        ("dts", "ds"),
        ("sse4_1", "sse4.1"),
        ("tsc_deadline_timer", "tsc-deadline"),
        ("cr8_legacy", "cr8legacy"),
        ("pausefilter", "pause-filter"),
        ("rng", "xstore"),
        ("ace", "xcrypt"),
        ("ace2", "ace2"),
        ("tsxldtrk", "tsx-ldtrk"),
        ("sgx_lc", "sgxlc"),
        ("avx512_vnni", "avx512vnni"),
        ("avx512_vpopcntdq", "avx512-vpopcntdq"),
        ("3dnow", "3dnow"),
    ],
)
def test_names_that_differ(linux: str, qemu: str) -> None:
    """Those that no rule tells, and some that look as if one did."""
    assert qemu == LINUX_TO_QEMU[linux]


def test_what_the_kernel_makes_up_is_no_feature() -> None:
    """Also where QEMU has a feature of that name."""
    assert set() == MADE_UP & set(LINUX_TO_QEMU)
    assert set() == {"ibrs", "ibpb", "stibp", "ssbd", "spec-ctrl", "invtsc", "split-lock-detect"} & set(
        QEMU_BITS
    )
