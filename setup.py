"""
The native builds of kvmaff, and nothing else: all metadata is in pyproject.toml.

cffi's modules cannot be declared in pyproject.toml, so they and the Cython engine are listed here.
All of them keep to CPython's stable ABI of 3.11, so that one wheel serves every later version.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    cffi_modules=["ext/build_procscan.py:builder", "ext/build_microvm.py:builder"],
    ext_modules=cythonize(
        [
            Extension(
                name,
                [f"ext/{name.rpartition('.')[2]}.pyx"],
                define_macros=[("Py_LIMITED_API", "0x030B0000")],
                py_limited_api=True,
                extra_compile_args=["-O2"],
            )
            for name in ("kvmaff.placement._fit", "kvmaff.host._lay")
        ],
        language_level=3,
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
