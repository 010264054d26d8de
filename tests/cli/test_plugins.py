"""``kvmaff plugins`` as people and programs use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..hooks.strangers import SABOTEURS, STRATEGY, install

KEYS = ["name", "distribution", "version", "hooks", "strategies", "vmms", "error", "disabled"]


def run(folder: Path | None, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command; plug-ins of the folder are installed for it."""
    env = {**os.environ, **environment}
    env.pop("KVMAFF_DISABLE_PLUGINS", None)
    if folder is not None:
        env["PYTHONPATH"] = str(folder)
    env |= environment
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", "plugins", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=env,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A good plug-in and every saboteur."""
    install(tmp_path, "good", STRATEGY.format(name="good"))
    for name, (code, _) in SABOTEURS.items():
        install(tmp_path, f"bad-{name}", code)
    return tmp_path


def listed(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The answer by name."""
    assert 0 == done.returncode, done.stderr
    return {plugin["name"]: plugin for plugin in json.loads(done.stdout)}


def test_help() -> None:
    """The help shows examples, the variable that turns plug-ins off, and --json."""
    out = run(None, "--help").stdout
    for words in ("  kvmaff plugins", "KVMAFF_DISABLE_PLUGINS", "--json"):
        assert words in out


def test_json(site: Path) -> None:
    """--json has the contract's keys; each saboteur is listed with its error, and harms nobody."""
    found = listed(run(site, "--json"))
    for plugin in found.values():
        assert KEYS == list(plugin)
    assert {
        "name": "good",
        "distribution": "kvmaff-good",
        "version": "1.5",
        "hooks": ["kvmaff_strategies"],
        "strategies": ["good"],
        "vmms": [],
        "error": None,
        "disabled": False,
    } == found["good"]
    for name, (_, said) in SABOTEURS.items():
        assert said in found[f"bad-{name}"]["error"]


def test_table(site: Path) -> None:
    """The table shows the same to a person; no escape sequence of a plug-in's reaches the terminal."""
    done = run(site)
    assert 0 == done.returncode
    for words in ("plug-in", "good", "kvmaff-good 1.5", "works", "bad-hostile", "implements no hook"):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


def test_disabled(site: Path) -> None:
    """What KVMAFF_DISABLE_PLUGINS turns off is listed as such, by its globs alone."""
    found = listed(run(site, "--json", KVMAFF_DISABLE_PLUGINS="bad-*,nothing"))
    assert {name for name in found if name.startswith("bad-")} == {
        name for name, plugin in found.items() if plugin["disabled"]
    }
    assert not any(plugin["error"] for plugin in found.values() if plugin["disabled"])
    assert "disabled" in run(site, KVMAFF_DISABLE_PLUGINS="*").stdout


def test_what_is_installed_here() -> None:
    """Every plug-in that is installed with these tests works."""
    for plugin in listed(run(None, "--json")).values():
        assert plugin["error"] is None, plugin
