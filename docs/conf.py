# SPDX-License-Identifier: MIT
"""Sphinx's settings: ``sphinx-build -W --keep-going -n docs site`` builds the documentation, without a network.

A page that shows a picture from ``_pictures`` has the code that draws and saves it; it is run before the page is read.
"""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402

import fastrnn  # noqa: E402

project = "fastrnn"
author = "the authors of fastrnn"
copyright = author
version = release = fastrnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
exclude_patterns = ["_pictures"]
html_theme = "furo"
html_title = f"fastrnn {version}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say types, with shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "code"


def draw(app, name, source):
    """Run the page if it shows pictures of its own."""
    if "](_pictures/" in source[0]:
        folder = HERE / "_pictures"
        folder.mkdir(exist_ok=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            pages.run(HERE / f"{name}.md")
        finally:
            os.chdir(before)


def keep_initials(app, what, name, thing, options, lines):
    """An author's initial at the start of a line is no item of a list."""
    lines[:] = [re.sub(r"^( *[A-Z])\. ", r"\1\\. ", line) for line in lines]


def setup(app):
    """What Sphinx calls."""
    app.connect("source-read", draw)
    app.connect("autodoc-process-docstring", keep_initials, priority=900)  # after numpydoc
