"""The command ``kvmaff``; needs the extra ``cli``."""

from __future__ import annotations

import io
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """
    Run the command line, or say what is missing for it.

    Raises:
        SystemExit: Always; 0 done, 1 cannot, 2 wrong usage.
    """
    try:
        from kvmaff.cli.app import app  # noqa: PLC0415 - click and rich are an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("kvmaff: the command line needs click and rich: pip install 'kvmaff[cli]'")
    except KeyboardInterrupt:
        sys.exit("\nAborted!")  # as click says it from here on
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # A hang-up or a kill half way must put things back as Ctrl-C does: an exception unwinds, a dead process does not.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)
    app(prog_name="kvmaff")


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)
