"""Builds kvmaff.kernel._procscan: procscan.c behind cffi, the declarations read from procscan.h itself."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

builder = FFI()
builder.cdef(
    "\n".join(
        line
        for line in (HERE / "procscan.h").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
)
builder.set_source(
    "kvmaff.kernel._procscan",
    # Included, not listed as a source: setuptools wants that relative to setup.py, builder.compile()
    # relative to its tmpdir, and an include path serves both.
    '#include "procscan.c"\n',
    include_dirs=[str(HERE)],
    depends=[f"ext/{file.name}" for file in sorted(HERE.glob("procscan*.[ch]"))],
    # -Werror belongs to the tests: a newer compiler must not break an installation
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra", "-pthread"],
)
