"""Where a QEMU serves QMP, by its command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.guest.keyval import escaped, loose_pairs
from kvmaff.guest.monitor import Monitor, Monitors, monitors_said

paths = hs.text(hs.characters(blacklist_characters="=\0", codec="utf-8"), min_size=1, max_size=40)


@given(paths, hs.booleans(), hs.sampled_from(["-qmp", "--qmp", "-qmp-pretty"]))
def test_whatever_the_path(path: str, waits: bool, option: str) -> None:
    """Any path, commas doubled as QEMU wants them, is the one that is found."""
    text = f"unix:{escaped(path)},server=on,wait={'on' if waits else 'off'}"
    assert Monitors(sockets=(Monitor(path=path, waits=waits),)) == monitors_said(["qemu", option, text])
    dev = f"socket,path={escaped(path)},id=x,server=on,wait={'on' if waits else 'off'}"
    said = ["qemu", "-mon", "chardev=x,mode=control", "-chardev", dev]
    assert Monitors(sockets=(Monitor(path=path, waits=waits),)) == monitors_said(said)


@given(hs.lists(hs.text(max_size=30), max_size=12))
def test_anything_is_taken(words: list[str]) -> None:
    """Whatever a process wrote on its command line: something is answered."""
    for first in ("-qmp", "-mon", "-chardev"):
        assert isinstance(monitors_said([first, *words, "-qmp", *words]), Monitors)


@pytest.mark.parametrize(
    ("words", "path", "waits"),
    [
        ("-qmp unix:/a,server,nowait", "/a", False),
        ("-qmp unix:/a,server", "/a", True),
        ("-qmp unix:/a,server=yes,wait=no", "/a", False),
        (
            "-chardev socket,id=c,path=/a,server=on,wait=off -mon chardev=c,mode=control,pretty=on",
            "/a",
            False,
        ),
        ("-chardev socket,id=c,path=/a,server=on,wait=off -mon c,mode=control", "/a", False),
        (
            "-chardev socket,id=c,path=/b,server=on,wait=off -chardev null,id=c -mon c,mode=control",
            "/b",
            False,
        ),
    ],
)
def test_ways_to_say_it(words: str, path: str, waits: bool) -> None:
    """Every spelling that QEMU takes."""
    assert (Monitor(path=path, waits=waits),) == monitors_said(words.split()).sockets


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("-qmp tcp:127.0.0.1:4444,server=on,wait=off", "is on TCP"),
        ("-qmp stdio", "is on 'stdio'"),
        ("-chardev pty,id=c -mon c,mode=control", "is on 'pty'"),
        ("-chardev socket,id=c,fd=33,server=on,wait=off -mon chardev=c,mode=control", "libvirt"),
        ("-qmp unix:/a", "is a client of '/a'"),
        ("-mon chardev=nowhere,mode=control", "nothing that is known"),
    ],
)
def test_what_cannot_be_connected_to(words: str, why: str) -> None:
    """Why a monitor is of no use is said."""
    found = monitors_said(words.split())
    assert () == found.sockets
    (said,) = found.others
    assert why in said


@pytest.mark.parametrize(
    "words", ["", "-mon chardev=c -chardev socket,id=c,path=/a,server=on", "-monitor unix:/a,server"]
)
def test_no_qmp(words: str) -> None:
    """A monitor for people is none for programs."""
    assert Monitors() == monitors_said(words.split())


def test_the_older_grammar() -> None:
    """A key alone is on, with no before it off; commas are doubled; the first value may stand alone."""
    expected = [("path", "/a,b"), ("server", "on"), ("wait", "off"), ("x", "1=2")]
    assert expected == list(loose_pairs("/a,,b,server,nowait,x=1=2", "path"))
