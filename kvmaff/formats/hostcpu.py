"""Captures of hosts' CPUs: small JSON files that people carry from one host to another."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from kvmaff.cpumodel.model import HostCpu
from kvmaff.cpumodel.stored import host_data, host_from
from kvmaff.errors import HostReadError, RequestError, SpecError
from kvmaff.formats.outfile import put_out
from kvmaff.formats.tomltext import cleaned, read_text

__all__ = ["host_cpu_text", "load_host_cpu", "load_host_cpus", "save_host_cpu"]

_MOST_BYTES = 1 << 20


def host_cpu_text(host: HostCpu) -> str:
    """
    Write a host's CPU down.

    Args:
        host: It.

    Returns:
        JSON, a feature a line, so that two files can be compared by eye.
    """
    return json.dumps(host_data(host), indent=1) + "\n"


def save_host_cpu(host: HostCpu, path: str | os.PathLike[str]) -> None:
    """
    Write a host's CPU into a file.

    Args:
        host: It.
        path: The file, which everybody may read; one that is there is replaced when the new one is whole.

    Raises:
        RequestError: It cannot be written, or something is there that is no plain file.
    """
    put_out(os.fsdecode(path), host_cpu_text(host).encode(), 0o644)


def load_host_cpu(path: str | os.PathLike[str], *, name: str | None = None) -> HostCpu:
    """
    Read a host's CPU from a file.

    Args:
        path: The file.
        name: What to call the host; None for the file's name without ``.json``.

    Returns:
        The host.

    Raises:
        HostReadError: The file cannot be read or is damaged; says all that is wrong.
    """
    where = os.fsdecode(path)
    try:
        text = read_text(where, most=_MOST_BYTES, what="capture of a host's CPU")
    except SpecError as error:
        raise HostReadError(str(error), path=where) from error
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise HostReadError(
            f"{cleaned(where)}:{error.lineno}: is no JSON: {error.msg}", path=where
        ) from error
    except RecursionError:
        raise HostReadError(f"{cleaned(where)}: is nested too deeply", path=where) from None
    except _TwiceError as error:
        raise HostReadError(
            f"{cleaned(where)}: says twice what {cleaned(error.args[0])!r} is", path=where
        ) from None
    except ValueError as error:  # int() on more digits than it takes
        raise HostReadError(f"{cleaned(where)}: has a number of too many digits", path=where) from error
    try:
        return host_from(data, cleaned(_stem(where) if name is None else name))
    except ValueError as error:
        problems = "\n".join(f"{cleaned(where)}: {one}" for one in error.args)
        raise HostReadError(problems, path=where) from error


def load_host_cpus(paths: Sequence[str | os.PathLike[str]]) -> tuple[HostCpu, ...]:
    """
    Read some hosts' CPUs.

    Args:
        paths: Their files.

    Returns:
        The hosts in this order, each called by its file's name; by the whole path where two have one name.

    Raises:
        RequestError: A file is given twice.
        HostReadError: Files cannot be read or are damaged; says all that is wrong with all of them.
    """
    names = [_stem(os.fsdecode(path)) for path in paths]
    found, wrong = [], []
    for path, stem in zip(paths, names, strict=True):
        try:
            found.append(load_host_cpu(path, name=stem if names.count(stem) == 1 else os.fsdecode(path)))
        except HostReadError as error:
            wrong.append(error)
    if wrong:
        raise HostReadError("\n".join(map(str, wrong)), path=wrong[0].path)
    twice = sorted({os.fsdecode(path) for path in paths if list(paths).count(path) > 1})
    if twice:
        raise RequestError.of([f"{cleaned(path)}: is given twice" for path in twice])
    return tuple(found)


class _TwiceError(ValueError):
    """A field is there twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key[:32])
        found[key] = value
    return found


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".json") or path
