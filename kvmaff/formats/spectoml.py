"""
A guest's spec -> the TOML that :mod:`kvmaff.formats.specs` reads, and JSON.

Only what differs from the defaults is written. TOML's basic strings are JSON's but for characters that are not
printable, which specs do not have, so that no library is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import Affinity, GuestSpec

__all__ = ["policies_toml", "spec_data", "spec_toml", "toml_list"]

_WORDS = {
    "vcpu_policy": "policy",
    "thread_policy": "thread_policy",
    "emulator_policy": "emulator",
    "iothread_policy": "iothread_policy",
    "core_kind": "core_kind",
    "trust_domain": "trust_domain",
    "pool": "pool",
}
"""Fields that hold a word, and their keys."""
_UNITS = (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10))


def spec_toml(spec: GuestSpec) -> str:
    """
    Write a spec.

    Args:
        spec: It.

    Returns:
        A table ``[[guest]]``.
    """
    lines = ["[[guest]]", f"name = {_text(spec.name)}"]
    if spec.uuid:
        lines.append(f"uuid = {_text(spec.uuid)}")
    lines.append(f"vcpus = {spec.vcpus}")
    if spec.max_vcpus != spec.vcpus:
        lines.append(f"max_vcpus = {spec.max_vcpus}")
    if spec.threads != 1:
        lines.append(f"threads = {spec.threads}")
    if spec.memory_bytes:
        lines.append(f"memory = {_amount(spec.memory_bytes)}")
    if spec.page_bytes:
        lines.append(f"page_size = {_amount(spec.page_bytes)}")
    if spec.iothreads:
        lines.append(f"iothreads = {toml_list(spec.iothreads)}")
    if spec.devices:
        lines.append(f"devices = {toml_list(spec.devices)}")
    lines += _policies(spec)
    for cell in spec.cells:
        lines += ["", "[[guest.cell]]", f'vcpus = "{CpuSet(cell.vcpus)}"']
        if cell.memory_bytes:
            lines.append(f"memory = {_amount(cell.memory_bytes)}")
    return "\n".join(lines) + "\n"


def spec_data(spec: GuestSpec) -> dict[str, Any]:
    """
    Describe a spec as what JSON can hold.

    Args:
        spec: It.

    Returns:
        Its fields by name, as :class:`~kvmaff.guest.spec.GuestSpec` has them: amounts in bytes, words as text; cells
        and affinities as dictionaries of theirs.
    """
    return attrs.asdict(spec)


def policies_toml(spec: GuestSpec) -> str:
    """
    Write what of a spec no VMM is told: how it is to be placed.

    Args:
        spec: It.

    Returns:
        Lines of a table; empty where all is as unless said.
    """
    lines = list(_policies(spec))
    return "\n".join(lines) + "\n" if lines else ""


def _policies(spec: GuestSpec) -> Iterator[str]:
    plain = GuestSpec(name="plain", vcpus=1)
    for field, key in _WORDS.items():
        value = getattr(spec, field)
        if value != getattr(plain, field):
            yield f"{key} = {_text(str(value))}"
    if spec.dedicated_vcpus:
        yield f'dedicated_vcpus = "{CpuSet(spec.dedicated_vcpus)}"'
    if spec.device_nodes:
        yield f"device_nodes = [{', '.join(map(str, spec.device_nodes))}]"
    for key in ("affinity", "anti_affinity"):
        some: tuple[Affinity, ...] = getattr(spec, key)
        if some:
            tables = (f"{{ guest = {_text(one.guest)}, level = {_text(str(one.level))} }}" for one in some)
            yield f"{key} = [{', '.join(tables)}]"


def toml_list(words: Iterable[str]) -> str:
    """
    Write a list of words.

    Args:
        words: The words, printable.

    Returns:
        The list.
    """
    return f"[{', '.join(map(_text, words))}]"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _amount(size: int) -> str:
    for unit, shift in _UNITS:
        if size % (1 << shift) == 0:
            return f'"{size >> shift} {unit}"'
    return str(size)
