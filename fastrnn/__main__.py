# SPDX-License-Identifier: MIT
"""``python -m fastrnn``: the command ``fastrnn`` without its script."""

import sys

from .cli import main

sys.exit(main())
