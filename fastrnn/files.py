# SPDX-License-Identifier: MIT
"""save and load: a layer in one file, with nothing executable in it.

The file is NumPy's .npz: each parameter under its name, and under "fastrnn" a JSON header with the format's version,
the class and the constructor's options.
"""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from . import _check
from .layers import GRU, LSTM, RNN, Layer
from .parameters import layout

HEADER = "fastrnn"
VERSION = 1
SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
CLASSES: dict[str, type[RNN | LSTM | GRU]] = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}

FileLike = str | os.PathLike[str] | IO[bytes]


def save(layer: Layer, path: FileLike) -> None:
    """Write a layer to one file: its parameters and options, not its ``rng``.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    path : path or binary file
        Taken as it is: no suffix is added. At a path the file appears whole or not at all, and what was there stays
        until it does.

    Raises
    ------
    TypeError
        If ``layer`` is none of these, or ``path`` neither a path nor a binary file.
    OSError
        If the file cannot be written.
    """
    _check.layer(layer, CLASSES.values())
    options = {**layer.options(), "dtype": layer.dtype.name}
    header = json.dumps({"version": VERSION, "class": type(layer).__name__, "options": options})
    arrays: dict[str, Any] = {HEADER: np.array(header), **layer.params}
    with _written(path) as file:
        np.savez(file, **arrays)


def load(path: FileLike) -> RNN | LSTM | GRU:
    """Read a layer that ``save`` wrote.

    Parameters
    ----------
    path : path or binary file

    Returns
    -------
    RNN, LSTM or GRU
        New.

    Raises
    ------
    ValueError
        If the file is another program's, or damaged, truncated or of another version: the message says which.
    OSError
        If the file cannot be read.
    """
    data = cast(IO[bytes], path).read() if hasattr(path, "read") else Path(path).read_bytes()
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise ValueError("no .npz archive, or the beginning of one")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return _rebuilt(dict(archive))
    except Exception as problem:  # bytes at random raise anything, SyntaxError and NotImplementedError among them
        shown = "file" if hasattr(path, "read") else os.fspath(path)
        found = f"{problem}" if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
        raise ValueError(f"{shown}: needs a whole file written by fastrnn, got {found}") from problem


def _rebuilt(arrays: dict[str, np.ndarray]) -> RNN | LSTM | GRU:
    """The layer that a file's arrays describe."""
    if HEADER not in arrays:
        raise ValueError(f"an archive without the entry {HEADER!r}")
    header = json.loads(str(arrays.pop(HEADER)))
    if header["version"] != VERSION:
        raise ValueError(f"format version {header['version']!r}, this fastrnn reads {VERSION}")
    kind, options = CLASSES[header["class"]], header["options"]
    sizes = {name: options.get(name, 0) for name in SIZES}
    _check.entries("archive", arrays, layout(kind.cell, **sizes), np.dtype(options["dtype"]))
    layer = kind(**options)  # only now: a false header must not take memory that the file's arrays do not
    layer.load_state_dict(arrays)
    return layer


@contextmanager
def _written(path: FileLike) -> Iterator[Any]:
    """A file to write to; one at a path replaces what was there once it is complete."""
    if hasattr(path, "write"):
        yield path
        return
    target = Path(os.path.realpath(cast(str, path)))
    draft = target.with_name(f".fastrnn-{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
