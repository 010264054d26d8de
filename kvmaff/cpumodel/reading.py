"""
What a QEMU binary knows of CPUs, read from it over QMP; nothing of its tables is ours.

* ``query-cpu-definitions``: the models, and what this host lacks for each.
* ``query-cpu-model-expansion`` of type ``static``: a model's features, all of them by one name each. Of named models it
  is not filtered by the host; of ``max`` it is, and so it says what the host can give. What ``max`` has with
  ``migratable=off`` only, a guest cannot take along.
* What depends on ``svm`` and ``vmx``: what goes when these alone go.

A model's vendor is told under TCG only: under KVM every model shows that of the host (QEMU target/i386/cpu.c,
x86_cpu_load_model).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import attrs

from kvmaff.cpumodel.binary import accelerator, asked, find_binary, need_x86
from kvmaff.cpumodel.cpuinfo import CPUINFO, address_bits
from kvmaff.cpumodel.model import CpuModel, HostCpu
from kvmaff.cpumodel.table import CpuModels
from kvmaff.errors import QemuError, QmpRefused, WrongUsage
from kvmaff.guest.checked import MOST_WRONG, flag, items, text
from kvmaff.guest.conversation import Conversation
from kvmaff.guest.plainly import plainly
from kvmaff.kernel.text import printable

__all__ = ["FEATURE", "MODEL", "VENDOR", "Expanded", "ask_models", "dependents", "expand", "expansion_of"]

FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
VENDOR = re.compile(r"[A-Za-z0-9 !-+.-/:;?@_-]{0,12}", re.ASCII)
"""CPUID's 12 characters, without those that part the words of a ``-cpu``."""
MOST_MODELS = 4096
MOST_FEATURES = 4096
_NUMBERS = ("family", "model", "stepping")
_LARGEST = 1 << 16
_INTEL_ONLY = "arch-capabilities"
"""KVM makes it up for other CPUs too; QEMU since 10.1 does not give it there, and some guests fail with it."""
_MOST_CPUINFO = 1 << 24


@attrs.frozen(kw_only=True)
class Expanded:
    """
    What a model is, as QEMU expands it.

    Attributes:
        features: What it has.
        names: What it could have.
        vendor: CPUID's 12 characters.
        family: Its CPU family.
        model: Its number in the family.
        stepping: Its stepping.
        title: Its name as the guest shows it.
    """

    features: frozenset[str]
    names: frozenset[str]
    vendor: str
    family: int
    model: int
    stepping: int
    title: str


def expansion_of(answer: object, wrong: list[str], where: str) -> Expanded | None:
    """
    Check an answer to ``query-cpu-model-expansion``.

    Args:
        answer: The answer.
        wrong: Where what is wrong is put.
        where: What to call it.

    Returns:
        What it says; None where something is wrong.
    """
    model = answer.get("model") if isinstance(answer, dict) else None
    props = model.get("props") if isinstance(model, dict) else None
    if not isinstance(props, dict) or len(props) > MOST_FEATURES:
        wrong.append(f"{where}: it has no properties, or more than {MOST_FEATURES}")
        return None
    before = len(wrong)
    numbers = [props.get(name) for name in _NUMBERS]
    for name, value in zip(_NUMBERS, numbers, strict=True):
        if type(value) is not int or not 0 <= value < _LARGEST:
            wrong.append(f"{where}: {name!r} is no number below {_LARGEST}")
    vendor, title = props.get("vendor"), props.get("model-id")
    if not isinstance(vendor, str) or not VENDOR.fullmatch(vendor):
        wrong.append(f"{where}: its vendor is none")
    if not isinstance(title, str) or len(title) > 64:
        wrong.append(f"{where}: its name is no text of at most 64 characters")
    flags = {name: value for name, value in props.items() if isinstance(value, bool)}
    if not all(FEATURE.fullmatch(name) for name in flags):
        wrong.append(f"{where}: a feature has no name")
    if len(wrong) > before:
        return None
    return Expanded(
        features=frozenset(name for name, value in flags.items() if value),
        names=frozenset(flags),
        vendor=str(vendor).strip(),
        family=_whole(numbers[0]),
        model=_whole(numbers[1]),
        stepping=_whole(numbers[2]),
        title=printable(str(title).encode(errors="replace"), 64).strip(),
    )


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


async def expand(qemu: Conversation, name: str, props: Mapping[str, object] | None = None) -> Expanded:
    """
    Ask what a model is.

    Args:
        qemu: The QEMU.
        name: The model.
        props: What is set otherwise than it is in the model, by property.

    Returns:
        What it is.

    Raises:
        QmpRefused: QEMU knows no such model or property.
        QemuError: What it answers cannot be true.
    """
    model: dict[str, object] = {"name": name, **({"props": dict(props)} if props else {})}
    answer = await qemu.ask("query-cpu-model-expansion", type="static", model=model)
    wrong: list[str] = []
    found = expansion_of(answer, wrong, f"model {name}")
    if found is None:
        raise _untrue(qemu, wrong)
    return found


def ask_models(
    binary: str | os.PathLike[str] | None = None, *, accel: str | None = None, machine: str = "none"
) -> CpuModels:
    """
    Read the models of a binary, and what this host can give them.

    Args:
        binary: A path, or a name in ``PATH``; None for the QEMU that is installed.
        accel: ``kvm`` or ``tcg``; None for KVM where this process may open /dev/kvm.
        machine: The machine type by which names without a version are resolved.

    Returns:
        Them.

    Raises:
        WrongUsage: There is no such accelerator.
        QemuError: The binary cannot be asked.
        Unsupported: It is for another architecture, or the library is not installed.
    """
    path = find_binary(binary)
    accel = accel or accelerator()
    if accel not in {"kvm", "tcg"}:
        raise WrongUsage.of([f"the accelerator is kvm or tcg, not {accel!r}"])
    return plainly(lambda: _read(path, accel, machine))


async def _read(binary: str, accel: str, machine: str) -> CpuModels:
    async with asked(binary, accel=accel, machine=machine) as qemu:
        found = await _read_all(qemu, binary, accel, machine)
    if accel == "tcg":
        return found
    try:
        async with asked(binary, accel="tcg", machine=machine) as qemu:
            vendors = {model.name: (await expand(qemu, model.name)).vendor for model in found.models}
    except QemuError as error:
        if "invalid accelerator" not in error.why:
            raise
        vendors = {}  # a binary without TCG
    models = (attrs.evolve(model, vendor=vendors.get(model.name)) for model in found.models)
    return attrs.evolve(found, models=tuple(models))


async def _read_all(qemu: Conversation, binary: str, accel: str, machine: str) -> CpuModels:
    wrong: list[str] = []
    target = await qemu.ask("query-target")
    arch = need_x86(binary, target.get("arch") if isinstance(target, dict) else None)
    version, package = _version(await qemu.ask("query-version"), wrong)
    listed = _listed(await qemu.ask("query-cpu-definitions"), wrong)
    default = _default(await qemu.ask("query-machines"), machine, listed)
    if wrong:
        raise _untrue(qemu, wrong)
    models: list[CpuModel] = []
    refused: list[tuple[str, str]] = []
    for name, about in listed.items():
        try:
            one = await expand(qemu, name)
        except QmpRefused as error:
            refused.append((name, error.reason))
            continue
        known = {key: about[key] for key in ("alias_of", "fixed", "deprecated", "unavailable")}
        values = attrs.asdict(one, filter=lambda field, _: field.name != "names")
        models.append(CpuModel(name=name, **known, **values))
    every = await expand(qemu, "max", {"migratable": False})
    movable = await expand(qemu, "max", {"migratable": True})
    made_up = frozenset[str]()
    if every.vendor != "GenuineIntel" and _INTEL_ONLY in every.features:
        made_up = (
            every.features - (await expand(qemu, "max", {"migratable": False, _INTEL_ONLY: False})).features
        )
    with_svm = await dependents(qemu, every.names, every.names & {"svm"})
    with_vmx = await dependents(qemu, every.names, every.names & {"vmx"})
    host = HostCpu(
        name="this host",
        arch=arch,
        accel=accel,
        source="qmp",
        qemu=version,
        kernel=os.uname().release,
        vendor=every.vendor,
        family=every.family,
        model=every.model,
        stepping=every.stepping,
        title=every.title,
        features=every.features,
        staying=every.features - movable.features | made_up,
        lacks=every.names - every.features,
        phys_bits=_phys_bits() if accel == "kvm" else None,
    )
    return CpuModels(
        binary=binary,
        version=version,
        package=package,
        accel=accel,
        machine=machine,
        host=host,
        models=tuple(sorted(models, key=lambda model: (model.name.casefold(), model.name))),
        names=every.names,
        with_svm=with_svm,
        with_vmx=with_vmx,
        default=default,
        refused=tuple(refused),
    )


def _phys_bits() -> int | None:
    try:
        with open(CPUINFO, "rb") as file:
            return address_bits(file.read(_MOST_CPUINFO))
    except OSError:
        return None


async def dependents(qemu: Conversation, names: frozenset[str], gone: frozenset[str]) -> frozenset[str]:
    """
    Say what goes with some features: what a CPU that has everything loses besides.

    Args:
        qemu: The QEMU.
        names: All features that it knows.
        gone: Some of them.

    Returns:
        The others that QEMU takes out with them.

    Raises:
        QemuError: What it answers cannot be true.
    """
    everything = dict.fromkeys(sorted(names), True)
    whole = await expand(qemu, "base", everything)
    less = await expand(qemu, "base", {**everything, **dict.fromkeys(sorted(gone), False)})
    return whole.features - less.features - gone


def _version(answer: object, wrong: list[str]) -> tuple[tuple[int, int, int], str]:
    said = answer.get("qemu") if isinstance(answer, dict) else None
    package = answer.get("package") if isinstance(answer, dict) else None
    numbers = [said.get(key) if isinstance(said, dict) else None for key in ("major", "minor", "micro")]
    if not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        wrong.append("its version is no version")
        return (0, 0, 0), ""
    name = printable(package.encode(errors="replace"), 128) if isinstance(package, str) else ""
    return (_whole(numbers[0]), _whole(numbers[1]), _whole(numbers[2])), name


def _listed(answer: object, wrong: list[str]) -> dict[str, dict[str, Any]]:
    """By name, what ``query-cpu-definitions`` says of each model."""
    found: dict[str, dict[str, Any]] = {}
    for where, item in items(answer, "model", MOST_MODELS, wrong):
        name = text(item, "name", where, wrong)
        alias = text(item, "alias-of", where, wrong) if "alias-of" in item else None
        kind = text(item, "typename", where, wrong)
        lacks = item.get("unavailable-features")
        if not all(one is None or MODEL.fullmatch(one) for one in (name, alias)):
            wrong.append(f"{where}: its name is none")
        if lacks is not None and not (
            isinstance(lacks, list) and all(isinstance(one, str) and FEATURE.fullmatch(one) for one in lacks)
        ):
            wrong.append(f"{where}: what it lacks is no list of features")
            lacks = None
        if name is None:
            continue
        if name in found:
            wrong.append(f"{where}: there are two models {name!r}")
        found[name] = {
            "alias_of": alias,
            "typename": kind,
            "fixed": flag(item, "migration-safe", where, wrong),
            "deprecated": flag(item, "deprecated", where, wrong),
            "unavailable": None if lacks is None else frozenset(lacks),
        }
    if not found and not wrong:
        wrong.append("it has no CPU model")
    return found


def _default(answer: object, machine: str, listed: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The model of a guest that asks for none, by the machine type; by the default one where that has no CPU."""
    names = {about["typename"]: name for name, about in reversed(tuple(listed.items()))}
    machines = [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
    chosen = [one for one in machines if machine in (one.get("name"), one.get("alias"))]
    for one in (*chosen, *(one for one in machines if one.get("is-default") is True)):
        kind = one.get("default-cpu-type")
        if isinstance(kind, str) and kind in names:
            return str(names[kind])
    return None


def _untrue(qemu: Conversation, wrong: list[str]) -> QemuError:
    more = f"; and {len(wrong) - MOST_WRONG} more" if len(wrong) > MOST_WRONG else ""
    why = f"what it answers cannot be true: {'; '.join(wrong[:MOST_WRONG])}{more}"
    return QemuError(f"{qemu.owner}: {why}", binary=qemu.owner, why=why)
