"""``kvmaff emit`` and ``kvmaff spec`` as people and programs use them; a QEMU is started as it was written."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from kvmaff.formats.libvirtread import parse_libvirt
from kvmaff.formats.qemuread import parse_qemu_text
from kvmaff.formats.specs import parse_specs
from kvmaff.formats.spectoml import spec_toml
from kvmaff.guest.spec import GuestSpec
from kvmaff.testing.trees import grid, write_tree

from ..conftest import needs_qemu, start_qemu
from .test_cli import answer, run

DB = """
[[guest]]
name = "db"
vcpus = 4
max_vcpus = 8
threads = 2
memory = "64 MiB"
policy = "dedicated"
trust_domain = "red"
iothreads = ["disk0"]
[[guest.cell]]
vcpus = "0-3"
[[guest.cell]]
vcpus = "4-7"
"""


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A recorded machine of two nodes with 8 CPUs each, and a guest."""
    write_tree(tmp_path / "machine", grid(packages=2, cores=8, threads=2))
    (tmp_path / "db.toml").write_text(DB)
    return ["db", "--root", os.fspath(tmp_path / "machine"), "--spec", os.fspath(tmp_path / "db.toml")]


def test_qemu(asked: list[str]) -> None:
    """Words for a shell, the same for programs, and the way back."""
    done = run("emit", "qemu", *asked, "--machine", "pc-q35-7.2")
    assert 0 == done.returncode
    said = answer("emit", "qemu", *asked, "--machine", "pc-q35-7.2")
    assert said["arguments"] == shlex.split(done.stdout.replace("\\\n", " "))
    assert "pc-q35-7.2" in said["arguments"]
    assert "cpus=4,maxcpus=8,sockets=2,cores=2,threads=2" in said["arguments"]
    read = parse_qemu_text(done.stdout, "them")
    assert (4, 8, 2) == (read.vcpus, read.max_vcpus, read.threads)
    assert [32 << 20] * 2 == [cell.memory_bytes for cell in read.cells]


def test_libvirt(asked: list[str], tmp_path: Path) -> None:
    """A domain, and the same in a domain that is there; nothing of the machine is read but what is asked."""
    text = run("emit", "libvirt", *asked).stdout
    assert text == answer("emit", "libvirt", *asked)["xml"]
    spec = parse_libvirt(text, "them")
    assert ("dedicated", "red", ("disk0",)) == (spec.vcpu_policy, spec.trust_domain, spec.iothreads)
    base = tmp_path / "base.xml"
    text = text.replace('machine="q35"', 'machine="pc-i440fx-rhel7.6.0"')
    base.write_text(text.replace("</domain>", "<devices><emulator>/x</emulator></devices></domain>"))
    again = run("emit", "libvirt", *asked, "--base", os.fspath(base)).stdout
    assert "<emulator>/x</emulator>" in again
    assert 'machine="pc-i440fx-rhel7.6.0"' in again
    assert spec == parse_libvirt(again, "them")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["qemu"], 2, "name the one GUEST"),
        (["qemu", "db", "db2"], 2, "name the one GUEST"),
        (["qemu", "db", "--machine", "vax"], 2, "machine type 'vax' is not known"),
        (["qemu", "db", "--machine", "none"], 2, "The max CPUs supported by machine 'none' is 1"),
        (["libvirt", "db", "--machine", "virt"], 2, "machine type 'virt' is none of x86's"),
        (["qemu", "db", "--machine", "isapc"], 2, "The max CPUs supported by machine 'isapc' is 1"),
        (["qemu", "db", "--cpu", ""], 2, 'a CPU is the name of a model, with flags, not ""'),
        (["qemu", "db", "--cpu", "EPYC\x01"], 2, "a CPU is the name of a model"),
        (["libvirt", "db", "--cpu", ""], 2, "a libvirt CPU is host-passthrough"),
        (["libvirt", "db", "--cpu", "EPYC\x01"], 2, "a libvirt CPU is host-passthrough"),
        (["libvirt", "db", "--machine", "microvm"], 2, 'no machine type "microvm" for x86'),
        (["qemu", "db", "--machine", "s390-ccw-virtio"], 2, "is none of x86's"),
        (["libvirt", "db", "--base", "/nowhere"], 2, "/nowhere: cannot be read"),
        (["libvirt", "db", "--base", "/dev/null"], 2, "the domain, line 1: no element found"),
        (["qemu", "nobody"], 1, "no guest 'nobody'"),
    ],
)
def test_mistakes(asked: list[str], words: list[str], code: int, said: str) -> None:
    """What is wrong; nothing on standard output."""
    done = run("emit", *words, *asked[1:])
    assert (code, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_domain_of_another_architecture(asked: list[str], tmp_path: Path) -> None:
    """Its machine type counts, and is refused."""
    base = tmp_path / "arm.xml"
    base.write_text(
        "<domain><name>db</name><os><type arch='aarch64' machine='virt-7.2'>hvm</type></os></domain>"
    )
    done = run("emit", "libvirt", *asked, "--base", os.fspath(base))
    assert (2, "") == (done.returncode, done.stdout)
    assert "machine type 'virt-7.2' is none of x86's" in done.stderr


def test_arguments_are_those_of_the_machine_types_qemu(asked: list[str]) -> None:
    """Unless said: 6.2 knows no context of threads, 7.2 does; what is said counts."""
    words = ["emit", "qemu", *asked, "--prealloc", "--machine"]
    assert "thread-context" not in run(*words, "pc-q35-6.2").stdout
    assert "thread-context" in run(*words, "pc-q35-7.2").stdout
    assert "thread-context" in run(*words, "pc-q35-6.2", "--qemu", "7.2").stdout


def test_what_else_has_to_be_known(asked: list[str], tmp_path: Path) -> None:
    """Of what is written: for people beside it, for programs in it."""
    said = answer("emit", "qemu", *asked, "--accel", "tcg")
    (note,) = [note for note in said["notes"] if "without topoext" in note]
    assert note in run("emit", "qemu", *asked, "--accel", "tcg").stderr
    base = tmp_path / "base.xml"
    base.write_text(
        "<domain type='kvm'><name>db</name><vcpu>64</vcpu><cputune><vcpusched vcpus='60'/></cputune></domain>"
    )
    said = answer("emit", "libvirt", *asked, "--base", os.fspath(base))
    (note,) = [note for note in said["notes"] if "<vcpusched> is for the vCPUs 60 no more" in note]
    assert note in run("emit", "libvirt", *asked, "--base", os.fspath(base)).stderr


def test_who_has_no_place(asked: list[str], tmp_path: Path) -> None:
    """Cannot, and why; JSON all the same."""
    (tmp_path / "db.toml").write_text(
        DB.replace("max_vcpus = 8", "max_vcpus = 24").replace('"4-7"', '"4-23"')
    )
    done = run("emit", "qemu", *asked, "--json")
    assert 1 == done.returncode
    assert [] == json.loads(done.stdout)["arguments"]
    assert "db has no place: " in done.stderr


def test_specs_of_files(asked: list[str], tmp_path: Path) -> None:
    """Of a command line and a domain, as TOML that is read, and as JSON; all mistakes of all files."""
    command, domain = tmp_path / "start.sh", tmp_path / "db.xml"
    command.write_text("#!/bin/sh\nset -e\nexec qemu-system-x86_64 -name web \\\n  -smp 2 -m 1G  # small\n")
    domain.write_text(run("emit", "libvirt", *asked).stdout)
    files = ["--qemu-args", os.fspath(command), "--libvirt", os.fspath(domain)]
    web, db = parse_specs(run("spec", *files).stdout, "them")
    assert ("web", 2, 1 << 30) == (web.name, web.vcpus, web.memory_bytes)
    assert ("db", 8, "dedicated", "red") == (db.name, db.max_vcpus, db.vcpu_policy, db.trust_domain)
    assert ["web", "db"] == [one["name"] for one in answer("spec", *files)["specs"]]
    command.write_text("qemu-system-x86_64 -name web -mem-path /dev/hugepages")
    domain.write_text(domain.read_text().replace("<vcpu", "<memoryBacking><hugepages/></memoryBacking><vcpu"))
    notes = answer("spec", *files)["notes"]
    assert 2 == len(notes)
    assert all("huge" in note and note in run("spec", *files).stderr for note in notes)
    command.write_text("qemu-system-x86_64 -smp x")
    domain.write_text("<domain>\n<vcpu>x</vcpu></domain>")
    done = run("spec", *files)
    assert (2, "") == (done.returncode, done.stdout)
    for said in (
        "a guest needs a name",
        "'smp.cpus' expects integer",
        "db.xml:2: <vcpu>",
        "<name> is missing",
    ):
        assert said in done.stderr


@needs_qemu
def test_of_a_guest_that_runs() -> None:
    """What its command line says."""
    qemu = start_qemu("kvmaff-test-spec", vcpus=3)
    try:
        (said,) = answer("spec", f"pid:{qemu.pid}")["specs"]
        assert ("kvmaff-test-spec", 3, 32 << 20, ["io1"]) == (
            said["name"],
            said["vcpus"],
            said["memory_bytes"],
            said["iothreads"],
        )
    finally:
        qemu.process.kill()
        qemu.process.wait()


@needs_qemu
def test_a_qemu_starts_as_it_was_written(asked: list[str]) -> None:
    """The very words, through a shell, but for the nodes and the accelerator that this machine may not have."""
    words = run("emit", "qemu", *asked, "--accel", "tcg", "--cpu", "max", "--machine", "q35").stdout
    words = words.replace(",host-nodes=1,policy=bind", "").replace(",host-nodes=0,policy=bind", "")
    script = 'eval "exec qemu-system-x86_64 $1 -S -nodefaults -display none -qmp stdio"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", words.rstrip()],
        input='{"execute": "qmp_capabilities"} {"execute": "quit"}',
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr


def test_every_field_is_written() -> None:
    """What TOML says of a spec is the spec."""
    spec = GuestSpec(name='a "b" \\ ü', vcpus=2, memory_bytes=(1 << 30) + 1, trust_domain="\U0001f5a5")
    (table,) = tomllib.loads(spec_toml(spec))["guest"]
    assert {"name": 'a "b" \\ ü', "vcpus": 2, "memory": (1 << 30) + 1, "trust_domain": "\U0001f5a5"} == table
