"""Which words of a command line are options and which are values: as the QEMU that is installed has it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.formats.qemuwords import READ, bytes_of, options, switched_on, texts

from ..conftest import QEMU, needs_qemu

END = '{"execute": "qmp_capabilities"}{"execute": "quit"}'


def _is_switch(name: str, folder: Path) -> bool:
    """Whether QEMU takes the next word for an option: one that has a value takes -version for it, and ends by QMP."""
    words = ["-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", f"-{name}", "-version"]
    try:
        done = subprocess.run(
            [QEMU, *words], input=END, capture_output=True, text=True, check=False, timeout=10, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.startswith("QEMU emulator version")


def _options_of_qemu() -> set[str]:
    text = subprocess.run([QEMU, "-help"], capture_output=True, text=True, check=True, timeout=60).stdout
    # -accel help and the like end at once; -daemonize would go on without us, if it had a value
    return set(re.findall(r"^--?([A-Za-z][A-Za-z0-9_-]*)", text, re.MULTILINE)) - {"h", "help", "version"}


@needs_qemu
def test_switches_have_no_value(tmp_path: Path) -> None:
    """Of every option without a value the next word is an option, of every other one that is read it is its value."""
    names = _options_of_qemu()
    switches = {name for name in names if _is_switch(name, tmp_path)}
    assert READ.isdisjoint(switches)
    assert {"enable-kvm", "nographic", "S", "enable-sync-profile"} <= switches
    for name in switches:
        assert [(name, None), ("smp", "4")] == [
            (one.name, one.value) for one in options([f"-{name}", "-smp", "4"])
        ], name
        assert [(name, None), ("smp", "4")] == [
            (one.name, one.value) for one in options([f"-{name}", "disk.img", "-smp", "4"])
        ], name


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["qemu", "-M", "q35", "--smp", "4", "disk", "-"], [("machine", "q35"), ("smp", "4")]),
        (["-later-switch", "-smp", "4"], [("later-switch", None), ("smp", "4")]),
        (["-later-option", "a", "-smp", "4"], [("later-option", "a"), ("smp", "4")]),
        (["-chardev-like", "-", "-smp", "4"], [("chardev-like", "-"), ("smp", "4")]),
        (["-append", "-smp 8", "-smp", "4"], [("append", "-smp 8"), ("smp", "4")]),
        (["-name", "-smp", "-m", "4"], [("name", "-smp"), ("m", "4")]),
        (["-smp"], [("smp", None)]),
        ([], []),
    ],
)
def test_options(words: list[str], found: list[tuple[str, str | None]]) -> None:
    """What is not known takes the next word, unless that is an option."""
    assert found == [(one.name, one.value) for one in options(words)]
    assert all(words[one.at].startswith("-") for one in options(words))


@given(hs.integers(1, 1 << 40), hs.sampled_from("bBkKmMgG"))
def test_amounts(number: int, unit: str) -> None:
    """With a unit, without one, in hexadecimal, and halves."""
    shift = 10 * "BKMG".index(unit.upper())
    size = number << shift
    expected = size if size < 1 << 62 else None
    assert expected == bytes_of(f"{number}{unit}") == bytes_of(f"{number:#x}{unit if shift else ''}")
    assert bytes_of(number) == bytes_of(str(number)) == number
    if shift and expected:
        assert size + (1 << shift - 1) == bytes_of(f"{number}.5{unit}")


@pytest.mark.parametrize("text", ["", "0", "-1", "4X", "1e3", "9" * 40, "9E", None, True, [], 0, -1])
def test_what_is_no_amount(text: object) -> None:
    """Nothing, nothing positive, no number, more than there is."""
    assert bytes_of(text) is None


def test_texts_and_switches() -> None:
    """Commas are doubled; lists are lists; a word alone is switched on."""
    assert {"type": "q35", "a": "b,c", "d": "on", "cpus": ["0", "2-3"]} == texts(
        "q35,a=b,,c,d,cpus=0,cpus=2-3", "type"
    )
    assert [True, True, True, False, False] == [switched_on(one) for one in (True, "on", "YES", "off", None)]
