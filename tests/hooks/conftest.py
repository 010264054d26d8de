"""Plug-ins of a test's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from .strangers import Install, install


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install plug-ins for this test alone, found on the path as installed ones are."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("KVMAFF_DISABLE_PLUGINS", raising=False)
    yield partial(install, folder)
    for name in [name for name in sys.modules if name.startswith("stranger_")]:
        del sys.modules[name]
