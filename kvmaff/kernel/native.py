"""The one importer of the procscan extension."""

from __future__ import annotations

from kvmaff.kernel._procscan import ffi, lib

__all__ = ["ffi", "lib"]
