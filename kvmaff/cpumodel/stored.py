"""
Hosts' and models' CPUs as JSON, and back with everything checked: a file is input, whoever wrote it.

All that is wrong with a host's file is told at once. The shape of a host is a contract: hosts captured today are
compared with hosts captured later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from kvmaff.cpumodel.model import CpuModel, HostCpu
from kvmaff.cpumodel.reading import FEATURE, MODEL, MOST_FEATURES, VENDOR
from kvmaff.cpumodel.table import CpuModels, sorted_names
from kvmaff.kernel.text import printable

__all__ = ["FORMAT", "host_data", "host_from", "models_data", "models_from"]

FORMAT = 1
_LARGEST = 1 << 16
_ARCHES = ("x86_64", "i386")
_ACCELS = ("kvm", "tcg")
_SOURCES = ("qmp", "cpuinfo")
_T = TypeVar("_T")


def host_data(host: HostCpu) -> dict[str, Any]:
    """
    Describe a host.

    Args:
        host: It.

    Returns:
        ``kvmaff`` and ``format`` (what it is), ``arch``, ``accel``, ``source``, ``qemu`` (major, minor, micro, or
        null), ``kernel``, ``phys_bits`` (or null), ``vendor``, ``family``, ``model``, ``stepping``, ``title``, and of
        features by QEMU's names ``features`` (it can give them), ``staying`` (those of them that cannot move) and
        ``lacks``.
    """
    sets = ("features", "staying", "lacks")
    plain = attrs.asdict(host, filter=lambda field, _: field.name not in {*sets, "name"})
    plain["qemu"] = None if host.qemu is None else list(host.qemu)
    return {
        "kvmaff": "host cpu",
        "format": FORMAT,
        **plain,
        **{name: list(sorted_names(getattr(host, name))) for name in sets},
    }


def host_from(data: object, name: str) -> HostCpu:
    """
    Read a host's description.

    Args:
        data: What JSON held.
        name: What to call the host.

    Returns:
        The host.

    Raises:
        ValueError: It is damaged; an argument for each thing that is wrong.
    """
    if not isinstance(data, dict) or data.get("kvmaff") != "host cpu":
        raise ValueError("is no capture of a host's CPU (kvmaff cpumodel host writes one)")
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        said = json.dumps(data.get("format"))[:16]
        raise ValueError(
            f"is of format {printable(said.encode())}; this kvmaff reads {FORMAT}: update the older one"
        )
    wrong: list[str] = []
    values = {key: _taken(data, key, check, wrong) for key, check in _HOST.items()}
    strange = [key for key in data if key not in _HOST and key not in {"kvmaff", "format"}]
    wrong += [
        f"{printable(str(key).encode(errors='replace'), 32)!r} is no field of it" for key in strange[:6]
    ]
    if wrong:
        raise ValueError(*wrong)
    features, staying, lacks = values["features"], values["staying"], values["lacks"]
    if twice := features & lacks:
        wrong.append(f"it has and lacks {_some(twice)}")
    if odd := staying - features:
        wrong.append(f"'staying' has what 'features' has not: {_some(odd)}")
    if (values["source"] == "qmp") != (values["qemu"] is not None):
        wrong.append("'qemu' is the version of the QEMU that was asked, and null where none was")
    if values["source"] == "cpuinfo" and lacks:
        wrong.append("'lacks' has features, which /proc/cpuinfo never tells")
    if wrong:
        raise ValueError(*wrong)
    return HostCpu(name=name, **values)


def models_data(models: CpuModels) -> dict[str, Any]:
    """
    Describe a binary's models.

    Args:
        models: They.

    Returns:
        What JSON can hold.
    """
    data = attrs.asdict(models, recurse=False)
    return {
        **data,
        "version": list(models.version),
        "host": host_data(models.host),
        "models": [_model_data(model) for model in models.models],
        "refused": [list(pair) for pair in models.refused],
        **{name: list(sorted_names(data[name])) for name in ("names", "with_svm", "with_vmx")},
    }


def models_from(data: object) -> CpuModels:
    """
    Read the description of a binary's models.

    Args:
        data: What JSON held.

    Returns:
        The models.

    Raises:
        ValueError: It is damaged.
    """
    if not isinstance(data, dict):
        raise ValueError("is no description of models")  # noqa: TRY004 - all damage is one kind of error
    wrong: list[str] = []
    values = {key: _taken(data, key, check, wrong) for key, check in _MODELS.items()}
    if wrong:
        raise ValueError(*wrong)
    return CpuModels(host=host_from(data.get("host"), "this host"), **values)


def _model_data(model: CpuModel) -> dict[str, Any]:
    lacks = model.unavailable
    return {
        **attrs.asdict(model, recurse=False),
        "features": list(sorted_names(model.features)),
        "unavailable": None if lacks is None else list(sorted_names(lacks)),
    }


def _taken(data: Mapping[str, Any], key: str, check: Callable[[Any], _T], wrong: list[str]) -> Any:
    if key not in data:
        wrong.append(f"{key!r} is missing")
        return None
    try:
        return check(data[key])
    except ValueError as error:
        wrong.append(f"{key!r} {error}")
        return None


def _some(names: frozenset[str]) -> str:
    told = sorted(names)
    return ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError(f"is no whole number below {_LARGEST}")
    return value


def _bits(value: Any) -> int:
    if type(value) is not int or not 32 <= value <= 64:
        raise ValueError("is no number of bits from 32 to 64")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 512 or not (value.isprintable()):
        raise ValueError("is no printable text of at most 512 characters")
    return value


def _vendor(value: Any) -> str:
    if not isinstance(value, str) or not VENDOR.fullmatch(value):
        raise ValueError("is no vendor: 12 characters at most, as GenuineIntel")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is no true or false")  # noqa: TRY004 - all damage is one kind of error
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"is one of {', '.join(words)}")
        return str(value)

    return check


def _or_none(check: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else check(value)


def _features(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > MOST_FEATURES:
        raise ValueError(f"is no list of at most {MOST_FEATURES} features")
    if not all(isinstance(name, str) and FEATURE.fullmatch(name) for name in value):
        raise ValueError("has an item that is no feature's name")
    return frozenset(value)


def _version(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("is no version: three numbers")
    major, minor, micro = map(_number, value)
    return major, minor, micro


def _name(value: Any) -> str:
    if not isinstance(value, str) or not MODEL.fullmatch(value):
        raise ValueError("is no model's name")
    return value


def _models(value: Any) -> tuple[CpuModel, ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("is no list of models")
    wrong: list[str] = []
    some = [{key: _taken(one, key, check, wrong) for key, check in _MODEL.items()} for one in value]
    if wrong:
        raise ValueError(wrong[0])
    return tuple(CpuModel(**one) for one in some)


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError("is no list of pairs")
    return tuple((_name(name), _text(why)) for name, why in value)


_CPU: dict[str, Callable[[Any], Any]] = {
    "family": _number,
    "model": _number,
    "stepping": _number,
    "title": _text,
    "features": _features,
}
_HOST: dict[str, Callable[[Any], Any]] = {
    "arch": _one_of(*_ARCHES),
    "accel": _one_of(*_ACCELS),
    "source": _one_of(*_SOURCES),
    "qemu": _or_none(_version),
    "kernel": _text,
    "phys_bits": _or_none(_bits),
    "vendor": _vendor,
    **_CPU,
    "staying": _features,
    "lacks": _features,
}
_MODEL: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "alias_of": _or_none(_name),
    "vendor": _or_none(_vendor),
    **_CPU,
    "fixed": _flag,
    "deprecated": _flag,
    "unavailable": _or_none(_features),
}
_MODELS: dict[str, Callable[[Any], Any]] = {
    "binary": _text,
    "version": _version,
    "package": _text,
    "accel": _one_of(*_ACCELS),
    "machine": _text,
    "models": _models,
    "names": _features,
    "with_svm": _features,
    "with_vmx": _features,
    "default": _or_none(_name),
    "refused": _pairs,
}
