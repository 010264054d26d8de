"""A QEMU of ours that answers over QMP and ends: the oracle for what is said of QEMU."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Sequence
from typing import Any

import attrs

from .conftest import QEMU

PAUSED = ("-S", "-nodefaults", "-display", "none")
Command = tuple[str, dict[str, Any]]


@attrs.frozen(kw_only=True)
class Answers:
    """
    What a QEMU said.

    Attributes:
        code: How it ended.
        returns: Its answers; a dictionary with ``error`` for one that is none.
        errors: What it wrote to standard error, a line each, warnings left out.
        warnings: The warnings.
    """

    code: int
    returns: tuple[Any, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def ask_qemu(arguments: Sequence[str], *commands: Command) -> Answers:
    """Start a paused QEMU, ask it, and let it end; where it does not start, that is the answer."""
    asked = [("qmp_capabilities", {}), *commands, ("quit", {})]
    lines = [
        json.dumps({"execute": name, "arguments": given, "id": at}) for at, (name, given) in enumerate(asked)
    ]
    done = subprocess.run(
        [QEMU, *PAUSED, *arguments, "-qmp", "stdio"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {one["id"]: one.get("return", {"error": one.get("error")}) for one in said if "id" in one}
    errors = [line for line in done.stderr.splitlines() if "warning:" not in line]
    return Answers(
        code=done.returncode,
        returns=tuple(found[at] for at in range(1, len(commands) + 1) if at in found),
        errors=tuple(errors),
        warnings=tuple(line for line in done.stderr.splitlines() if "warning:" in line),
    )


@functools.cache
def qemu_version() -> tuple[int, int]:
    """The version of the QEMU that is installed."""
    (said,) = ask_qemu(["-M", "none"], ("query-version", {})).returns
    return said["qemu"]["major"], said["qemu"]["minor"]


@functools.cache
def machine_types() -> tuple[str, ...]:
    """The machine types that it has, aliases too."""
    (said,) = ask_qemu(["-M", "none"], ("query-machines", {})).returns
    return tuple(sorted({name for one in said for name in (one["name"], one.get("alias")) if name}))
