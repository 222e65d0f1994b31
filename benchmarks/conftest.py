# SPDX-License-Identifier: MIT
"""One thread on both sides: `cases` sees to it, if it is imported before NumPy."""

import cases  # noqa: F401
