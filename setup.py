# SPDX-License-Identifier: MIT
"""Builds the compiled half; everything else about the package stands in pyproject.toml.

Instruction sets are chosen at run time and named in the sources (csrc/isa_*.c), so the flags hold for all of them:
-ffp-contract=off because the bits of a result must not depend on the compiler's taste for FMA. -O2, with two passes of
-O3 for the core, is as fast as -O3 and a sixth smaller.
"""

import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HEADERS = sorted(glob("csrc/*.h"))
FLAGS = ["-std=c11", "-O2", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
CORE = [] if sys.platform == "darwin" else ["-funswitch-loops", "-fpeel-loops"]  # Clang has them in -O2
LINK = ["-pthread"]
if sys.platform == "linux":  # no symbols, and no page of padding between code and constants
    LINK += ["-Wl,-s", "-Wl,-z,noseparate-code"]


def extension(name, *sources, flags=()):
    """One compiled module, from its .pyx and what else is linked into it."""
    return Extension(
        f"fastrnn.{name}",
        [f"fastrnn/{name}.pyx", *sources],
        include_dirs=["csrc"],
        depends=HEADERS,
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=LINK,
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
            extension("_kernels", *sorted(glob("csrc/*.c")), flags=CORE),
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
            "auto_pickle": False,
        },
    ),
    cmdclass={"build_ext": Build},
)
