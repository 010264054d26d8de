"""
Calls into other people's code: whatever goes wrong there becomes a PluginError with their name.

Rule: text of theirs (names, exceptions) is made printable before it is put anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from kvmaff.errors import PluginError
from kvmaff.kernel.text import printable

__all__ = ["Origin", "blamed", "clean", "failure"]

_LIMIT = 400


@attrs.frozen(kw_only=True)
class Origin:
    """
    Whose code it is.

    Attributes:
        name: The plug-in's name.
        distribution: The distribution that brought it, or None.
        version: That distribution's version, or None.
    """

    name: str
    distribution: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        if self.distribution is None:
            return f"plug-in {self.name!r}"
        version = f" {self.version}" if self.version else ""
        return f"plug-in {self.name!r} ({self.distribution}{version})"

    def error(self, what: str) -> PluginError:
        """
        Say what this plug-in did.

        Args:
            what: What it did, printable, to stand after its name and a colon.

        Returns:
            The error.
        """
        return PluginError(f"{self}: {what}", plugin=self.name)

    def strip(self, error: PluginError) -> str:
        """
        Say an error where this plug-in's name stands already.

        Args:
            error: The error.

        Returns:
            Its text without the name.
        """
        return error.message.removeprefix(f"{self}: ")


def clean(text: object, limit: int = _LIMIT) -> str:
    """
    Other people's text, fit for one line of a terminal.

    Args:
        text: Anything; what cannot even be made a text is named by its type.
        limit: How many characters to keep.

    Returns:
        One printable line.
    """
    try:
        raw = " ".join(str(text).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - __str__ is theirs too
        raw = f"({type(text).__name__} that has no text)"
    shown = printable(raw.encode("utf-8", "replace"), limit)
    return f"{shown[:-1]}…" if len(raw) > limit else shown


def failure(error: BaseException) -> str:
    """
    Say an exception of theirs in one line.

    Args:
        error: The exception.

    Returns:
        Its type and text.
    """
    kind, text = clean(type(error).__name__), clean(error)
    return f"{kind}: {text}" if text else kind


@contextlib.contextmanager
def blamed(origin: Origin, doing: str) -> Iterator[None]:
    """
    Run code of a plug-in.

    Args:
        origin: Whose code it is.
        doing: What it is asked for, as the beginning of a sentence.

    Yields:
        Nothing.

    Raises:
        PluginError: It failed, in whatever way: SystemExit and the panics of extensions are no Exception, and still
            are the plug-in's failure alone. KeyboardInterrupt is the user's, and passes.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise origin.error(f"{doing}: {failure(error)}") from error
