"""Specs -> TOML text in the many ways that people write it, with the line of every field."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import SpecError
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.spec import GuestSpec


@attrs.frozen(kw_only=True)
class Written:
    """A text, and the line of each field as (number of the guest, key)."""

    text: str
    lines: dict[tuple[int, str], int]


@hs.composite
def written_specs(draw: hs.DrawFn, specs: list[GuestSpec]) -> Written:
    """A file that says just these specs."""
    text, lines = "", {}
    noise = hs.sampled_from(
        ["", "", "", "\n", "# vcpus = 3\n", '# [[guest]] """\n', "\r\n", "  \t\n", "# '''\n# ]\n"]
    )
    for number, spec in enumerate(specs, 1):
        text += draw(noise)
        lines[number, ""] = text.count("\n") + 1
        text += draw(hs.sampled_from(["[[guest]]\n", "[[ guest ]] # [[guest]]\n", '[["guest"]]\r\n']))
        for key, value in draw(hs.permutations(draw(_fields(spec)))):
            text += draw(noise)
            lines[number, key] = text.count("\n") + 1
            quoted = draw(hs.sampled_from([key, f'"{key}"', f"'{key}'", f'"\\u{ord(key[0]):04x}{key[1:]}"']))
            text += f"{quoted}{draw(hs.sampled_from(['=', ' = ']))}{value}"
            text += draw(hs.sampled_from(["\n", ' # = [ """\n']))
        for cell in spec.cells:
            text += draw(noise) + "[[guest.cell]]\n"
            text += f"vcpus = {draw(hs.sampled_from([list(cell.vcpus), _quoted(str(CpuSet(cell.vcpus)))]))}\n"
            text += f"memory = {draw(_memory(cell.memory_bytes))}\n" if cell.memory_bytes else ""
    return Written(text=text, lines=lines)


@hs.composite
def _fields(draw: hs.DrawFn, spec: GuestSpec) -> list[tuple[str, str]]:
    fields = [
        ("name", draw(_text(spec.name))),
        ("vcpus", str(spec.vcpus)),
        ("max_vcpus", str(spec.max_vcpus)),
        ("threads", draw(hs.sampled_from([str(spec.threads), hex(spec.threads), f"+{spec.threads}"]))),
        ("policy", draw(_text(spec.vcpu_policy))),
        ("thread_policy", draw(_text(spec.thread_policy))),
        ("emulator", draw(_text(spec.emulator_policy))),
        ("iothreads", draw(_list([draw(_text(name)) for name in spec.iothreads]))),
        ("device_nodes", draw(_list([str(node) for node in spec.device_nodes]))),
    ]
    if spec.uuid:
        fields.append(("uuid", draw(hs.sampled_from([_quoted(spec.uuid), _quoted(spec.uuid.upper())]))))
    if spec.memory_bytes:
        fields.append(("memory", draw(_memory(spec.memory_bytes))))
    return fields


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(text: str) -> hs.SearchStrategy[str]:
    forms = [_quoted(text), "".join(['"', *(f"\\U{ord(char):08x}" for char in text), '"'])]
    if "'" not in text:
        forms += [f"'{text}'", f"'''\n{text}'''", f"'''{text}'''"]
    if '"' not in text and "\\" not in text:
        forms += [f'"""{text}"""', f'"""\\\n  \n {text}"""'] if not text.startswith(" ") else []
    return hs.sampled_from(forms)


def _list(items: list[str]) -> hs.SearchStrategy[str]:
    lines = "".join(f'  {item}, # ] "\n' for item in items)
    return hs.sampled_from([f"[{', '.join(items)}]", f"[ # [\n{lines}]"])


def _memory(amount: int) -> hs.SearchStrategy[str]:
    forms = [str(amount), _quoted(f"{amount} B")]
    for unit, bits in {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}.items():
        if amount % (1 << bits) == 0:
            forms += [_quoted(f"{amount >> bits} {unit}"), _quoted(f"{amount >> bits}{unit}")]
    return hs.sampled_from(forms)


def problems_of(text: str) -> list[str]:
    """All that is wrong with a text."""
    with pytest.raises(SpecError) as caught:
        parse_specs(text, "h.toml")
    error = caught.value
    assert "\n".join(error.problems) == str(error)
    assert "h.toml" == error.path
    assert all(problem.startswith("h.toml") and problem.isprintable() for problem in error.problems)
    return list(error.problems)
