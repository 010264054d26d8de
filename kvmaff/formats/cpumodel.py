"""CPU models, baselines, groups, comparisons -> what JSON can hold; a contract, as in :mod:`kvmaff.formats.plain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kvmaff.cpumodel.baseline import Baseline
from kvmaff.cpumodel.compare import Comparison
from kvmaff.cpumodel.explain import Explained
from kvmaff.cpumodel.groups import Grouping
from kvmaff.cpumodel.level import level_name
from kvmaff.cpumodel.model import CpuModel, HostCpu, Verdict
from kvmaff.cpumodel.table import CpuModels, sorted_names
from kvmaff.cpumodel.words import in_words, level_in_words

__all__ = ["baseline_data", "comparison_data", "explained_data", "grouping_data", "models_list_data"]


def models_list_data(models: CpuModels, host: HostCpu, shown: Sequence[CpuModel]) -> dict[str, Any]:
    """
    Describe models, and whether a host can run them.

    Args:
        models: The binary's models.
        host: The host.
        shown: Those of them that are described.

    Returns:
        ``binary, version`` (major, minor, micro), ``accel, machine, host, default`` and ``models``: of each ``name,
        alias_of, vendor, family, model, stepping, title, level, deprecated, movable`` (whether a guest may move to
        another host), ``features, runs`` (null where nobody knows), ``missing, unknown`` and ``qemu_says`` (what QEMU
        itself misses here; null for another host).
    """
    here = host == models.host
    return {
        "binary": models.binary,
        "version": list(models.version),
        "accel": models.accel,
        "machine": models.machine,
        "host": host.name,
        "default": models.default,
        "models": [
            {
                "name": model.name,
                "alias_of": model.alias_of,
                "vendor": model.vendor,
                "family": model.family,
                "model": model.model,
                "stepping": model.stepping,
                "title": model.title,
                "level": level_name(model.level),
                "deprecated": model.deprecated,
                "movable": model.fixed,
                "features": _names(model.features),
                **_verdict(models.judge(model, host)),
                "qemu_says": _names(model.unavailable) if here and model.unavailable is not None else None,
            }
            for model in shown
        ],
    }


def baseline_data(found: Baseline, models: CpuModels) -> dict[str, Any]:
    """
    Describe a baseline.

    Args:
        found: It.
        models: The binary's models.

    Returns:
        ``cpu`` (what ``-cpu`` takes), ``model, added, removed, features, level, phys_bits``, ``hosts`` (of each
        ``host, lost, unnamed, level, level_kept``), ``blockers`` (by feature, ``lack`` and ``unknown``: hosts),
        ``defaults`` (of each of ``qemu64`` and the like ``model, lost, words``) and ``notes``.
    """
    return {
        "cpu": found.text,
        "model": found.model.name,
        "added": list(found.added),
        "removed": list(found.removed),
        "features": _names(found.features),
        "level": level_name(found.level),
        "phys_bits": found.phys_bits,
        "hosts": [
            {
                "host": one.host.name,
                "lost": _names(one.lost),
                "unnamed": _names(one.unnamed),
                "level": level_name(one.host.level),
                "level_kept": found.level >= one.host.level,
            }
            for one in found.hosts
        ],
        "blockers": {
            name: {"lack": list(lack), "unknown": list(unknown)} for name, lack, unknown in found.blockers
        },
        "defaults": [
            {
                "model": model.name,
                "lost": _names(found.lost_by(model)),
                "words": [
                    *level_in_words(found.level, model.level),
                    *(words for words, _ in in_words(found.lost_by(model))),
                ],
            }
            for model in models.defaults
        ],
        "notes": list(found.notes),
    }


def grouping_data(grouping: Grouping, found: Sequence[Baseline], models: CpuModels) -> dict[str, Any]:
    """
    Describe groups.

    Args:
        grouping: The groups.
        found: The baseline of each.
        models: The binary's models.

    Returns:
        ``fewest`` (whether it is proved that there are no fewer), and ``groups``: of each ``hosts`` (their names) and
        ``baseline``, as :func:`baseline_data` has it.
    """
    return {
        "fewest": grouping.fewest,
        "groups": [
            {"hosts": [host.name for host in hosts], "baseline": baseline_data(one, models)}
            for hosts, one in zip(grouping.groups, found, strict=True)
        ],
    }


def comparison_data(found: Comparison) -> dict[str, Any]:
    """
    Describe a comparison.

    Args:
        found: It.

    Returns:
        ``first, second`` (names), ``same`` (null where nobody knows), ``only_first, only_second, unknown_first,
        unknown_second`` and ``differences`` (``what, first, second`` of each).
    """
    return {
        "first": found.first.name,
        "second": found.second.name,
        "same": found.same,
        "only_first": _names(found.only_first),
        "only_second": _names(found.only_second),
        "unknown_first": _names(found.unknown_first),
        "unknown_second": _names(found.unknown_second),
        "differences": [
            {"what": what, "first": first, "second": second} for what, first, second in found.differences
        ],
    }


def explained_data(found: Explained) -> dict[str, Any]:
    """
    Describe an explanation.

    Args:
        found: It.

    Returns:
        ``cpu, model, alias_of, aliases, vendor, family, number, stepping, title, level, deprecated, movable,
        features, host, runs, missing, unknown`` and ``versions`` (of each ``name, more, less, runs, missing,
        unknown``).
    """
    model = found.model
    return {
        "cpu": found.text,
        "model": model.name,
        "alias_of": found.named.alias_of,
        "aliases": list(found.aliases),
        "vendor": model.vendor,
        "family": model.family,
        "number": model.model,
        "stepping": model.stepping,
        "title": model.title,
        "level": level_name(found.level),
        "deprecated": found.named.deprecated,
        "movable": found.named.fixed,
        "features": _names(found.features),
        "host": found.host.name,
        **_verdict(found.verdict),
        "versions": [
            {
                "name": one.model.name,
                "more": _names(one.more),
                "less": _names(one.less),
                **_verdict(one.verdict),
            }
            for one in found.versions
        ],
    }


def _names(names: Iterable[str]) -> list[str]:
    return list(sorted_names(names))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "runs": verdict.runs,
        "missing": _names(verdict.missing),
        "unknown": _names(verdict.unknown),
    }
