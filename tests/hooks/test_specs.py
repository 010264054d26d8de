"""The hooks' specifications."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvmaff
from kvmaff.hooks import specs

HOOKS = sorted(name for name in specs.__all__ if name.startswith("kvmaff_"))


def test_these_are_the_hooks() -> None:
    """There are five hooks; each is marked, none is firstresult or historic, and no other function is a hook."""
    expected = ["applied", "check_placement", "reserved_cpus", "strategies", "vmms"]
    assert [f"kvmaff_{name}" for name in expected] == HOOKS
    for name, value in vars(specs).items():
        options = getattr(value, "kvmaff_spec", None)
        assert (options is not None) == (name in HOOKS)
        if options:
            assert not options["firstresult"]
            assert not options["historic"]


@pytest.mark.parametrize("hook", HOOKS)
def test_plugin_hooks_are_documented(hook: str) -> None:
    """Each hook says what to return in its first line, names its arguments, and ends with when it is called."""
    function = getattr(specs, hook)
    text = inspect.getdoc(function) or ""
    lines = text.splitlines()
    assert lines[0].startswith("Return ")
    assert "." == lines[0][-1]
    for argument in inspect.signature(function).parameters:
        assert re.search(rf"^    {argument}: \S", text, re.MULTILINE)
    assert hook == "kvmaff_applied" or "Returns:" in lines
    assert text.split("\n\n")[-1].startswith("Called ")


@pytest.mark.parametrize("hook", HOOKS)
def test_plugin_hooks_have_tests(hook: str) -> None:
    """Each hook is implemented by a plug-in of these tests."""
    tests = Path(__file__).parent.glob("test_*.py")
    assert any(f"def {hook}(" in test.read_text() for test in tests if test.name != Path(__file__).name)


def test_whoever_implements_a_hook_loads_pluggy_alone() -> None:
    """The markers come without any other room of ours, and without attrs, cffi and click."""
    code = (
        "import sys; from kvmaff import hookimpl; print(sorted(m for m in sys.modules "
        "if m.split('.')[0] in ('kvmaff', 'attr', 'cffi', 'click')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "['kvmaff', 'kvmaff.hooks', 'kvmaff.hooks.specs']\n" == done.stdout


def test_the_marker_is_public() -> None:
    """A plug-in takes the marker from the package itself."""
    assert specs.hookimpl is kvmaff.hookimpl
