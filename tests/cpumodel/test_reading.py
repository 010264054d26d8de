"""What is computed of models and hosts, against what QEMU itself says of the host it runs on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvmaff.cpumodel.reading import ask_models
from kvmaff.cpumodel.table import CpuModels
from kvmaff.errors import QemuError, WrongUsage

from ..conftest import needs_qemu
from ..qmp import ask_qemu, qemu_version
from .conftest import BOTH, models_of, needs_kvm

pytestmark = needs_qemu


def differing(table: CpuModels, here: CpuModels) -> dict[str, tuple[frozenset[str], frozenset[str] | None]]:
    """Models of which we say otherwise than QEMU on the host: what we miss there, and what it does."""
    said = {model.name: model.unavailable for model in here.models}
    ours = {model.name: table.judge(model, here.host) for model in table.models}
    assert said.keys() == ours.keys()
    assert not any(verdict.unknown for verdict in ours.values())
    return {name: (ours[name].missing, said[name]) for name in ours if ours[name].missing != said[name]}


@pytest.mark.parametrize("accel", BOTH)
def test_runnable_as_qemu_says(accel: str) -> None:
    """Of every model, run or not, we miss exactly the features that QEMU misses: no difference to give a reason for."""
    here = models_of(accel)
    assert {} == differing(here, here)
    able = sum(not model.unavailable for model in here.models)
    assert 100 < len(here.models)
    assert 0 < able < len(here.models)


@needs_kvm
def test_runnable_from_tables_of_tcg() -> None:
    """The same of this host under KVM, with the models as a machine without KVM reads them."""
    found = differing(models_of("tcg"), models_of("kvm"))
    # what TCG's tables do not tell is whether a model has these; nobody who runs it lacks them
    reasons = {"vme", "x2apic", "kvmclock"}
    assert {} == {name: pair for name, pair in found.items() if not (pair[0] ^ (pair[1] or set())) <= reasons}


@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_machine_types_decide_what_a_name_means(machine: str) -> None:
    """Aliases are those that QEMU resolves for the machine type; a microvm takes the latest version."""
    found = ask_models(accel="tcg", machine=machine)
    (said,) = ask_qemu(["-M", machine, "-accel", "tcg"], ("query-cpu-definitions", {})).returns
    assert {one["name"]: one.get("alias-of") for one in said} == {
        model.name: model.alias_of for model in found.models
    }
    assert {} == differing(found, found)
    versions = {found.resolved(found.get("EPYC")).name for found in (found, models_of("tcg"))}
    assert (2 if machine == "microvm" else 1) == len(versions)


def test_what_is_read(tcg: CpuModels) -> None:
    """Whose models they are, the default, and what else comes from the binary."""
    assert qemu_version() == tcg.version[:2]
    assert "qemu64" == tcg.default
    assert ["qemu64", "kvm64"] == [model.name for model in tcg.defaults]
    assert {"GenuineIntel", "AuthenticAMD"} <= {model.vendor for model in tcg.models}
    assert {"host", "max"} == {model.name for model in tcg.models if not model.fixed}
    assert {"npt", "nrip-save"} <= tcg.with_svm
    assert "vmx-ept" in tcg.with_vmx
    assert not {"check", "enforce", "migratable", "realized"} & tcg.names
    assert tcg.host.features | tcg.host.lacks == tcg.names


@needs_kvm
def test_vendors_are_the_models_own() -> None:
    """Under KVM every model shows the host's vendor, which is not what is told."""
    assert {model.name: model.vendor for model in models_of("tcg").models if model.fixed} == {
        model.name: model.vendor for model in models_of("kvm").models if model.fixed
    }


@needs_kvm
def test_invtsc_stays() -> None:
    """What has no migratable form is told apart, where the host has it; so is what KVM makes up for AMD's CPUs."""
    host = models_of("kvm").host
    assert not host.movable & host.staying
    for name, stays in (
        ("invtsc", True),
        ("arch-capabilities", host.vendor != "GenuineIntel"),
        ("lm", False),
    ):
        assert (name in host.staying) is (stays and name in host.features)
    if host.vendor != "GenuineIntel":
        assert not {"rdctl-no", "mds-no", "taa-no"} & host.movable


@needs_kvm
def test_addresses() -> None:
    """How long physical addresses are is the kernel's word, and known under KVM alone."""
    said = re.findall(r"address sizes\s*: (\d+) bits", Path("/proc/cpuinfo").read_text())
    assert min(map(int, said)) == models_of("kvm").host.phys_bits
    assert models_of("tcg").host.phys_bits is None


def test_no_such_accelerator() -> None:
    """What is no accelerator is not given to QEMU; what is no machine type is refused in its words."""
    with pytest.raises(WrongUsage, match="kvm or tcg"):
        ask_models(accel="hvf")
    with pytest.raises(QemuError, match="unsupported machine type"):
        ask_models(accel="tcg", machine="nothing")
