"""The public names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import kvmaff


def test_every_public_name_is_there() -> None:
    """All of __all__ can be taken, is listed by dir(), and nothing else is public."""
    for name in kvmaff.__all__:
        assert getattr(kvmaff, name) is not None
    assert set(kvmaff.__all__) <= set(dir(kvmaff))
    assert version("kvmaff") == kvmaff.__version__
    with pytest.raises(AttributeError, match="nothing"):
        _ = kvmaff.nothing


def test_import_is_lean() -> None:
    """Importing the package loads none of its rooms and none of its dependencies."""
    names = ("kvmaff.", "attr", "cffi", "click", "rich")
    code = f"import sys, kvmaff; print([m for m in sys.modules if m.startswith({names})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


def test_core_needs_no_extra() -> None:
    """The public calls load neither click nor rich nor hypothesis."""
    code = (
        "import sys, kvmaff\nfor name in kvmaff.__all__: getattr(kvmaff, name)\n"
        "print([m for m in ('click', 'rich', 'hypothesis', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
