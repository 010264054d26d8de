"""Captures of hosts' CPUs: there and back, and whatever a file may hold instead."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpumodel.model import HostCpu
from kvmaff.cpumodel.stored import host_data, host_from
from kvmaff.errors import HostReadError, RequestError
from kvmaff.formats.hostcpu import host_cpu_text, load_host_cpu, load_host_cpus, save_host_cpu

from ..conftest import at_most

FEATURES = hs.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
TEXTS = hs.text(hs.characters(categories=["L", "N", "P", "Zs"]), max_size=20).filter(str.isprintable)


@hs.composite
def hosts(draw: hs.DrawFn) -> HostCpu:
    """Any host that a file can hold."""
    source = draw(hs.sampled_from(["qmp", "cpuinfo"]))
    features = draw(hs.frozensets(FEATURES, max_size=8))
    lacks = draw(hs.frozensets(FEATURES, max_size=8)) - features if source == "qmp" else frozenset[str]()
    numbers = hs.integers(0, 300)
    return HostCpu(
        name="this",
        arch=draw(hs.sampled_from(["x86_64", "i386"])),
        accel=draw(hs.sampled_from(["kvm", "tcg"])),
        source=source,
        qemu=draw(hs.tuples(numbers, numbers, numbers)) if source == "qmp" else None,
        kernel=draw(TEXTS),
        vendor=draw(
            hs.sampled_from(
                ["GenuineIntel", "AuthenticAMD", "  Shanghai  ", "Genuine  RDC", "VIA VIA VIA", ""]
            )
        ),
        family=draw(numbers),
        model=draw(numbers),
        stepping=draw(numbers),
        title=draw(TEXTS),
        features=features,
        staying=frozenset(draw(hs.lists(hs.sampled_from(sorted(features)), max_size=2)))
        if features
        else frozenset(),
        lacks=lacks,
        phys_bits=draw(hs.none() | hs.integers(32, 64)),
    )


HOST = HostCpu(
    name="alpha",
    arch="x86_64",
    accel="kvm",
    source="qmp",
    qemu=(7, 2, 22),
    kernel="6.1",
    vendor="GenuineIntel",
    family=6,
    model=85,
    stepping=4,
    title="Xeon",
    features=frozenset({"lm", "invtsc"}),
    staying=frozenset({"invtsc"}),
    lacks=frozenset({"avx2"}),
)


@given(host=hosts())
def test_there_and_back(host: HostCpu) -> None:
    """A host survives its file."""
    assert host == host_from(json.loads(host_cpu_text(host)), "this")


@given(
    data=hs.recursive(
        hs.none() | hs.booleans() | hs.integers() | hs.floats() | hs.text(), hs.lists, max_leaves=4
    ),
    field=hs.sampled_from(sorted(host_data(HOST))),
)
@at_most(200)
def test_any_value_anywhere(data: Any, field: str) -> None:
    """Whatever stands in a field, it is the host again or a sentence about that."""
    try:
        host = host_from({**host_data(HOST), field: data}, "alpha")
    except ValueError as error:
        assert error.args
        assert all(isinstance(one, str) and one.isprintable() for one in error.args)
    else:
        assert host_from(host_data(host), "alpha") == host


def test_file(tmp_path: Path) -> None:
    """Everybody may read it; the host is called by its name; one that is there is replaced, a link is not followed."""
    path = tmp_path / "alpha.json"
    save_host_cpu(HOST, path)
    assert 0o644 == path.stat().st_mode & 0o777
    assert HOST == load_host_cpu(path)
    save_host_cpu(HOST, path)
    assert ["alpha.json"] == os.listdir(tmp_path)
    link = tmp_path / "link.json"
    link.symlink_to("/dev/null")
    with pytest.raises(RequestError, match="no plain file"):
        save_host_cpu(HOST, link)
    with pytest.raises(RequestError, match="No such file"):
        save_host_cpu(HOST, tmp_path / "nowhere" / "x.json")


def test_names(tmp_path: Path) -> None:
    """Hosts are called by their files; by whole paths where two have one name; the same file twice is a mistake."""
    paths = [tmp_path / "a" / "host.json", tmp_path / "b" / "host.json", tmp_path / "b" / "other.json"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        save_host_cpu(HOST, path)
    assert [str(paths[0]), str(paths[1]), "other"] == [host.name for host in load_host_cpus(paths)]
    with pytest.raises(RequestError, match="given twice"):
        load_host_cpus([paths[0], paths[0]])


DAMAGE = {
    "": "is no JSON",
    "{": "is no JSON",
    "[]": "no capture of a host's CPU",
    '{"kvmaff": "host cpu"}': "format null",
    '{"kvmaff": "host cpu", "format": 99}': "format 99",
    '{"kvmaff": "host cpu", "format": 1}': "'vendor' is missing",
    "[" * 100_000: "nested too deeply",
    "\udcff": "not UTF-8",
    "1" * 5000: "too many digits",
    '{"kvmaff": 1, "kvmaff": "host cpu"}': "says twice what 'kvmaff' is",
    '{"kvmaff": "host cpu", "format": true}': "format true",
    "x" * (2 << 20): "larger than",
}


@pytest.mark.parametrize("text", DAMAGE, ids=lambda text: text[:20])
def test_damaged(text: str, tmp_path: Path) -> None:
    """A damaged file is told with its name, and nothing of it reaches a terminal as it is."""
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(HostReadError, match=DAMAGE[text]) as caught:
        load_host_cpu(path)
    assert str(path) in str(caught.value)
    assert str(path) == caught.value.path


def test_all_that_is_wrong(tmp_path: Path) -> None:
    """All mistakes of all files at once."""
    data = host_data(HOST)
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(
        json.dumps({**data, "family": -1, "features": ["\x1b[31m"], "vendor": "A,-nx", "x\x1b": 1})
    )
    other.write_text(json.dumps({**data, "lacks": ["lm"], "staying": ["aes"], "qemu": None}))
    with pytest.raises(HostReadError) as caught:
        load_host_cpus([one, other, tmp_path / "missing.json"])
    said = str(caught.value).splitlines()
    assert 8 == len(said)
    assert [4, 3, 1] == [
        sum(line.startswith(f"{tmp_path}/{name}.json:") for line in said)
        for name in ("one", "other", "missing")
    ]
    assert "\x1b" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    """Folders are no files."""
    with pytest.raises(HostReadError, match="cannot be read"):
        load_host_cpu(tmp_path)
    with pytest.raises(HostReadError):
        load_host_cpu("\0")
