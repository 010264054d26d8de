"""Models, baselines, groups, comparisons -> tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.cpumodel.baseline import Baseline
from kvmaff.cpumodel.compare import Comparison
from kvmaff.cpumodel.explain import Explained
from kvmaff.cpumodel.groups import Grouping
from kvmaff.cpumodel.level import level_name
from kvmaff.cpumodel.model import CpuModel, HostCpu, Verdict
from kvmaff.cpumodel.table import CpuModels, sorted_names
from kvmaff.cpumodel.words import in_words, level_in_words

__all__ = [
    "baseline_lines",
    "comparison_lines",
    "default_lines",
    "explained_lines",
    "groups_line",
    "groups_table",
    "host_line",
    "losses_table",
    "models_table",
]

_NAMED = 8
"""Features that are named where a row has room for a few."""
_RUNS = {True: "yes", False: "no", None: "unknown"}


def models_table(models: CpuModels, host: HostCpu, shown: Sequence[CpuModel]) -> Table:
    """
    Show models, and whether a host can run them.

    Args:
        models: The binary's models.
        host: The host.
        shown: Those of them that are shown.

    Returns:
        A row for each.
    """
    version = ".".join(map(str, models.version))
    able = sum(models.judge(model, host).runs is True for model in shown)
    title = f"QEMU {version} under {models.accel.upper()}: {host.name} runs {able} of {len(shown)} models"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("is", no_wrap=True)
    table.add_column("vendor", no_wrap=True)
    table.add_column("level", no_wrap=True)
    table.add_column("runs")
    table.add_column("missing or unknown", overflow="fold")
    for model in shown:
        verdict = models.judge(model, host)
        remarks = [model.alias_of or ""]
        remarks += ["deprecated"] if model.deprecated else []
        remarks += ["the default"] if model.name == models.default else []
        remarks += [] if model.fixed else ["its host"]
        level = level_name(model.level).removeprefix("x86-64-") if model.level else "-"
        table.add_row(
            Text(model.name, style="bold" if verdict.runs else ""),
            Text(", ".join(filter(None, remarks))),
            Text(model.vendor or "-"),
            Text(level if model.fixed else "-"),
            Text(_RUNS[verdict.runs]),
            Text(_why(verdict, _NAMED)),
        )
    return table


def host_line(host: HostCpu) -> str:
    """
    Show what was captured of a host.

    Args:
        host: The host.

    Returns:
        A line.
    """
    signature = f"{host.vendor} family {host.family} model {host.model} stepping {host.stepping}"
    count = f"{len(host.features)} features, {level_name(host.level)}"
    by = (
        "from /proc/cpuinfo"
        if host.qemu is None
        else f"QEMU {'.'.join(map(str, host.qemu))}, {host.accel.upper()}"
    )
    return f"{host.title or 'a CPU without a name'} ({signature}): {count}; {by}"


def baseline_lines(found: Baseline) -> Iterator[str]:
    """
    Say what a baseline keeps and loses.

    Args:
        found: The baseline.

    Returns:
        Lines.
    """
    yield f"{len(found.features)} features, {level_name(found.level)}"
    if found.phys_bits is not None and found.phys_bits > 40 and found.model.fixed:
        yield f"addresses of 40 bits, as named models have; guests of more than 1 TiB: phys-bits={found.phys_bits}"
    if found.blockers:
        yield ""
        yield "what keeps the others out:"
        by: dict[str, list[str]] = {}
        for name, lack, unknown in found.blockers:
            says = [f"{', '.join(lack)} {'lacks' if len(lack) == 1 else 'lack'}"] if lack else []
            says += [f"of {', '.join(unknown)} nobody knows"] if unknown else []
            says = says or ["it depends on what is not shared, or cannot be told from what is:"]
            by.setdefault("; ".join(says), []).append(name)
        for who, names in by.items():
            yield f"  {who} {_some(names, 24)}"


def losses_table(found: Baseline) -> Table:
    """
    Show what each host's guests do without.

    Args:
        found: The baseline.

    Returns:
        A row for each host.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("host", overflow="fold")
    table.add_column("lost", justify="right")
    table.add_column("level")
    table.add_column("features lost", overflow="fold")
    for one in found.hosts:
        level = level_name(one.host.level)
        kept = "kept" if found.level >= one.host.level else f"fell to {level_name(found.level)}"
        lost = _some(sorted_names(one.lost), 16)
        if one.unnamed:
            lost += f"{'; ' if lost else ''}without a name in this QEMU: {_some(sorted_names(one.unnamed), _NAMED)}"
        table.add_row(Text(one.host.name), str(len(one.lost)), Text(f"{level}, {kept}"), Text(lost))
    return table


def default_lines(found: Baseline, models: CpuModels) -> Iterator[str]:
    """
    Say in words what guests of a default model do without.

    Args:
        found: The baseline.
        models: The binary's models.

    Returns:
        Lines.
    """
    for model in models.defaults:
        lost = found.lost_by(model)
        is_default = model.name == models.default
        what = " (which a guest gets that asks for none)" if is_default else ""
        if not lost:
            yield f"{model.name}{what} has all of it"
            continue
        yield f"{model.name}{what} has {len(lost)} features less{':' if is_default else ''}"
        if not is_default:
            continue
        for sentence in level_in_words(found.level, model.level):
            yield f"  {sentence}"
        for words, names in in_words(lost):
            yield f"  {words} ({_some(names, 6)})"


def groups_line(grouping: Grouping) -> str:
    """
    Say how many groups there are.

    Args:
        grouping: The groups.

    Returns:
        A line.
    """
    count = len(grouping.groups)
    few = "fewer are not possible" if grouping.fewest else "fewer may be possible"
    return f"{count} group{'' if count == 1 else 's'}; within this budget {few}"


def groups_table(grouping: Grouping, found: Sequence[Baseline]) -> Table:
    """
    Show groups of hosts.

    Args:
        grouping: The groups.
        found: The baseline of each.

    Returns:
        A row for each, numbered from 1.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", justify="right")
    table.add_column("hosts", overflow="fold")
    table.add_column("lost by a host", justify="right")
    table.add_column("level", no_wrap=True)
    for number, (hosts, one) in enumerate(zip(grouping.groups, found, strict=True), 1):
        lost = [len(loss.lost) for loss in one.hosts]
        span = str(max(lost)) if min(lost) == max(lost) else f"{min(lost)} to {max(lost)}"
        names = ", ".join(host.name for host in hosts)
        table.add_row(str(number), Text(names), span, Text(level_name(one.level)))
    return table


def comparison_lines(found: Comparison) -> Iterator[str]:
    """
    Say in what two hosts differ.

    Args:
        found: The comparison.

    Returns:
        Lines.
    """
    first, second = found.first.name, found.second.name
    for what, one, other in found.differences:
        yield f"{what}: {one} on {first}, {other} on {second}"
    for name, other, only, unknown in (
        (first, second, found.only_first, found.unknown_second),
        (second, first, found.only_second, found.unknown_first),
    ):
        if only:
            yield f"only {name}, {len(only)}:"
            for words, names in in_words(only):
                yield f"  {words}: {', '.join(names)}"
        if unknown:
            yield f"{name}, and of {other} nobody knows, {len(unknown)}: {', '.join(sorted_names(unknown))}"
    if found.same:
        yield "a guest sees no difference: it may move both ways, with -cpu host,migratable=on too"
    elif found.same is None:
        yield "whether a guest sees a difference cannot be told: not all is known of both"
        yield "for guests that move: kvmaff cpumodel baseline FILE FILE"
    elif not (found.only_first or found.only_second or found.unknown_first or found.unknown_second):
        yield "both can give the same features; a guest of -cpu host sees which of them it is on"
    else:
        yield "for guests that move: kvmaff cpumodel baseline FILE FILE"


def explained_lines(found: Explained, models: CpuModels) -> Iterator[str]:
    """
    Explain a ``-cpu``.

    Args:
        found: The explanation.
        models: The binary's models.

    Returns:
        Lines.
    """
    model, named = found.model, found.named
    whole = named.name != found.text
    if named.name != model.name:
        where = f"machine type {models.machine}; other machine types may take another version"
        yield f"{named.name} is {model.name} ({where})"
    if found.aliases:
        yield f"also called {', '.join(found.aliases)}"
    if model.fixed:
        who = f"{model.vendor or 'vendor not told'} family {model.family} model {model.model} stepping {model.stepping}"
        yield f"{model.title} ({who})"
    else:
        yield "what this host can give: a guest of it moves to hosts that are the same, if at all"
    yield f"{level_name(found.level)}, {len(found.features)} features{' with what was said' if whole else ''}"
    if named.deprecated:
        yield "deprecated: QEMU will drop it"
    if named.name == models.default:
        yield "the default: what a guest gets that asks for none"
    verdict = found.verdict
    yield f"runs on {found.host.name}: {_RUNS[verdict.runs]}"
    for what, names in (("missing", verdict.missing), ("unknown", verdict.unknown)):
        if names:
            yield f"{what}, {len(names)}: {', '.join(sorted_names(names))}"
    if verdict.missing:
        yield "without enforce QEMU warns, and starts the guest without these"
    for one in found.versions:
        says = [f"+ {_some(sorted_names(one.more), 12)}"] if one.more else []
        says += [f"- {_some(sorted_names(one.less), 12)}"] if one.less else []
        runs = _RUNS[one.verdict.runs]
        yield f"{one.model.name}: {'; '.join(says) or 'the same features'}; runs: {runs}"


def _why(verdict: Verdict, most: int) -> str:
    said = []
    if verdict.missing:
        said.append(_some(sorted_names(verdict.missing), most))
    if verdict.unknown:
        said.append(f"unknown: {_some(sorted_names(verdict.unknown), most)}")
    return "; ".join(said)


def _some(names: Iterable[str], most: int) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
