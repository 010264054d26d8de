"""Specs -> TOML text in the many ways that people write it, with the line of every field."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import SpecError
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.spec import Affinity, GuestSpec, Place
from kvmaff.placement.request import HostRules, Pool
from kvmaff.testing import inputs_guests as st


@attrs.frozen(kw_only=True)
class Written:
    """A text, and the line of each field as (number of the guest, key)."""

    text: str
    lines: dict[tuple[int, str], int]


@hs.composite
def spec_lists(draw: hs.DrawFn, *, least: int = 0, most: int = 4) -> list[GuestSpec]:
    """Specs of guests with different names, some of them to be kept apart from guests that they are not near to."""
    specs = draw(st.guest_spec_lists(least=least, most=most))
    apart = hs.builds(Affinity, guest=hs.sampled_from(("far", "off", "ß' x")), level=hs.sampled_from(Place))
    return [
        spec.with_changes(anti_affinity=tuple(draw(hs.lists(apart, max_size=2, unique=True))))
        if spec.name not in {"far", "off", "ß' x"}
        else spec
        for spec in specs
    ]


@hs.composite
def host_rules(draw: hs.DrawFn) -> HostRules:
    """Rules of a host: no two pools share a CPU or a name."""
    home = draw(hs.dictionaries(hs.integers(0, 300), hs.integers(0, 2), max_size=12))
    names = draw(hs.lists(st.guest_names(), min_size=3, max_size=3, unique=True))
    ratios = hs.none() | hs.integers(1, 1_000_000)
    pools = [
        Pool(
            name=names[number],
            cpus=CpuSet(cpu for cpu in home if home[cpu] == number),
            overcommit=draw(ratios),
        )
        for number in sorted(set(home.values()))
    ]
    return HostRules(
        reserved=CpuSet(draw(hs.sets(hs.integers(0, 300), max_size=5))),
        overcommit=draw(ratios),
        pools=tuple(pools),
    )


@hs.composite
def written_rules(draw: hs.DrawFn, rules: HostRules) -> str:
    """A file that says just these rules."""
    host = [("reserved", _quoted(str(rules.reserved)))] if rules.reserved else []
    tables = [("[host]", host + draw(_ratio(rules.overcommit)))]
    for pool in rules.pools:
        pairs = [("name", draw(_text(pool.name))), ("cpus", _quoted(str(pool.cpus)))]
        tables.append(("[[pool]]", pairs + draw(_ratio(pool.overcommit))))
    if tables[0] == ("[host]", []) and draw(hs.booleans()):
        del tables[0]
    elif draw(hs.booleans()):
        tables.append(tables.pop(0))
    return "".join(
        "\n".join([head, *(f"{key} = {value}" for key, value in draw(hs.permutations(pairs))), ""])
        for head, pairs in tables
    )


def _ratio(thousandths: int | None) -> hs.SearchStrategy[list[tuple[str, str]]]:
    if thousandths is None:
        return hs.just([])
    whole, rest = divmod(thousandths, 1000)
    forms = [f"{whole}.{rest:03}", f"{thousandths}e-3", *([] if rest else [str(whole)])]
    return hs.sampled_from(forms).map(lambda form: [("overcommit", form)])


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
            text += f"vcpus = {draw(_vcpus(cell.vcpus))}\n"
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
        ("devices", draw(_list([draw(_text(draw(_address(device)))) for device in spec.devices]))),
        ("affinity", draw(_list([draw(_affinity(one)) for one in spec.affinity]))),
        ("anti_affinity", draw(_list([draw(_affinity(one)) for one in spec.anti_affinity]))),
    ]
    words = {key: getattr(spec, key) for key in ("iothread_policy", "core_kind", "trust_domain", "pool")}
    fields += [(key, draw(_text(word))) for key, word in words.items() if word is not None]
    if spec.dedicated_vcpus:
        fields.append(("dedicated_vcpus", draw(_vcpus(spec.dedicated_vcpus))))
        if draw(hs.booleans()):
            fields.remove(("policy", dict(fields)["policy"]))  # who says which are dedicated has said it
    if spec.page_bytes:
        fields.append(("page_size", draw(_memory(spec.page_bytes))))
    if spec.uuid:
        fields.append(("uuid", draw(hs.sampled_from([_quoted(spec.uuid), _quoted(spec.uuid.upper())]))))
    if spec.memory_bytes:
        fields.append(("memory", draw(_memory(spec.memory_bytes))))
    return fields


def _vcpus(vcpus: tuple[int, ...]) -> hs.SearchStrategy[str]:
    return hs.sampled_from([str(list(vcpus)), str(list(vcpus[::-1])), _quoted(str(CpuSet(vcpus)))])


def _address(device: str) -> hs.SearchStrategy[str]:
    return hs.sampled_from([device, device.upper(), device.removeprefix("0000:")])


@hs.composite
def _affinity(draw: hs.DrawFn, one: Affinity) -> str:
    # an inline table stands on one line
    pairs = [f"guest = {_quoted(one.guest)}"]
    if one.level is not Place.NODE or draw(hs.booleans()):
        pairs.append(f"'level' = '{one.level}'")
    return f"{{ {', '.join(draw(hs.permutations(pairs)))} }}"


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
