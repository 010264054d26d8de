"""rebalance, and place with a budget of moves, as people and programs use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_cli import answer, run
from .test_deciding import machine

__all__ = ["machine"]

BIG = """
[[guest]]
name = "fits"
vcpus = 4
policy = "dedicated"
[[guest]]
name = "never"
vcpus = 15
policy = "dedicated"
"""


def test_nobody_to_move(machine: Path, tmp_path: Path) -> None:
    """On a recorded machine nobody has a place: the choice is one answer, and who has none is told with the bound."""
    (tmp_path / "big.toml").write_text(BIG)
    words = ("place", "--root", str(machine), "--spec", str(tmp_path / "big.toml"), "--max-moves", "3")
    told = answer(*words, code=1)
    (choice,) = told["choices"]
    assert (0, ["fits"], ["never"]) == (choice["moves"], choice["placed"], choice["unplaced"])
    admission = told["admission"]
    assert ("vcpus", 19, 4) == (admission["goal"], admission["asked"], admission["admitted"])
    assert admission["admitted"] <= admission["bound"]
    assert admission["gap"] == admission["bound"] - admission["admitted"]
    assert ([], []) == (told["moved"], told["steps"])
    done = run(*words, "--goal", "guests")
    assert 1 == done.returncode
    assert "1 of 2 guests" in done.stdout
    assert "never has no place" in done.stderr


def test_without_a_budget(machine: Path, tmp_path: Path) -> None:
    """Without one there is no choice, and the keys are there all the same."""
    (tmp_path / "fits.toml").write_text(BIG.partition('[[guest]]\nname = "never"')[0])
    told = answer("place", "--root", str(machine), "--spec", str(tmp_path / "fits.toml"))
    assert ([], [], []) == (told["choices"], told["moved"], told["steps"])
    assert (4, 4, 0) == tuple(told["admission"][key] for key in ("asked", "admitted", "gap"))


@pytest.mark.parametrize("none", ["0", "0 GiB"])
def test_a_budget_without_memory(machine: Path, tmp_path: Path, none: str) -> None:
    """That nothing which has memory may be moved is a budget like any other."""
    (tmp_path / "big.toml").write_text(BIG)
    words = ("--root", str(machine), "--spec", str(tmp_path / "big.toml"), "--max-moves", "3")
    told = answer("place", *words, "--max-moved-memory", none, code=1)
    assert ["never"] == [one["name"] for one in told["unplaced"]]


@pytest.mark.parametrize(
    "words",
    [
        ("place", "--max-moves", "-1"),
        ("place", "--max-moves", "many"),
        ("place", "--goal", "guests"),
        ("place", "--max-moved-vcpus", "4"),
        ("place", "--max-moves", "1", "--max-moved-memory", "5 GB"),
        ("place", "--max-moves", "1", "--max-moved-memory", "-1"),
        ("place", "--max-moves", "1", "--max-moved-memory", ""),
        ("place", "--max-moves", "1", "--max-moved-memory", "9" * 5000),
        ("place", "--max-moves", "1", "--max-moved-vcpus", "-1"),
        ("place", "--max-moves", "1.5"),
        ("place", "--max-moves", "5000"),
        ("place", "--max-moves", "1", "--goal", "cpus"),
        ("apply", "--max-moves", "1"),
        ("plan", "--max-moves", "1"),
        ("rebalance", "--max-moves", "-1"),
        ("rebalance", "--strategy", "nmua"),
        ("rebalance", "--option", "near=perhaps"),
        ("rebalance", "--option", "near"),
        ("rebalance", "--spec", "/nonexistent/specs.toml"),
        ("rebalance", "web"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], state_dir: Path) -> None:
    """What is written wrongly is 2, with a message."""
    done = run(*words)
    assert 2 == done.returncode, done.stdout
    assert done.stderr


def test_json_in_every_case(state_dir: Path) -> None:
    """Whatever goes wrong, there is one shape."""
    told = answer("rebalance", "--strategy", "nmua", code=2)
    assert {"strategy", "gains", "moved", "steps", "left_alone", "errors"} == set(told)
