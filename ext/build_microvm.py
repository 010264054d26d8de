"""Builds kvmaff.testing._microvm: microvm.c behind cffi, the declarations read from microvm.h itself."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

builder = FFI()
builder.cdef(
    "\n".join(
        line
        for line in (HERE / "microvm.h").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
)
builder.set_source(
    "kvmaff.testing._microvm",
    # The C files are included, not listed as sources: setuptools wants those relative to setup.py,
    # builder.compile() wants them relative to its tmpdir, and an include path serves both.
    '#include "microvm.c"\n#include "microvm_kvm.c"\n',
    include_dirs=[str(HERE)],
    depends=[f"ext/microvm{name}" for name in (".c", ".h", "_kvm.c", "_kvm.h")],
    libraries=["pthread"],  # glibc before 2.34 keeps threads in a library of their own
    # -Werror belongs to the tests: a newer compiler must not break an installation
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
)
