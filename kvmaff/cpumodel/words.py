"""
Features in words that a person understands: what a guest without them does without.

The words are ours. Sources of what needs what: the psABI's levels; Red Hat's and SUSE's announcements of the level that
a release is built for; the kernel's Documentation/admin-guide/hw-vuln for mitigations, and its
Documentation/virt/kvm/x86/cpuid for what KVM offers its guests.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.cpumodel.level import level_name
from kvmaff.cpumodel.table import sorted_names

__all__ = ["in_words", "level_in_words"]

_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "AES and its modes in hardware: TLS and disk encryption get several times slower",
        frozenset({"aes", "pclmulqdq"}),
    ),
    ("wide AES and carry-less multiplication, Galois fields", frozenset({"vaes", "vpclmulqdq", "gfni"})),
    ("SHA in hardware", frozenset({"sha-ni"})),
    (
        "vector instructions of 256 bits (AVX, AVX2, FMA): numerics, video, databases; some programs do not start",
        frozenset({"avx", "avx2", "fma", "f16c", "fma4", "xop", "avx-vnni"}),
    ),
    (
        "SSE3 to SSE4.2, which most builds of today expect",
        frozenset({"pni", "ssse3", "sse4.1", "sse4.2", "sse4a", "misalignsse"}),
    ),
    (
        "bit counting and manipulation",
        frozenset({"popcnt", "abm", "bmi1", "bmi2", "movbe", "adx", "lahf-lm", "tbm"}),
    ),
    ("the 16-byte compare-and-exchange, which Windows 8.1 and later need", frozenset({"cx16"})),
    (
        "random numbers from the CPU (RDRAND, RDSEED): slow start of what waits for entropy",
        frozenset({"rdrand", "rdseed"}),
    ),
    ("hardware transactional memory (TSX)", frozenset({"hle", "rtm", "tsx-ldtrk"})),
    ("pages of 1 GiB", frozenset({"pdpe1gb"})),
    ("address spaces tagged by number: a cheaper Meltdown mitigation", frozenset({"pcid", "invpcid"})),
    (
        "the guest's own guard against the CPU's flaws (Spectre v2 and v4, MDS and others)",
        frozenset(
            {"spec-ctrl", "ibpb", "ibrs", "stibp", "ssbd", "amd-ssbd", "amd-stibp", "virt-ssbd", "md-clear"}
        ),
    ),
    (
        "the word that the CPU lacks some flaws: the guest mitigates them for nothing, and is slower",
        frozenset(
            {"arch-capabilities", "rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no"}
            | {"pschange-mc-no", "taa-no", "tsx-ctrl", "amd-no-ssb", "sbdr-ssdp-no", "fbsdp-no", "psdp-no"}
        ),
    ),
    (
        "the kernel's guard against running and reading a process's memory by mistake, and keys for memory",
        frozenset({"smep", "smap", "umip", "pku", "pks", "nx"}),
    ),
    ("an interrupt controller without exits (x2APIC), more than 255 vCPUs", frozenset({"x2apic"})),
    ("a timer without exits for each tick", frozenset({"tsc-deadline", "arat", "tsc-adjust"})),
    (
        "what KVM tells its guests: a clock that is cheap to read, time stolen by others, spinlocks that give way",
        frozenset(
            {
                "kvmclock",
                "kvmclock-stable-bit",
                "kvm-steal-time",
                "kvm-pv-eoi",
                "kvm-asyncpf",
                "kvm-asyncpf-int",
            }
            | {"kvm-pv-unhalt", "kvm-pv-tlb-flush", "kvm-pv-ipi", "kvm-pv-sched-yield", "kvm-poll-control"}
            | {"kvm-nopiodelay", "kvm-msi-ext-dest-id", "kvm-mmu"}
        ),
    ),
    (
        "saving of vector registers that skips what is unused",
        frozenset({"xsave", "xsaveopt", "xsavec", "xsaves", "xgetbv1"}),
    ),
    (
        "copying memory and syncing persistent memory fast",
        frozenset({"erms", "fsrm", "clflushopt", "clwb", "clzero"}),
    ),
    ("fast access to thread-local storage and to a CPU's number", frozenset({"fsgsbase", "rdtscp", "rdpid"})),
    ("five-level page tables", frozenset({"la57"})),
)
"""(what a guest does without, the features behind it), what matters most first."""
_FAMILIES: tuple[tuple[str, str], ...] = (
    ("AVX-512: numerics, video, machine learning", "avx512"),
    ("matrix instructions (AMX): machine learning", "amx-"),
    ("guests of its own on Intel (nested virtualisation)", "vmx"),
    ("guests of its own on AMD (nested virtualisation)", "svm"),
    ("enclaves (SGX)", "sgx"),
)
_NEEDS = {
    2: "RHEL 9 and SLES 16 do not start below x86-64-v2",
    3: "RHEL 10 does not start below x86-64-v3",
}


def in_words(features: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """
    Say what a guest without some features does without.

    Args:
        features: The features by QEMU's names.

    Returns:
        (what, the features behind it); those without words of their own last, as ``others``.
    """
    left = set(features)
    found = []
    for words, some in _WORDS:
        if have := left & some:
            found.append((words, sorted_names(have)))
            left -= have
    for words, start in _FAMILIES:
        if have := {name for name in left if name.startswith(start)}:
            found.append((words, sorted_names(have)))
            left -= have
    if left:
        found.append(("others", sorted_names(left)))
    return tuple(found)


def level_in_words(before: int, after: int) -> tuple[str, ...]:
    """
    Say what falling from one psABI level to another means.

    Args:
        before: The level that a guest could have.
        after: The level that it has.

    Returns:
        Sentences; none where it does not fall.
    """
    if after >= before:
        return ()
    fall = f"programs built for {level_name(before)} do not run: the guest has {level_name(after)}"
    return (fall, *(_NEEDS[level] for level in range(after + 1, before + 1) if level in _NEEDS))
