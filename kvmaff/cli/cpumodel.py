"""``kvmaff cpumodel``: CPU models, what hosts can run, and the richest model that a group of hosts shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kvmaff.cli.common import console, json_errors, json_option, print_json, say
from kvmaff.cpumodel.baseline import baseline as find_baseline
from kvmaff.cpumodel.baseline import baselines, kept_names
from kvmaff.cpumodel.cache import read_cpu_models
from kvmaff.cpumodel.compare import compare_hosts
from kvmaff.cpumodel.explain import explain_cpu
from kvmaff.cpumodel.groups import group_hosts
from kvmaff.cpumodel.hostinfo import read_host_cpu
from kvmaff.cpumodel.table import CpuModels
from kvmaff.formats.cpumodel import (
    baseline_data,
    comparison_data,
    explained_data,
    grouping_data,
    models_list_data,
)
from kvmaff.formats.hostcpu import host_cpu_text, load_host_cpu, load_host_cpus, save_host_cpu
from kvmaff.report.cpumodel import (
    baseline_lines,
    comparison_lines,
    default_lines,
    explained_lines,
    groups_line,
    groups_table,
    host_line,
    losses_table,
    models_table,
)

__all__ = ["cpumodel"]

_T = TypeVar("_T", bound=Callable[..., Any])


def _qemu_options(command: _T) -> _T:
    """Which QEMU, and how it is asked."""
    for option in (
        click.option("--fresh", is_flag=True, help="Ask QEMU anew, also where its answers are kept."),
        click.option(
            "--machine",
            default="none",
            metavar="TYPE",
            help="The machine type that decides what a name without a version means, as microvm.",
        ),
        click.option(
            "--accel",
            type=click.Choice(["kvm", "tcg"]),
            help="What runs the guests.  [default: kvm where /dev/kvm may be opened]",
        ),
        click.option(
            "--qemu", "binary", metavar="PATH", help="The QEMU binary.  [default: the one that is installed]"
        ),
    ):
        command = option(command)
    return command


_files = click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
_without = click.option(
    "--without",
    multiple=True,
    metavar="FEATURE",
    help="Leave it out, and what QEMU takes out with it; may be repeated.",
)
_no_nested = click.option(
    "--no-nested", is_flag=True, help="Leave out what guests need for guests of their own (vmx, svm)."
)
_cross_vendor = click.option(
    "--cross-vendor", is_flag=True, help="Allow hosts of different vendors together."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cpumodel() -> None:
    """
    Which CPU models can hosts run, and what is the richest one that a group of hosts shares?

    Everything is asked of the QEMU binary; it needs pip install 'kvmaff[qmp]'.

    \b
    Examples:
      kvmaff cpumodel list --runnable
      kvmaff cpumodel host alpha.json
      kvmaff cpumodel baseline alpha.json beta.json gamma.json
    """


@cpumodel.command("list")
@click.option(
    "--host", "file", type=click.Path(), metavar="FILE", help="Another host, captured by cpumodel host."
)
@click.option("--runnable", is_flag=True, help="Only models that it runs.")
@_qemu_options
@json_option
def list_models(
    file: str | None,
    binary: str | None,
    accel: str | None,
    machine: str,
    *,
    runnable: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """
    Show the models of this QEMU, and which of them run here.

    For the others it says what is missing; of another host (--host) as far as its capture knows.

    \b
    Examples:
      kvmaff cpumodel list
      kvmaff cpumodel list --runnable --accel tcg
      kvmaff cpumodel list --host beta.json --json
    """
    empty = {
        "binary": None,
        "version": None,
        "accel": accel,
        "machine": machine,
        "host": None,
        "default": None,
    }
    with json_errors({**empty, "models": []}, as_json=as_json):
        other = None if file is None else load_host_cpu(file)
        by = _accel_for((other,) if other else (), accel)
        models = read_cpu_models(binary, accel=by, machine=machine, fresh=fresh)
        host = other or models.host
        models.fits(host)
        shown = [model for model in models.models if not runnable or models.judge(model, host).runs]
        data = models_list_data(models, host, shown)
    if as_json:
        print_json(data)
    else:
        console().print(models_table(models, host, shown))
        _tell_accel(models, by)
    for name, why in models.refused:
        say(f"{name}: QEMU lists it and does not expand it: {why}")


@cpumodel.command("host")
@click.argument("file", type=click.Path())
@click.option(
    "--from",
    "source",
    type=click.Choice(["qmp", "cpuinfo"]),
    default="qmp",
    show_default=True,
    help="What is asked: QEMU, or /proc/cpuinfo where there is none, which shows little.",
)
@_qemu_options
@json_option
def capture_host(
    file: str,
    source: str,
    binary: str | None,
    accel: str | None,
    machine: str,
    *,
    fresh: bool,
    as_json: bool,
) -> None:
    """
    Capture what this host can give its guests' CPUs.

    FILE is a small JSON; - prints it. Carry the files of a group's hosts to one place for cpumodel baseline, group and
    compare.

    \b
    Examples:
      kvmaff cpumodel host $(hostname -s).json
      ssh beta kvmaff cpumodel host - > beta.json
      kvmaff cpumodel host old.json --from cpuinfo
    """
    with json_errors({"file": file}, as_json=as_json):
        host = read_host_cpu(binary, source=source, accel=accel, machine=machine, fresh=fresh)
        if file == "-":
            click.echo(host_cpu_text(host), nl=False)
            return
        save_host_cpu(host, file)
    if as_json:
        print_json({"file": file, "features": len(host.features), "source": host.source, "accel": host.accel})
    else:
        click.echo(f"{file}: {host_line(host)}")
        if not host.features:
            say(
                "note: it shows neither vmx nor svm, so nothing is known of what KVM gives here; ask QEMU (--from qmp)"
            )
        if host.accel == "tcg":
            say("this is what TCG can give: /dev/kvm cannot be opened, or --accel said so")


@cpumodel.command("baseline")
@_files
@click.option(
    "--model", metavar="NAME", help="The model to begin with.  [default: what needs the fewest words]"
)
@_cross_vendor
@_without
@_no_nested
@click.option("--quiet", "-q", is_flag=True, help="Print what -cpu takes and nothing else.")
@_qemu_options
@json_option
def baseline(
    files: tuple[str, ...],
    model: str | None,
    without: tuple[str, ...],
    binary: str | None,
    accel: str | None,
    machine: str,
    *,
    cross_vendor: bool,
    no_nested: bool,
    quiet: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """
    Find the richest -cpu that all hosts run.

    Guests of it can move between them. The result is expanded by QEMU and held against each host. Guests that run
    already keep what they have.

    \b
    Examples:
      kvmaff cpumodel baseline alpha.json beta.json gamma.json
      qemu-system-x86_64 -cpu "$(kvmaff cpumodel baseline -q *.json)" ...
    """
    with json_errors({"cpu": None, "hosts": []}, as_json=as_json):
        hosts = load_host_cpus(files)
        models = read_cpu_models(binary, accel=_accel_for(hosts, accel), machine=machine, fresh=fresh)
        found = find_baseline(
            hosts, models, model=model, cross_vendor=cross_vendor, nested=not no_nested, without=without
        )
    if as_json:
        print_json(baseline_data(found, models))
        return
    click.echo(found.text)
    if not quiet:
        for line in baseline_lines(found):
            click.echo(line)
        console().print(losses_table(found))
        for line in default_lines(found, models):
            click.echo(line)
    for note in found.notes:
        say(f"note: {note}")


@cpumodel.command("group")
@_files
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many features guests on any host may do without.",
)
@click.option("--keep-level", is_flag=True, help="Let no host's guests fall below its x86-64 psABI level.")
@_cross_vendor
@_without
@_no_nested
@_qemu_options
@json_option
def group(
    files: tuple[str, ...],
    budget: int,
    without: tuple[str, ...],
    binary: str | None,
    accel: str | None,
    machine: str,
    *,
    keep_level: bool,
    cross_vendor: bool,
    no_nested: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """
    Put hosts into groups in which guests can move.

    They are the fewest within the budget; for each the -cpu is said, as cpumodel baseline finds it.

    \b
    Examples:
      kvmaff cpumodel group rack1/*.json
      kvmaff cpumodel group *.json --budget 10 --keep-level
    """
    with json_errors({"fewest": None, "groups": []}, as_json=as_json):
        hosts = load_host_cpus(files)
        models = read_cpu_models(binary, accel=_accel_for(hosts, accel), machine=machine, fresh=fresh)
        names = kept_names(models, without=without, nested=not no_nested)
        grouping = group_hosts(
            hosts, budget=budget, names=names, keep_level=keep_level, cross_vendor=cross_vendor
        )
        found = baselines(
            grouping.groups, models, cross_vendor=cross_vendor, nested=not no_nested, without=without
        )
    if as_json:
        print_json(grouping_data(grouping, found, models))
        return
    click.echo(groups_line(grouping))
    console().print(groups_table(grouping, found))
    for number, one in enumerate(found, 1):
        click.echo(f"{number}: {one.text}")
    for note in dict.fromkeys(note for one in found for note in one.notes):
        say(f"note: {note}")


@cpumodel.command("compare")
@click.argument("first", type=click.Path(), metavar="FILE")
@click.argument("second", type=click.Path(), metavar="FILE")
@json_option
def compare(first: str, second: str, *, as_json: bool) -> None:
    """
    Say what guests lose between two hosts.

    On the way from one to the other, and back. Needs no QEMU.

    \b
    Example:
      kvmaff cpumodel compare alpha.json beta.json
    """
    with json_errors({"first": None, "second": None, "same": None}, as_json=as_json):
        found = compare_hosts(*load_host_cpus([first, second]))
    if as_json:
        print_json(comparison_data(found))
        return
    for line in comparison_lines(found):
        click.echo(line)


@cpumodel.command("explain")
@click.argument("model")
@click.option(
    "--host", "file", type=click.Path(), metavar="FILE", help="Another host, captured by cpumodel host."
)
@_qemu_options
@json_option
def explain(
    model: str,
    file: str | None,
    binary: str | None,
    accel: str | None,
    machine: str,
    *,
    fresh: bool,
    as_json: bool,
) -> None:
    """
    Explain MODEL, or all that a -cpu says.

    What it stands for, what it has, its other versions, and why a host does not run it.

    \b
    Examples:
      kvmaff cpumodel explain EPYC
      kvmaff cpumodel explain Skylake-Server-v4,+pdpe1gb,-avx512f
      kvmaff cpumodel explain Haswell --host beta.json
    """
    with json_errors({"cpu": model, "model": None}, as_json=as_json):
        host = None if file is None else load_host_cpu(file)
        by = _accel_for((host,) if host else (), accel)
        models = read_cpu_models(binary, accel=by, machine=machine, fresh=fresh)
        found = explain_cpu(model, models, host=host)
    if as_json:
        print_json(explained_data(found))
        return
    for line in explained_lines(found, models):
        click.echo(line)
    _tell_accel(models, by)


def _accel_for(hosts: tuple[Any, ...], said: str | None) -> str | None:
    """Hosts that run guests by TCG are held against models of TCG."""
    return said or ("tcg" if {host.accel for host in hosts} == {"tcg"} else None)


def _tell_accel(models: CpuModels, said: str | None) -> None:
    if models.accel == "tcg" and said is None:
        say(
            "note: /dev/kvm cannot be opened here, so this is what guests get under TCG; KVM gives them something else"
        )
