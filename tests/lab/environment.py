"""Where this checkout lives, and which virtual environment its commands run in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["CHECKOUT", "inside", "interpreter"]

CHECKOUT = Path(__file__).resolve().parents[2]

_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("CI", "COLUMNS", "LINES", "NO_COLOR", "KVMAFF_DISABLE_PLUGINS")


def _programs() -> Path:
    """Return the folder of this checkout's ``python`` and ``kvmaff``; where there is none, of this Python."""
    own = Path(sys.prefix, "bin")
    said = os.environ.get("KVMAFF_TEST_VENV")
    places = [own, *([Path(said, "bin")] if said else [])]
    places += [CHECKOUT / name / "bin" for name in ("build/test-venv", ".venv", "build/venv")]
    return next((place.absolute() for place in places if (place / "kvmaff").exists()), own)


def interpreter() -> str:
    """Return the Python of the commands."""
    return str(_programs() / "python3")


def inside() -> dict[str, str]:
    """
    Return the environment of commands in the machine.

    Nothing of it is where the host keeps something: home and temporary folder are empty and in memory.
    """
    programs = _programs()
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "PATH": f"{programs}:{_SYSTEM}",
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": "root",
        "KVMAFF_LAB": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/run/tmp/hypothesis",
    }
