"""The baseline of a group: properties, QEMU's own expansion, a guest that runs with it, and libvirt's choice."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

import kvmaff.testing.inputs_cpus as st
from kvmaff.cpumodel.baseline import Baseline, baseline, baselines, kept_names
from kvmaff.cpumodel.explain import explain_cpu
from kvmaff.cpumodel.groups import group_hosts
from kvmaff.cpumodel.model import GIVEN_BY_KVM, HostCpu
from kvmaff.cpumodel.spelling import spelling_cost
from kvmaff.cpumodel.table import CpuModels
from kvmaff.errors import RequestError, WrongUsage

from ..conftest import QEMU, at_most, needs_qemu
from ..qmp import ask_qemu
from .conftest import BOTH, models_of, needs_kvm

pytestmark = needs_qemu


def closed(models: CpuModels, hosts: list[HostCpu]) -> list[HostCpu]:
    """The hosts with what can be named: what depends on something is not there without it, as on real hosts."""
    found = []
    for host, alone in zip(hosts, baselines([[host] for host in hosts], models), strict=True):
        features = alone.features - GIVEN_BY_KVM | host.staying
        found.append(attrs.evolve(host, features=features, lacks=models.names - features))
    return found


@pytest.mark.parametrize("accel", BOTH)
@given(data=hs.data())
@at_most(40)
def test_all_run_it(accel: str, data: hs.DataObject) -> None:
    """It is within every member; the text is what QEMU makes of it; the order of hosts does not matter."""
    models = models_of(accel)
    hosts = data.draw(st.host_cpus(models))
    shuffled = data.draw(hs.permutations(hosts))
    found, other = baselines([hosts, shuffled], models)
    assert (found.text, found.features) == (other.text, other.features)
    free = GIVEN_BY_KVM if accel == "kvm" else frozenset()
    for host in hosts:
        assert found.features <= host.movable | free
        assert explain_cpu(found.text, models, host=host).verdict.runs
    assert found.features == explain_cpu(found.text, models).features
    for loss in found.hosts:
        assert loss.host.movable & models.names == (loss.lost | found.features) & loss.host.movable
        assert not loss.lost & found.features
    assert {name for name, _, _ in found.blockers} == {name for loss in found.hosts for name in loss.lost}
    assert found.model.vendor == hosts[0].vendor
    assert not found.model.deprecated
    assert found.model.alias_of is None


@pytest.mark.parametrize("accel", BOTH)
@given(data=hs.data())
@at_most(30)
def test_a_host_more_adds_nothing(accel: str, data: hs.DataObject) -> None:
    """A group with one host more has no feature more; a group of one loses nothing that can be named."""
    models = models_of(accel)
    hosts = closed(models, data.draw(st.host_cpus(models, least=2)))
    less, more, alone = baselines([hosts[:-1], hosts, hosts[:1]], models)
    assert more.features - GIVEN_BY_KVM <= less.features
    assert [frozenset()] == [loss.lost for loss in alone.hosts]


def test_this_host_alone(models: CpuModels) -> None:
    """Of the host as it is, nothing is lost that a guest can take along."""
    found = baseline([models.host], models)
    assert [(frozenset(), frozenset())] == [(loss.lost, loss.unnamed) for loss in found.hosts]
    assert models.host.movable == found.features - (GIVEN_BY_KVM - models.host.features)
    assert models.host.phys_bits == found.phys_bits
    assert found.level == models.host.level


def test_a_model_is_its_own_baseline(models: CpuModels) -> None:
    """A host that can give just what a model has gets this model, or one with the same features."""
    some = [model for model in models.models if model.fixed and model.alias_of is None and model.level]
    found = baselines([[st.host_like(models, model)] for model in some], models)
    assert 50 < len(some)
    for model, one in zip(some, found, strict=True):
        assert model.features == one.features | (model.features & GIVEN_BY_KVM)
        assert f"{one.model.name},enforce" == one.text


def test_the_cheapest_words(models: CpuModels) -> None:
    """No other model of the vendor needs fewer words by the cost that is published."""
    hosts = [st.host_like(models, models.get(name)) for name in ("Icelake-Server-v1", "Snowridge-v1")]
    found = baseline(hosts, models)
    wanted = hosts[0].movable & hosts[1].movable
    costs = {
        model.name: spelling_cost(model, wanted)
        for model in models.models
        if model.vendor == "GenuineIntel" and model.alias_of is None and not model.deprecated
    }
    assert min(costs.values()) == costs[found.model.name]


def runs(text: str, accel: str, machine: str) -> list[str]:
    """What QEMU says against a guest with that CPU; nothing where it runs."""
    done = ask_qemu(["-accel", accel, "-M", machine, "-cpu", text], ("query-cpus-fast", {}))
    assert bool(done.returns) is (done.code == 0)
    return [*done.errors, *done.warnings] if done.code == 0 else [f"ends with {done.code}", *done.errors]


@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_a_guest_runs_under_tcg(tcg: CpuModels, machine: str) -> None:
    """QEMU starts a guest with the text, and has nothing to say against it."""
    assert [] == runs(baseline([tcg.host], tcg).text, "tcg", machine)
    assert [] != runs("Icelake-Server-v1,enforce", "tcg", machine)


@needs_kvm
@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_a_guest_runs_under_kvm(machine: str) -> None:
    """The same under KVM."""
    models = models_of("kvm")
    assert [] == runs(baseline([models.host], models).text, "kvm", machine)


def test_nested(models: CpuModels) -> None:
    """What guests of the guest need is kept, or left out with all that depends on it."""
    intel = st.host_like(models, models.get("Icelake-Server-v1"), more=models.with_vmx | {"vmx"})
    amd = st.host_like(models, models.get("EPYC-Rome-v1"), more=models.with_svm | {"svm"})
    for host, name in zip(closed(models, [intel, amd]), ("vmx", "svm"), strict=True):
        assert 14 < len(host.features & models.nested)
        kept = baseline([host], models)
        left = baseline([host], models, nested=False)
        assert {name} <= kept.features
        assert [frozenset()] == [loss.lost for loss in kept.hosts]
        assert not left.features & models.nested
        assert host.movable & models.nested == left.hosts[0].lost


def test_without(models: CpuModels) -> None:
    """What is to be left out goes with what depends on it; what is no feature is told, with what is near."""
    host = st.host_like(models, models.get("Cascadelake-Server-v2"))
    found = baseline([host], models, without=["arch-capabilities"])
    assert {"arch-capabilities", "rdctl-no"} <= found.hosts[0].lost
    assert "arch-capabilities" in {name for name, _, _ in found.blockers}
    with pytest.raises(WrongUsage, match="did you mean arch-capabilities"):
        baseline([host], models, without=["arch_capabilitys", "nonsense-of-mine"])


def test_groups_count_what_the_baseline_has(models: CpuModels) -> None:
    """Hosts that differ in what is left out alone, with what goes with it, are one group and lose nothing in it."""
    one = st.host_like(models, models.get("Cascadelake-Server-v2"), name="one")
    own = frozenset({"arch-capabilities", "rdctl-no", "ibrs-all", "skip-l1dfl-vmentry", "mds-no"})
    other = attrs.evolve(one, name="other", features=one.features - own, lacks=one.lacks | own)
    names = kept_names(models, without=["arch-capabilities"])
    assert own & models.names <= models.names - names
    assert [(one, other)] == list(group_hosts([one, other], names=names).groups)
    assert 2 == len(group_hosts([one, other], names=kept_names(models)).groups)
    first, second = baselines([[one], [one, other]], models, without=["arch-capabilities"])
    assert first.features == second.features
    assert not kept_names(models, nested=False) & models.nested


def test_notes(models: CpuModels) -> None:
    """A model of another vendor that was asked for is no surprise; an older QEMU is a note."""
    host = st.host_like(models, models.get("Skylake-Client-v1"))
    assert () == baseline([host], models, model="EPYC-v1").notes
    assert () == baseline([host], models, model="max").notes
    (note,) = baseline([attrs.evolve(host, qemu=(6, 0, 0))], models).notes
    assert "QEMU 6.0.0" in note
    (note,) = baseline([attrs.evolve(host, vendor="VIA VIA VIA")], models).notes
    assert "has no model of VIA VIA VIA" in note


def test_vendors(models: CpuModels) -> None:
    """Vendors are mixed only where that was said; then the guest's is written down."""
    hosts = [st.host_like(models, models.get(name)) for name in ("EPYC-v1", "Skylake-Client-v1")]
    with pytest.raises(RequestError, match=r"AuthenticAMD: EPYC-v1; GenuineIntel: Skylake-Client-v1"):
        baseline(hosts, models)
    found = baseline(hosts, models, cross_vendor=True)
    assert f"vendor={found.model.vendor}" in found.text.split(",")
    assert all(explain_cpu(found.text, models, host=host).verdict.runs for host in hosts)
    assert any("different vendors" in note for note in found.notes)


def test_host_and_max(models: CpuModels) -> None:
    """They are refused for hosts that differ in anything a guest sees, and allowed for hosts that do not."""
    one = st.host_like(models, models.get("EPYC-Rome-v1"), name="one")
    other = attrs.evolve(one, name="other", kernel="6.99")
    found = baseline([one, other], models, model="host")
    assert "host,migratable=on,enforce" == found.text
    for changed in (
        attrs.evolve(one, stepping=one.stepping + 1),
        attrs.evolve(one, phys_bits=39),
        attrs.evolve(one, source="cpuinfo"),
        attrs.evolve(one, features=one.features - {"rdpid"}, lacks=one.lacks | {"rdpid"}),
    ):
        with pytest.raises(RequestError, match="are not the same"):
            baseline([one, changed], models, model="max")


@needs_kvm
def test_short_addresses() -> None:
    """Where a host's addresses are shorter than a named model's, so are the guest's; longer ones change nothing."""
    models = models_of("kvm")
    host = models.host
    texts = [baseline([host, attrs.evolve(host, phys_bits=bits)], models).text for bits in (39, 52, None)]
    assert "host-phys-bits=on,host-phys-bits-limit=39" in texts[0]
    assert texts[1] == texts[2]
    assert "phys-bits" not in texts[1]
    assert explain_cpu(texts[0], models).verdict.runs
    assert [] == runs(texts[0], "kvm", "q35")


def test_a_model_that_was_said(models: CpuModels) -> None:
    """The name may be chosen; the features are the same."""
    hosts = [st.host_like(models, models.get("Icelake-Server-v1"))]
    free, said = baseline(hosts, models), baseline(hosts, models, model="Nehalem")
    assert said.text.startswith("Nehalem-v1,+")
    assert free.features == said.features
    with pytest.raises(WrongUsage, match="did you mean Nehalem"):
        baseline(hosts, models, model="Nehalm")


def test_kinds_of_hosts(models: CpuModels) -> None:
    """Hosts of which nothing can be said together are refused, with all reasons."""
    one = st.host_like(models, models.get("EPYC-v1"), name="one")
    other = attrs.evolve(one, name="other", arch="i386", accel="kvm" if one.accel == "tcg" else "tcg")
    with pytest.raises(RequestError) as caught:
        baseline([one, other], models)
    assert 2 == len(caught.value.problems)
    with pytest.raises(RequestError, match="none is given"):
        baseline([], models)


def test_nothing_in_common(models: CpuModels) -> None:
    """What no 64-bit system starts on is no answer; the host to look at is named."""
    one = st.host_like(models, models.get("EPYC-v1"), name="one")
    dark = attrs.evolve(
        one, name="dark", source="cpuinfo", features=frozenset(), lacks=frozenset(), qemu=None
    )
    with pytest.raises(RequestError, match="look at dark"):
        baseline([one, dark], models)


@needs_kvm
def test_models_of_tcg_for_hosts_with_kvm(tcg: CpuModels) -> None:
    """Where there is no KVM, hosts that have it get a text that runs there; what TCG cannot tell is a note."""
    kvm = models_of("kvm")
    own = frozenset(name for name in kvm.names if name.startswith("kvm"))
    hosts = [
        st.host_like(kvm, kvm.get(name), more=more)
        for name, more in (("EPYC-Rome-v1", own), ("EPYC-Milan-v1", kvm.with_svm | {"svm"}))
    ]
    hosts[1] = attrs.evolve(hosts[1], features=hosts[1].features - {"x2apic", "kvm-pv-eoi"})
    found = baseline(hosts, tcg)
    assert {"-x2apic", "-kvm-pv-eoi"} <= set(found.text.split(","))
    assert any("read under TCG" in note for note in found.notes)
    seen = explain_cpu(found.text, kvm)
    assert found.features == seen.features
    assert all(seen.features <= host.movable | GIVEN_BY_KVM for host in hosts)


@pytest.mark.skipif(shutil.which("virsh") is None, reason="virsh is not installed")
def test_libvirt_chooses_the_same_family(tcg: CpuModels, tmp_path: Path) -> None:
    """
    Of pairs of models that libvirt knows too, its choice is of our family in 85 % or more.

    The others differ since its tables do: its Haswell has no f16c and rdrand, its IvyBridge is then dearer than
    SandyBridge; its core2duo and Conroe have the same features.
    """
    done = subprocess.run(
        ["virsh", "-c", "test:///default", "cpu-models", "x86_64"], capture_output=True, text=True, check=True
    )
    known = set(done.stdout.split())
    vendors = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    some = [
        one
        for one in tcg.models
        if one.name in known and one.alias_of and one.level > 1 and one.vendor in vendors
    ]
    pairs = [pair for pair in combinations(some, 2) if pair[0].vendor == pair[1].vendor][::4]
    ours = baselines([[st.host_like(tcg, model) for model in pair] for pair in pairs], tcg)
    theirs = [
        libvirt_choice([(one.name, vendors[str(one.vendor)]) for one in pair], tmp_path) for pair in pairs
    ]
    differing = [
        (pair[0].name, pair[1].name, one.text, other)
        for pair, one, other in zip(pairs, ours, theirs, strict=True)
        if family(one.model.name) != family(other)
    ]
    assert 80 < len(pairs)
    assert len(differing) < 0.15 * len(pairs), differing


def family(name: str) -> str:
    """A model's name without what tells its versions apart."""
    return re.sub(r"(-v\d+|-IBRS|-IBPB|-noTSX)+$", "", name)


def libvirt_choice(hosts: list[tuple[str, str]], folder: Path) -> str:
    """The model of libvirt's baseline of hosts, by its own tables."""
    path = folder / "hosts.xml"
    path.write_text(
        "\n".join(
            f"<cpu><arch>x86_64</arch><model>{model}</model><vendor>{vendor}</vendor></cpu>"
            for model, vendor in hosts
        )
    )
    done = subprocess.run(
        ["virsh", "-c", "test:///default", "cpu-baseline", path], capture_output=True, text=True, check=True
    )
    found = re.search(r"<model[^>]*>([^<]*)<", done.stdout)
    assert found is not None
    return found[1]


def test_what_the_default_loses(tcg: CpuModels) -> None:
    """Of the default model a guest has less than the baseline, and never more than that."""
    found: Baseline = baseline([tcg.host], tcg)
    lost = found.lost_by(tcg.get("qemu64"))
    assert {"avx2", "aes"} <= lost
    assert lost <= found.features
    assert QEMU in tcg.binary
