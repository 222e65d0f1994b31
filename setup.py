# SPDX-License-Identifier: MIT
"""Builds the compiled half; everything else about the package stands in pyproject.toml.

Instruction sets are chosen at run time and named in the sources (csrc/isa_*.c), so the flags hold for all of them:
-ffp-contract=off because the bits of a result must not depend on the compiler's taste for FMA. -O2, with two passes of
-O3 for the core, is as fast as -O3 and a sixth smaller.
"""

import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HEADERS = sorted(glob("csrc/*.h"))
FLAGS = ["-std=c11", "-O2", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
CORE = ["-funswitch-loops", "-fpeel-loops"]  # for GCC; Clang has them in -O2
SMALL = ["-Os"]  # what these modules call takes the time
LINK = ["-pthread"]
if sys.platform == "linux":  # no symbols, no tables to unwind by, no page of padding between code and constants
    FLAGS += ["-fno-asynchronous-unwind-tables"]
    LINK += ["-Wl,-s", "-Wl,-z,noseparate-code"]

# The same for clang-cl. Its <immintrin.h> shows only what these macros ask for; the code is compiled for them no more
# than elsewhere, since that is said function by function.
SHOWN = ("SSE3", "SSSE3", "SSE4_1", "SSE4_2", "AVX", "AVX2", "FMA", "AVX512F", "AVX512DQ", "AVX512BW", "AVX512VL")
FLAGS_OF_CLANG_CL = ["/std:c11", "/clang:-O3", "/clang:-ffp-contract=off", "/clang:-fno-math-errno"]
FLAGS_OF_CLANG_CL += [f"-D__{name}__" for name in SHOWN]


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
    """Instead of MSVC, which has no vector extensions, takes clang-cl, with MSVC's headers and linker."""

    def build_extensions(self):  # noqa: D102
        if self.compiler.compiler_type == "msvc":
            self.take_clang_cl(shutil.which("clang-cl"))
        elif "clang" in subprocess.getoutput(f"{self.compiler.compiler[0]} --version"):
            for each in self.extensions:
                each.extra_compile_args = [flag for flag in each.extra_compile_args if flag not in CORE]
        super().build_extensions()

    def take_clang_cl(self, path):
        """Compile by it, and link what the compiler's test of the processor is in."""
        if path is None:
            raise SystemExit("fastrnn: the kernels need GCC or Clang, and on Windows clang-cl: it is not on the path")
        self.compiler.initialize()
        self.compiler.cc = path
        ask = [path, "/clang:--rtlib=compiler-rt", "/clang:-print-libgcc-file-name"]
        builtins = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        for each in self.extensions:
            each.extra_compile_args, each.extra_link_args = FLAGS_OF_CLANG_CL, [builtins]


setup(
    long_description=Path("README.md").read_text("utf-8").split("\n## From other frameworks")[0],  # its first quarter
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [
            extension("_kernels", *sorted(glob("csrc/*.c")), flags=CORE),
            extension("_unroll", flags=SMALL),
            extension("_bptt", flags=SMALL),
            extension("_rnn", flags=SMALL),
            extension("_lstm", flags=SMALL),
            extension("_gru", flags=SMALL),
            extension("_stepper", flags=SMALL),
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
