# SPDX-License-Identifier: MIT
"""Builds the compiled half; everything else about the package stands in pyproject.toml.

Instruction sets are chosen at run time and named in the sources (csrc/isa_*.c), so the flags hold for all of them:
-ffp-contract=off because the bits of a result must not depend on the compiler's taste for FMA. For the core -O2 is as
fast as -O3 and a sixth to a quarter smaller; all else is compiled for size, since what it calls takes the time. Where
CFLAGS or LDFLAGS are set, these say what to optimise and to leave out.
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# README's beginning; links within the repository would lead nowhere.
DESCRIPTION = Path("README.md").read_text("utf-8").split("\n## In use")[0]
DESCRIPTION = re.sub(r"\[([^]]+)\]\((?!http)[^)]+\)", r"\1", DESCRIPTION)

CORE, HEADERS = sorted(glob("csrc/*.c")), sorted(glob("csrc/*.h"))
FLAGS = ["-std=c11", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]  # in this order
LINK = ["-pthread", "-fno-fast-math"]  # with -ffast-math the linker adds what changes the floating-point mode of all
FAST, SMALL = ["-O2"], ["-Os"]
if "CFLAGS" in os.environ or "LDFLAGS" in os.environ:  # whoever has flags has reasons: symbols, hardening, speed
    FAST = SMALL = []
elif sys.platform == "linux":  # no symbols, tables to unwind by, stubs for Python's functions, padding to whole pages
    FLAGS += ["-g0", "-fno-asynchronous-unwind-tables", "-fno-plt"]
    LINK += ["-Wl,-s", "-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,common-page-size=64", "-Wl,-z,norelro"]

# The same for clang-cl. Its <immintrin.h> shows only what these macros ask for; the code is compiled for them no more
# than elsewhere, since that is said function by function.
SHOWN = ("SSE3", "SSSE3", "SSE4_1", "SSE4_2", "AVX", "AVX2", "FMA", "AVX512F", "AVX512DQ", "AVX512BW", "AVX512VL")
FLAGS_OF_CLANG_CL = ["/std:c11", "/clang:-ffp-contract=off", "/clang:-fno-math-errno"]
FLAGS_OF_CLANG_CL += [f"-D__{name}__" for name in SHOWN]


def extension(name):
    """One compiled module."""
    return Extension(
        f"fastrnn.{name}",
        [f"fastrnn/{name}.pyx"],
        include_dirs=["csrc"],
        depends=[*CORE, *HEADERS],
        extra_link_args=LINK,
    )


class Build(build_ext):
    """Compiles the core and links it into _kernels.

    Instead of MSVC, which has no vector extensions, takes clang-cl, with MSVC's headers and linker.
    """

    fast, small = [*FLAGS, *FAST], [*FLAGS, *SMALL]

    def build_extensions(self):  # noqa: D102
        if self.compiler.compiler_type == "msvc":
            self.take_clang_cl(shutil.which("clang-cl"))
        super().build_extensions()

    def build_extension(self, ext):  # noqa: D102
        ext.extra_compile_args = self.small
        changed = self.force or newer_group([*ext.sources, *ext.depends], self.get_ext_fullpath(ext.name), "newer")
        if ext.name == "fastrnn._kernels" and changed:
            ext.extra_objects = self.compiler.compile(CORE, self.build_temp, extra_postargs=self.fast)
        super().build_extension(ext)

    def take_clang_cl(self, path):
        """Compile with it, and link its run-time library, which has __builtin_cpu_supports."""
        if path is None:
            raise SystemExit("fastrnn: the kernels need GCC or Clang, and on Windows clang-cl: it is not on the path")
        self.compiler.initialize()
        self.compiler.cc = path
        ask = [path, "/clang:--rtlib=compiler-rt", "/clang:-print-libgcc-file-name"]
        builtins = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        self.fast, self.small = [*FLAGS_OF_CLANG_CL, "/clang:-O2"], [*FLAGS_OF_CLANG_CL, "/clang:-Os"]
        for each in self.extensions:
            each.extra_link_args = [builtins]


setup(
    long_description=DESCRIPTION,
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [extension(name) for name in ("_kernels", "_unroll", "_bptt", "_rnn", "_lstm", "_gru", "_stepper")],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "binding": False,
            "auto_pickle": False,
            "freethreading_compatible": True,
        },
    ),
    cmdclass={"build_ext": Build},
)
