"""The one importer of the procscan extension."""

from __future__ import annotations

try:
    from kvmaff.kernel._procscan import ffi, lib
except ModuleNotFoundError as error:
    if error.name != "kvmaff.kernel._procscan":
        raise
    raise ImportError(
        "kvmaff's C extension is not built here: this is probably its source folder, which hides the installed "
        "package. Run Python from another folder, or install with pip install -e ."
    ) from error

__all__ = ["ffi", "lib"]
