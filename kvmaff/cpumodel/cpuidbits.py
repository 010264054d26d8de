"""
CPU features by bit of CPUID: what Linux calls one in the ``flags`` of /proc/cpuinfo, and what QEMU calls it.

The two are joined by leaf, subleaf, register and bit, never by spelling. ``dts`` is QEMU's ``ds``, and Linux's
``ibrs``, ``ibpb``, ``stibp`` and ``ssbd`` are no bits at all: the kernel makes each up from several, by the vendor,
while QEMU gives those names to one bit each. So they are not here, and neither is anything else that the kernel makes
up (``constant_tsc``, ``pti``, ``ept``, ``split_lock_detect``), that it does not show (``spec-ctrl``, ``amd-ssbd``,
``fsrc``), that QEMU reads from an MSR (``rdctl-no``, ``vmx-*``), or that only one of the two has a name for.

One name means two things: up to Linux 5.6 ``vnmi`` is made up, for what Intel's VMX does about NMIs; since 6.3 it is
AMD's bit below.

Names and bits are those of Linux (arch/x86/include/asm/cpufeatures.h, kernel/cpu/scattered.c) up to 6.13 and of QEMU
(target/i386/cpu.c) up to 10.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

__all__ = ["LINUX_TO_QEMU", "QEMU_BITS", "CpuidBit"]


@attrs.frozen(kw_only=True, order=True)
class CpuidBit:
    """
    One bit of what CPUID answers.

    Attributes:
        leaf: What EAX asks for.
        subleaf: What ECX asks for; 0 where the leaf has none.
        register: Where the answer is: ``eax``, ``ebx``, ``ecx`` or ``edx``.
        bit: Its number there, 0 to 31.
    """

    leaf: int
    subleaf: int
    register: str
    bit: int


# A row is a register: names one bit after the other, a number before the name that does not follow at the next bit.
# QEMU writes - for Linux's _; where the names differ in more than that, QEMU's stands behind a =.
_ROWS = {
    (0x1, 0, "edx"): """
        0 fpu vme de pse tsc msr pae mce cx8 apic 11 sep mtrr pge mca cmov pat pse36 pn clflush
        21 dts=ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe""",
    (0x1, 0, "ecx"): """
        0 pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid 12 fma cx16 xtpr pdcm 17 pcid dca
        sse4_1=sse4.1 sse4_2=sse4.2 x2apic movbe popcnt tsc_deadline_timer=tsc-deadline aes xsave
        28 avx f16c rdrand hypervisor""",
    (0x6, 0, "eax"): "2 arat",
    (0x7, 0, "ebx"): """
        0 fsgsbase tsc_adjust sgx bmi1 hle avx2 7 smep bmi2 erms invpcid rtm 14 mpx
        16 avx512f avx512dq rdseed adx smap avx512ifma 23 clflushopt clwb intel_pt avx512pf avx512er avx512cd
        sha_ni avx512bw avx512vl""",
    (0x7, 0, "ecx"): """
        1 avx512vbmi umip pku 5 waitpkg avx512_vbmi2=avx512vbmi2 8 gfni vaes vpclmulqdq avx512_vnni=avx512vnni
        avx512_bitalg=avx512bitalg 14 avx512_vpopcntdq 16 la57 22 rdpid 24 bus_lock_detect cldemote
        27 movdiri movdir64b 30 sgx_lc=sgxlc""",
    (0x7, 0, "edx"): """
        2 avx512_4vnniw avx512_4fmaps fsrm 8 avx512_vp2intersect 10 md_clear 14 serialize 16 tsxldtrk=tsx-ldtrk
        19 arch_lbr 22 amx_bf16 avx512_fp16 amx_tile amx_int8 28 flush_l1d arch_capabilities""",
    (0x7, 1, "eax"): "4 avx_vnni avx512_bf16 17 fred 26 lam",
    (0xD, 1, "eax"): "0 xsaveopt xsavec xgetbv1 xsaves",
    (0x80000001, 0, "edx"): """
        11 syscall 20 nx 22 mmxext 25 fxsr_opt pdpe1gb rdtscp 29 lm 3dnowext 3dnow""",
    (0x80000001, 0, "ecx"): """
        0 lahf_lm cmp_legacy svm extapic cr8_legacy=cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop
        skinit wdt 15 lwp fma4 tce 19 nodeid_msr 21 tbm topoext perfctr_core perfctr_nb""",
    (0x80000007, 0, "ebx"): "0 overflow_recov succor",
    (0x80000008, 0, "ebx"): "0 clzero 2 xsaveerptr 9 wbnoinvd 25 virt_ssbd",
    (0x8000000A, 0, "edx"): """
        0 npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists 10 pausefilter=pause-filter
        12 pfthreshold avic 15 v_vmsave_vmload vgif 25 vnmi""",
    (0x80000022, 0, "eax"): "0 perfmon_v2",
    (0xC0000001, 0, "edx"): """
        2 rng=xstore rng_en=xstore-en 6 ace=xcrypt ace_en=xcrypt-en ace2 ace2_en phe phe_en pmm pmm_en""",
}


def _features() -> Iterator[tuple[str, str, CpuidBit]]:
    """Each feature: Linux's name, QEMU's, and the bit."""
    for (leaf, subleaf, register), row in _ROWS.items():
        bit = 0
        for word in row.split():
            if word.isdigit():  # no name is: 3dnow goes on
                bit = int(word)
                continue
            linux, _, qemu = word.partition("=")
            yield (
                linux,
                qemu or linux.replace("_", "-"),
                CpuidBit(leaf=leaf, subleaf=subleaf, register=register, bit=bit),
            )
            bit += 1


LINUX_TO_QEMU: Mapping[str, str] = MappingProxyType({linux: qemu for linux, qemu, _ in _features()})
"""QEMU's canonical name by that in ``flags``, of every feature that has both."""
QEMU_BITS: Mapping[str, CpuidBit] = MappingProxyType({qemu: bit for _, qemu, bit in _features()})
"""The bit by QEMU's name, of the same features."""
