"""``kvmaff strategies`` as people and programs use it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..hooks.strangers import SABOTEURS, STRATEGY, install
from .test_cli import answer, run

OPTIONS = """
import attrs, enum
class Reach(enum.StrEnum):
    PU = "pu"
    L3 = "l3"
    def __str__(self): return "\\x1b[31m"
    def __repr__(self): return "\\x1b[31m"
@attrs.frozen
class Options:
    reach: Reach = option(Reach.L3, "how far it reaches")
    where: str = option("\\x1b[2J\\u202e", "where it is")
@hookimpl
def kvmaff_strategies():
    return [Strategy(name="hostile", summary="a test's", place=print, options=Options)]
"""
README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def with_plugins(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the plug-ins of a folder."""
    env = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", *words],
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
    """A good plug-in, one whose texts are hostile, and every saboteur."""
    install(tmp_path, "good", STRATEGY.format(name="good"))
    install(tmp_path, "sly", OPTIONS)
    for name, (code, _) in SABOTEURS.items():
        install(tmp_path, f"bad-{name}", code)
    return tmp_path


def test_json() -> None:
    """--json lists every strategy with its options; with a name, that one alone."""
    found = {one["name"]: one for one in answer("strategies")["strategies"]}
    assert {"isolated", "numa", "pack", "spread"} <= set(found)
    assert ["numa"] == [name for name, one in found.items() if one["default"]]
    assert ["isolated"] == [name for name, one in found.items() if one["vcpu_policy"] == "dedicated"]
    (grain,) = [one for one in found["numa"]["options"] if one["name"] == "grain"]
    assert ("choice", ["pu", "l3"], "l3") == (grain["type"], grain["values"], grain["default"])
    assert {"strategies": [found["numa"]]} == answer("strategies", "numa")


def test_table() -> None:
    """A person sees each strategy and each option, and how one is given."""
    done = run("strategies")
    assert (0, "") == (done.returncode, done.stderr)
    for words in ("numa (default)", "kvmaff 0.", "whole_cores", "core, node, l3", "--option OPTION=VALUE"):
        assert words in done.stdout
    one = run("strategies", "isolated").stdout
    assert "anywhere" in one
    assert "numa" not in one


def test_what_is_listed_is_taken(tmp_path: Path) -> None:
    """Every value that is listed of every option of ours is one that place takes."""
    spec = tmp_path / "guests.toml"
    spec.write_text('[[guest]]\nname = "web"\nvcpus = 1\npolicy = "shared"\n')
    for strategy in answer("strategies")["strategies"]:
        words = [
            f"{option['name']}={value}"
            for option in strategy["options"]
            for value in (option["values"] or ["yes", "no"])[-1:]
        ]
        options = [word for text in words for word in ("--option", text)]
        done = run("place", "web", "--spec", str(spec), "--strategy", strategy["name"], *options)
        assert (0, "") == (done.returncode, done.stderr)


def test_no_such_strategy() -> None:
    """The near miss is suggested, in JSON too."""
    done = run("strategies", "pakc")
    assert (2, "") == (done.returncode, done.stdout)
    assert "no strategy 'pakc', did you mean 'pack'?" in done.stderr
    data = answer("strategies", "pakc", code=2)
    assert [] == data["strategies"]
    assert 1 == len(data["errors"])


def test_plugins_of_strangers(site: Path) -> None:
    """A stranger's strategies are listed with whose they are; no escape reaches the terminal; who fails is named."""
    done = with_plugins(site, "strategies")
    assert 0 == done.returncode
    for words in ("good (kvmaff-good 1.5)", "sly (kvmaff-sly 1.5)", "pu, l3", "?[2J?", "how far it reaches"):
        assert words in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)
    assert "'bad-exits' does not work" in done.stderr
    assert "odd" not in re.findall(r"^ (\S+)", done.stdout, re.MULTILINE)
    data = json.loads(with_plugins(site, "strategies", "hostile", "--json").stdout)
    (found,) = data["strategies"]
    assert ["l3", "\x1b[2J\u202e"] == [option["default"] for option in found["options"]]
    broken = with_plugins(site, "strategies", "odd")
    assert 1 == broken.returncode
    assert "bad-" in broken.stderr


def test_none_at_all(tmp_path: Path) -> None:
    """Where every plug-in is turned off there is no strategy, and that is said."""
    done = with_plugins(tmp_path, "strategies", KVMAFF_DISABLE_PLUGINS="*")
    assert 0 == done.returncode
    assert done.stdout.startswith("there is no strategy")


def test_options_without_any(site: Path) -> None:
    """A strategy without options says so."""
    assert "It has no options." in with_plugins(site, "strategies", "good").stdout


def test_the_readme_names_options_that_there_are() -> None:
    """Every --option that the README shows is one of the strategy before it, with a value of its own."""
    found = {one["name"]: one["options"] for one in answer("strategies")["strategies"]}
    shown = re.findall(r"--strategy (\w+) --option ([\w-]+)=(\w+)", README)
    assert shown
    for strategy, name, value in shown:
        (option,) = [one for one in found[strategy] if one["name"] == name.replace("-", "_")]
        assert value in (option["values"] or ["yes", "no"])
