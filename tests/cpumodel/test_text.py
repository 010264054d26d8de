"""``-cpu`` as people write it, against the QEMU that reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpumodel.explain import explain_cpu
from kvmaff.cpumodel.table import CpuModels
from kvmaff.cpumodel.text import parse_cpu
from kvmaff.errors import WrongUsage

from ..conftest import at_most, needs_qemu
from ..qmp import ask_qemu
from .conftest import models_of

FREE = ("aes", "avx2", "sse4.2", "rdrand", "smep", "nx", "popcnt", "movbe")
WORDS = hs.sampled_from(FREE).flatmap(
    lambda name: hs.sampled_from(
        [
            f"+{name}",
            f"-{name}",
            name,
            f"{name}=on",
            f"{name}=off",
            f"{name.replace('.', '_')}=no",
            f"{name}=yes",
        ]
    )
)


def test_reading() -> None:
    """Signs hold against equal signs wherever they stand, and minus against plus."""
    found = parse_cpu(
        "EPYC-v1,-aes,+aes,avx2=off,+avx2,sse4_2,family=0x17,model-id=42,stepping=1_0,vendor=GenuineIntel,,enforce"
    )
    assert "EPYC-v1" == found.model
    assert {
        "aes": False,
        "avx2": True,
        "sse4-2": True,
        "family": 0x17,
        "model-id": "42",
        "stepping": "1_0",
        "vendor": "GenuineIntel",
        "enforce": True,
    } == found.props


@pytest.mark.parametrize(
    "text", ["", ",+aes", "+aes", "a=b", "EPYC,+", "EPYC,+aes=on", "EPYC,=x", "EPYC\x1b[31m"]
)
def test_mistakes(text: str) -> None:
    """What is no -cpu is refused, in words fit for a terminal."""
    with pytest.raises(WrongUsage) as caught:
        parse_cpu(text)
    assert "\x1b" not in str(caught.value)


@needs_qemu
@given(words=hs.lists(WORDS, max_size=6))
@at_most(40)
def test_as_qemu_reads_it(words: list[str]) -> None:
    """A guest that QEMU starts with the text has just the features that are said of it."""
    text = ",".join(["Haswell-v1", *words])
    path = "/machine/unattached/device[0]"
    asked = [("qom-get", {"path": path, "property": name}) for name in FREE]
    done = ask_qemu(["-accel", "tcg", "-M", "pc", "-cpu", text], *asked)
    assert 0 == done.code
    features = explain_cpu(text, models_of("tcg")).features
    assert dict(zip(FREE, done.returns, strict=True)) == {name: name in features for name in FREE}


@needs_qemu
def test_explained(models: CpuModels) -> None:
    """An alias, its version, the others, what is missing here; and what a host is."""
    found = explain_cpu("EPYC", models)
    assert ("EPYC", "EPYC-v1") == (found.named.name, found.model.name)
    assert found.versions
    assert all(one.model.name.startswith("EPYC-v") for one in found.versions)
    second = next(one for one in found.versions if one.model.name == "EPYC-v2")
    assert ({"ibpb"}, set()) == (second.more, second.less)
    assert found.verdict.missing == found.named.unavailable
    assert explain_cpu("max", models).verdict.runs
    assert (models.accel == "kvm") is explain_cpu("host", models).verdict.runs
    lacking = min(models.host.lacks)
    assert {lacking} == explain_cpu(f"max,+{lacking}", models).verdict.missing


@needs_qemu
def test_explained_mistakes(tcg: CpuModels) -> None:
    """Models and properties that there are not; a near one is suggested."""
    with pytest.raises(WrongUsage, match="did you mean EPYC"):
        explain_cpu("epic", tcg)
    with pytest.raises(WrongUsage, match="refuses this -cpu.*nonsense"):
        explain_cpu("EPYC,+nonsense", tcg)
