# SPDX-License-Identifier: MIT
"""Builds the compiled half; everything else about the package stands in pyproject.toml.

Instruction sets are chosen at run time and named in the sources (csrc/isa_*.c), so the flags hold for all of them:
-ffp-contract=off because the bits of a result must not depend on the compiler's taste for FMA.
"""

import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HEADERS = sorted(glob("csrc/*.h"))
FLAGS = ["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
STRIP = [] if sys.platform in ("darwin", "win32") else ["-Wl,-s"]


def extension(name, *sources):
    """One compiled module, from its .pyx and what else is linked into it."""
    return Extension(
        f"fastrnn.{name}",
        [f"fastrnn/{name}.pyx", *sources],
        include_dirs=["csrc"],
        depends=HEADERS,
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread", *STRIP],
    )


class Build(build_ext):
    """Says what is missing where no GCC or Clang is at hand: the kernels are written in their vector extensions."""

    def build_extensions(self):  # noqa: D102
        if self.compiler.compiler_type == "msvc":
            raise SystemExit("fastrnn: the kernels need GCC or Clang; MSVC has no vector extensions")
        super().build_extensions()


setup(
    ext_modules=cythonize(
        [
            extension("_kernels", *sorted(glob("csrc/*.c"))),
            extension("_unroll"),
            extension("_bptt"),
            extension("_rnn"),
            extension("_lstm"),
            extension("_gru"),
            extension("_stepper"),
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "binding": False,
        },
    ),
    cmdclass={"build_ext": Build},
)
