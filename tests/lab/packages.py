"""
Debian packages, downloaded and looked into; nothing is installed, and no right is needed.

The system's own package lists are asked first. Where they are missing or too old for the archive, lists of the
lab's own are fetched into its cache, by the system's sources and keys: the system's stay as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import LabUnavailable

__all__ = ["Apt", "newest", "read_deb"]

_PATIENCE = ("Acquire::Retries=2", "Acquire::http::Timeout=20", "Acquire::https::Timeout=20")
_SECONDS = 600
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")


class Apt:
    """
    Debian's archive, as seen from here.

    Args:
        own: A folder for package lists of the lab's own.

    Raises:
        LabUnavailable: This is no Debian.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._options: tuple[str, ...] = ()
        self._renewed = "with fresh package lists too"
        missing = [tool for tool in _TOOLS if not shutil.which(tool)]
        if missing:
            raise LabUnavailable(
                f"{', '.join(missing)} not found: kernels for the lab come from Debian packages"
            )

    def download(self, wanted: str, into: Path) -> Path:
        """
        Download the newest package of a name.

        Args:
            wanted: Of the name, a regular expression that begins with literal text.
            into: An empty folder, for the package.

        Returns:
            The package.

        Raises:
            LabUnavailable: There is none, or it cannot be had.
        """
        why = ""
        for renew in (False, True):
            if renew:
                self._renew()
            name = newest(self._names(wanted), wanted)
            if name is None:
                why = f"no package {_literal(wanted)}…"
                continue
            # _apt, apt's own user, may not write where we may
            words = ["-qq", "-o", "APT::Sandbox::User=root", "download", name]
            done = self._run("apt-get", *words, cwd=into)
            found = list(into.glob("*.deb"))
            if done.returncode == 0 and len(found) == 1:
                return found[0]
            for part in found:
                part.unlink()
            why = f"apt-get download {name}: {_last_line(done.stderr)}"
        raise LabUnavailable(f"{why}; {self._renewed}")

    def _names(self, wanted: str) -> list[str]:
        return self._run("apt-cache", "pkgnames", _literal(wanted)).stdout.split()

    def _renew(self) -> None:
        """Fetch package lists of our own, and go by them from now on."""
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._own / folder).mkdir(parents=True, exist_ok=True)
        self._options = (f"Dir::State::lists={self._own}/lists", f"Dir::Cache={self._own}/cache")
        done = self._run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "update")
        if done.stderr.strip():  # it succeeds also where it cannot fetch anything
            self._renewed = f"apt-get update: {_last_line(done.stderr)}"

    def _run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program, *rest = words
        options = [word for option in (*_PATIENCE, *self._options) for word in ("-o", option)]
        try:
            return subprocess.run(
                [program, *options, *rest],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise LabUnavailable(f"{program} {' '.join(rest)}: took longer than {_SECONDS} s") from None


def newest(names: list[str], wanted: str) -> str | None:
    """
    Return the name with the highest numbers of those that fit.

    Args:
        names: Names of packages.
        wanted: A regular expression for the whole name.

    Returns:
        The name, or None.
    """

    def numbers(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name)]

    return max((name for name in names if re.fullmatch(wanted, name)), key=numbers, default=None)


def read_deb(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """
    Yield files of a package as (path without a slash in front, content).

    Args:
        package: The package.
        wanted: Which paths.

    Raises:
        LabUnavailable: It is broken.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacking:
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    content = archive.extractfile(member) if member.isfile() and wanted(path) else None
                    if content is not None:
                        yield path, content.read()
        except tarfile.TarError as error:
            raise LabUnavailable(f"{package.name} is broken: {error}") from error
        finally:
            unpacking.kill()


def _literal(wanted: str) -> str:
    """Return the text that a regular expression begins with."""
    return "".join(re.findall(r"(?:[\w-]|\\\.)+", wanted)[:1]).replace("\\", "")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
