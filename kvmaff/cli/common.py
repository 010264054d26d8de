"""What every command shares: options, errors, and where output goes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import click
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from kvmaff.binding.journal import Journal
from kvmaff.binding.report import Report
from kvmaff.errors import BindingFailed, KvmaffError, RequestError, SpecError, SpecMismatch, WrongUsage
from kvmaff.formats.plain import report_data
from kvmaff.report.tables import report_table

__all__ = [
    "Group",
    "console",
    "exit_code",
    "finish_binding",
    "json_errors",
    "json_option",
    "print_json",
    "progress_on",
    "root_option",
    "say",
    "state_option",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def _root(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value:
        # an empty path would be the folder that happens to be the current one
        raise click.BadParameter("no path is given; / is this machine")
    try:
        os.stat(value)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise click.BadParameter(f"there is no {value!r}") from None
    except OSError:
        pass  # it is there, and reading it says why that cannot be done
    return value


root_option = click.option(
    "--root",
    callback=_root,
    default="/",
    metavar="PATH",
    show_default=True,
    help="Another machine: a file made by kvmaff capture, or its sys and proc recorded, as a folder or packed.",
)


def _journal(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Journal:
    return Journal(value)


state_option = click.option(
    "--state-dir",
    "journal",
    metavar="DIR",
    callback=_journal,
    help="Where the records that undo needs are kept.  "
    "[default: $KVMAFF_STATE_DIR, else /var/lib/kvmaff for root, ~/.local/state/kvmaff for others]",
)


def exit_code(error: KvmaffError) -> int:
    """
    Tell wrong usage from what cannot be done; no other place decides that.

    Args:
        error: What went wrong.

    Returns:
        2 for what was typed or written wrongly whatever the machine is, 1 for what this machine, its guests or its
        kernel cannot do. What click refuses has 2 as well.
    """
    if isinstance(error, SpecMismatch):
        return 1
    return 2 if isinstance(error, WrongUsage | SpecError) else 1


class Group(click.Group):
    """The commands; what kvmaff raises on purpose becomes a message and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """
        Run the command.

        Args:
            context: Click's.

        Returns:
            What the command returns.

        Raises:
            Exit: With 1 or 2, after saying what went wrong.
        """
        try:
            return super().invoke(context)
        except KvmaffError as error:
            say(str(error))
            raise click.exceptions.Exit(exit_code(error)) from error
        except BrokenPipeError:
            raise  # click's: the reader went away
        except OSError as error:
            say(f"{error.filename or 'output'}: {error.strerror}")
            raise click.exceptions.Exit(1) from error


def console() -> Console:
    """
    Where tables go.

    Returns:
        A console on standard output: the terminal's width, or one that cuts nothing off when it is a pipe.
    """
    if sys.stdout is None:
        return Console(file=io.StringIO())  # closed by whoever started us: nobody reads it
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=160, color_system=None)


def progress_on(*columns: ProgressColumn) -> Progress:
    """
    Show how far something long is, while it lasts.

    Args:
        columns: What is shown.

    Returns:
        On standard error, and only where that is a terminal.
    """
    shown = sys.stderr is not None and sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


@contextlib.contextmanager
def json_errors(empty: dict[str, Any], *, as_json: bool) -> Iterator[None]:
    """
    Let a program that asked for JSON get JSON, also where there is no answer.

    Args:
        empty: The shape of the answer, without anything in it.
        as_json: Whether JSON was asked for.

    Returns:
        A context manager; what is raised in it goes on, after ``errors`` was printed.
    """
    try:
        yield
    except KvmaffError as error:
        if as_json:
            print_json({**empty, "errors": str(error).splitlines()})
        raise


def say(message: str) -> None:
    """
    Tell the person at the shell what went wrong, on standard error.

    Args:
        message: One sentence a line.
    """
    for line in message.splitlines():
        text = "".join(char if char.isprintable() else "?" for char in line)
        with contextlib.suppress(OSError):
            click.echo(f"kvmaff: {text}", err=True)


def print_json(data: object) -> None:
    """
    Print a value as JSON on standard output.

    Args:
        data: What JSON can hold.
    """
    click.echo(json.dumps(data, indent=2))


def finish_binding(call: Callable[[], Report], *, as_json: bool) -> None:
    """
    Run a call that binds, and show what it did, whether it worked or not.

    Args:
        call: The call.
        as_json: Print JSON instead of a table.

    Raises:
        Exit: With 1 or 2, where not everything was done.
    """
    errors: tuple[str, ...] = ()
    code = 1
    try:
        report = call()
    except BindingFailed as error:
        report, errors = error.report, tuple(error.message.splitlines())
    except KvmaffError as error:
        report, code = Report(ok=False, threads=()), exit_code(error)
        errors = error.problems if isinstance(error, RequestError) else tuple(str(error).splitlines())
    if not errors and not report.ok:
        errors = report.problems
    try:
        if as_json:
            print_json({**report_data(report), "errors": list(errors)})
        elif report.threads:
            console().print(report_table(report))
    except BrokenPipeError:
        raise
    except OSError as error:
        undo = f"; kvmaff undo {report.journal} undoes it" if report.journal else ""
        said = f"{report.changed} threads were changed{undo}, but that could not be printed: {error.strerror}"
        errors, report = (*errors, said), attrs.evolve(report, ok=False)
    for line in errors:
        say(line)
    if not report.ok:
        raise click.exceptions.Exit(code)
