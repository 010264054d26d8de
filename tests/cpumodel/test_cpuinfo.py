"""/proc/cpuinfo: yes or nothing, of what all processors show; whatever else stands in it is told as an error."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as hs

from kvmaff.cpumodel.cpuidbits import LINUX_TO_QEMU
from kvmaff.cpumodel.cpuinfo import CpuinfoCpu, read_cpuinfo
from kvmaff.errors import HostReadError
from kvmaff.host.tree import open_tree

from ..conftest import HOSTS, needs_qemu
from ..qmp import ask_qemu

EMULATED = {"arat", "hypervisor", "tsc-adjust", "tsc-deadline", "x2apic"}
FLAGS = sorted({*LINUX_TO_QEMU, "ept", "ibt", "ospke", "ibrs", "ibpb", "constant_tsc", "nopl"})
INTEL = "fpu vme msr sep lm nx sse2 vmx ept constant_tsc ibrs ibpb ssbd"
BLOCK = """processor\t: {number}
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
stepping\t: {stepping}
microcode\t: 0x2006e05
cpu MHz\t\t: {mhz}
flags\t\t: {flags}
vmx flags\t: vnmi preemption_timer invvpid ept_x_only tsc_offset mtf vapic ept vpid
bugs\t\t: cpu_meltdown spectre_v1 monitor

"""


def processor(flags: str = INTEL, number: int = 0, **values: object) -> str:
    """A processor as the kernel tells it."""
    usual: dict[str, object] = {
        "vendor": "GenuineIntel",
        "family": 6,
        "model": 85,
        "stepping": 4,
        "name": "Some CPU @ 2.00GHz",
        "mhz": f"2000.{number:03}",
    }
    return BLOCK.format(**(usual | values), number=number, flags=flags)


def features(flags: str, **values: object) -> frozenset[str]:
    """What a host with one processor is said to give, the emulated ones left out."""
    return read_cpuinfo(processor(flags, **values)).features - EMULATED


def refused(text: str | bytes) -> str:
    """Why it is not read."""
    with pytest.raises(HostReadError) as error:
        read_cpuinfo(text, "some/cpuinfo")
    assert "some/cpuinfo" == error.value.path
    assert str(error.value).startswith("some/cpuinfo: ")
    assert str(error.value).isprintable()
    return str(error.value)


subtle = hs.sampled_from(["hypervisor", "ept", "ibt", "ospke", "pku", "rdtscp", "rtm", "amx_tile"])
flag_lines = hs.lists(hs.sampled_from(FLAGS) | subtle, max_size=60, unique=True).map(
    lambda some: ["vmx", *some]
)
hosts = hs.lists(
    hs.tuples(flag_lines, hs.sampled_from([58, 60, 63, 85]), hs.integers(0, 5)), min_size=1, max_size=5
)


def written(host: list[tuple[list[str], int, int]]) -> list[str]:
    """The processors of a host, as text."""
    return [
        processor(" ".join(flags), number, model=model, stepping=stepping)
        for number, (flags, model, stepping) in enumerate(host)
    ]


@given(hosts, hs.randoms(use_true_random=False))
def test_order_means_nothing(host: list[tuple[list[str], int, int]], chance: random.Random) -> None:
    """Neither that of flags nor that of processors."""
    blocks = written(host)
    mixed = written([(chance.sample(flags, len(flags)), model, stepping) for flags, model, stepping in host])
    chance.shuffle(mixed)
    assert read_cpuinfo("".join(blocks)) == read_cpuinfo("".join(mixed))


@given(hosts)
def test_a_processor_more_is_no_feature_more(host: list[tuple[list[str], int, int]]) -> None:
    """Nor is a flag shown that only some have."""
    blocks = written(host)
    found = [read_cpuinfo("".join(blocks[:count])) for count in range(1, len(blocks) + 1)]
    for fewer, more in itertools.pairwise(found):
        assert fewer.features >= more.features
        assert fewer.shown >= more.shown


@given(hosts)
def test_what_all_show_and_nothing_else(host: list[tuple[list[str], int, int]]) -> None:
    """A feature that no flag of every processor stands for is none, but for those that KVM makes itself."""
    found = read_cpuinfo("".join(written(host)))
    shown = set.intersection(*(set(flags) for flags, _, _ in host))
    assert shown == found.shown
    assert (
        EMULATED
        <= found.features
        <= {LINUX_TO_QEMU[flag] for flag in shown if flag in LINUX_TO_QEMU} | EMULATED
    )
    assert min((model, stepping) for _, model, stepping in host) == (found.model, found.stepping)


lines = hs.sampled_from(
    [
        *processor().encode().splitlines(),
        b"",
        b"processor : 1",
        b"flags :",
        b"model : 300",
        b"isa : rv64",
        b"fdiv_bug : no",
    ]
)


@given(hs.binary(max_size=200) | hs.lists(lines | hs.binary(max_size=12), max_size=30).map(b"\n".join))
def test_nothing_but_a_host_read_error(data: bytes) -> None:
    """Whatever the bytes are; what is read is whole."""
    try:
        found = read_cpuinfo(data)
    except HostReadError as error:
        assert str(error).isprintable()
        return
    assert 0 <= found.family <= 270
    assert 0 <= found.model <= 255
    assert 0 <= found.stepping <= 15
    assert (found.vendor + found.name).isprintable()


@example("flags: \ud800")
@given(hs.text(max_size=100))
def test_any_text(text: str) -> None:
    """A string is read as its bytes are; lone surrogates too."""
    with contextlib.suppress(HostReadError):
        read_cpuinfo(text)
    assert read_cpuinfo(processor()) == read_cpuinfo(processor().encode())


def test_an_example() -> None:
    """What KVM passes on is told by QEMU's names; what the kernel makes up, and vmx itself, is not."""
    assert read_cpuinfo(processor(INTEL + " sse4_1 dts ht")) == CpuinfoCpu(
        vendor="GenuineIntel",
        family=6,
        model=85,
        stepping=4,
        name="Some CPU @ 2.00GHz",
        features=frozenset({"fpu", "vme", "msr", "sep", "lm", "nx", "sse2", "sse4.1"} | EMULATED),
        shown=frozenset([*INTEL.split(), "sse4_1", "dts", "ht"]),
    )


def test_no_virtualization_no_features() -> None:
    """Without VMX and SVM, KVM does not run, or is one that gives less than is known here."""
    assert frozenset() == read_cpuinfo(processor("fpu lm sse2 x2apic hypervisor")).features
    mixed = processor("svm fpu", 0) + processor("fpu", 1)
    assert frozenset() == read_cpuinfo(mixed).features


@pytest.mark.parametrize(
    "flags",
    [
        "ht monitor est tm tm2 dts ds_cpl dtes64 acpi pbe pdcm xtpr dca smx vmx cid ia64 pn",
        "svm npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter pfthreshold",
        "vmx avic v_vmsave_vmload vgif vnmi perfctr_core perfctr_nb perfmon_v2 ibs skinit wdt lwp tce nodeid_msr",
        "vmx intel_pt sgx sgx_lc topoext mpx waitpkg lam fred arch_lbr flush_l1d rng ace phe pmm nonstop_tsc",
    ],
)
def test_what_is_not_sure(flags: str) -> None:
    """CPUs have it and show it, and a guest may get none of it."""
    assert frozenset() == features("vmx " + flags)


@pytest.mark.parametrize(
    ("flags", "values", "sure"),
    [
        ("vmx ept pku", {}, set()),
        ("vmx pku ospke", {}, set()),
        ("vmx ept pku ospke", {}, {"pku"}),
        ("svm npt pku ospke", {"vendor": "AuthenticAMD"}, {"pku"}),
        ("vmx ept pku ospke rdtscp rdpid hypervisor fpu", {}, {"fpu"}),
        ("vmx rdtscp rdpid invpcid xsaves", {}, {"rdtscp", "rdpid", "invpcid", "xsaves"}),
        ("vmx bus_lock_detect arch_capabilities", {}, {"bus-lock-detect", "arch-capabilities"}),
        ("svm bus_lock_detect arch_capabilities", {"vendor": "AuthenticAMD"}, set()),
        ("vmx amx_tile amx_int8 amx_bf16", {}, set()),
        ("vmx amx_tile ibt", {}, {"amx-tile"}),
        ("vmx hle rtm", {}, {"hle", "rtm"}),
        ("vmx hle rtm avx2", {"model": 60}, {"avx2"}),
        ("vmx hle rtm", {"model": 63, "stepping": 2}, set()),
        ("vmx hle rtm", {"model": 63, "stepping": 4}, {"hle", "rtm"}),
        ("svm umip", {"vendor": "AuthenticAMD"}, {"umip"}),
        ("vmx FPU \x1b[31mfpu", {}, set()),
    ],
)
def test_what_hangs_on_more_than_a_flag(flags: str, values: dict[str, object], sure: set[str]) -> None:
    """Other flags, the vendor, or a CPU that is known to be broken."""
    assert sure == features(flags, **values)


def test_a_32_bit_kernel() -> None:
    """Its KVM gives no long mode, which the CPU has."""
    assert {"nx"} == read_cpuinfo(processor("vmx lm nx pdpe1gb") + "fdiv_bug : no\n").features - EMULATED


def test_a_name_with_an_escape_sequence() -> None:
    """And one that is no UTF-8, or missing: nothing is shown that a terminal would obey."""
    assert (
        "?[31mCPU?" == read_cpuinfo(processor(name="\x1b[31mCPU").encode().replace(b"CPU", b"CPU\xff")).name
    )
    assert not read_cpuinfo(processor().replace("model name", "modelname")).name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no processor in it"),
        ("\n\n", "there is no processor in it"),
        (
            "processor: 0\nBogoMIPS: 50\nFeatures: fp asimd\nCPU implementer: 0x41\n",
            "of no x86 machine but of Arm",
        ),
        ("processor: 0\ncpu: POWER9\nrevision: 2.2\n\ntimebase: 512000000\nmodel: 9006\n", "but of POWER"),
        ("vendor_id: IBM/S390\nbogomips per cpu: 3033.00\nprocessor 0: version = 00\n", "but of IBM Z"),
        ("processor: 0\nhart: 1\nisa: rv64imafdc\n", "but of RISC-V"),
        (processor() + processor(), "there are two processors 0"),
        (processor(number=8192), "processor '8192': its number is none from 0 to 8191"),
        ("flags: fpu\n" + processor(), "'flags' stands before the first 'processor'"),
        (processor() + "flags: lm\n", "processor 0 has several lines 'flags'"),
        (processor().replace("vendor_id", "vendor"), "processor 0 has no line 'vendor_id'"),
        (processor(vendor=""), "processor 0: its vendor has no name"),
        (processor(family=271), "cpu family is a number from 0 to 270, not '271'"),
        (processor(stepping="unknown"), "stepping is a number from 0 to 15, not 'unknown'"),
        (processor(model="\x1b[2J"), "model is a number from 0 to 255, not '?[2J'"),
        (processor("a" * 20000), "its flags have more than 16384 bytes"),
        (processor() + processor(number=1, vendor="AuthenticAMD"), "vendors: 'AuthenticAMD', 'GenuineIntel'"),
        (b"\0" * (1 << 24) + b"\0", "it has 16777217 bytes, more than 16777216"),
    ],
)
def test_what_is_none_of_an_x86_machine(text: str | bytes, reason: str) -> None:
    """What is wrong, and where."""
    assert reason in refused(text)


def test_all_problems_at_once() -> None:
    """But not thousands of them."""
    said = refused(processor(family="x", model="y", stepping=99, vendor=""))
    assert 3 == said.count("; ")
    said = refused("".join(processor(family="x", model=f"y{number}", number=number) for number in range(500)))
    assert said.endswith(" more")
    assert len(said) < 1000


def test_thousands_of_processors() -> None:
    """2,048 of them, 3 MB, are read at once; so is as much junk."""
    flags = " ".join(FLAGS)
    host = "".join(processor(flags, number) for number in range(2048)).encode()
    assert len(host) > 3_000_000
    junk = [
        b"\n" * (4 << 20),
        b":\n" * (2 << 20),
        b"processor: 0\n" * 300_000,
        random.Random(1).randbytes(4 << 20),
    ]
    began = time.process_time()
    assert read_cpuinfo(host).shown == read_cpuinfo(processor(flags)).shown
    assert time.process_time() - began < 0.3
    began = time.process_time()
    for data in junk:
        refused(data)
    assert time.process_time() - began < 4


@pytest.mark.skipif(not HOSTS.is_dir(), reason="no recorded machines")
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lscpu-x86_64-64cpu-linux6.2", ("GenuineIntel", 6, 140, 1)),
        ("lscpu-vmware_fpe", ("AuthenticAMD", 21, 2, 0)),
        ("16amd64-8n2c-cpusets", ("AuthenticAMD", 15, 33, 0)),
        ("lscpu-ppc64-POWER7-64cpu", "POWER"),
        ("lscpu-rv64-milkvpioneer", "RISC-V"),
        ("lscpu-s390-lpar-drawer", "IBM Z"),
    ],
)
def test_recorded_machines(name: str, found: tuple[str, int, int, int] | str) -> None:
    """Real ones, also of other architectures; what KVM gives is a few less than what is shown."""
    with open_tree(str(HOSTS / f"{name}.tar.xz")) as tree:
        data = tree.read("proc/cpuinfo", 1 << 24)
    assert data is not None
    if isinstance(found, str):
        assert f"but of {found}" in refused(data)
        return
    cpu = read_cpuinfo(data)
    assert found == (cpu.vendor, cpu.family, cpu.model, cpu.stepping)
    if cpu.shown & {"vmx", "svm"}:
        assert {"sse4.1", "lm", "nx", "x2apic"} <= cpu.features
        assert len(cpu.features) > 55
    else:
        assert not cpu.features


@needs_qemu
@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="there is no KVM")
def test_kvm_gives_here_what_is_said() -> None:
    """QEMU's own host model has every feature that it knows of; here that may be none at all."""
    host = ask_qemu(
        ["-accel", "kvm", "-M", "q35"],
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "host"}}),
    )
    if not host.returns or "model" not in host.returns[0]:
        pytest.skip("KVM starts no QEMU")
    given_here = host.returns[0]["model"]["props"]
    said = read_cpuinfo(Path("/proc/cpuinfo").read_bytes()).features
    assert set() == {name for name in said if given_here.get(name) is False}
