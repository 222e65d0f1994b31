# SPDX-License-Identifier: MIT
"""save and load: a layer in one file, with nothing executable in it.

The file is NumPy's .npz: each parameter under its name, and under "fastrnn" a JSON header with the format's version,
the class and the constructor's options.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import _check
from .layers import GRU, LSTM, RNN, Layer
from .parameters import weight_shapes

HEADER = "fastrnn"
VERSION = 1
SIZES = ("input_size", "hidden_size", "num_layers", "proj_size")
FLAGS = ("bias", "bidirectional")
WIDEST = 16  # bytes of a float: of NumPy's, longdouble is the widest
HEAD = 2**16  # bytes, beyond NumPy's own head of an array and a whole JSON header
CLASSES: dict[str, type[RNN | LSTM | GRU]] = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}

FileLike = str | os.PathLike[str] | IO[bytes]


def save(layer: Layer, path: FileLike) -> None:
    """Write a layer to one file: its parameters and options, not its ``rng``.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    path : path or binary file
        Taken as it is: no suffix is added. At a path the file appears whole or not at all, and what was there stays
        until it does; the file then keeps the mode of what was there, and a link stays a link. A device or a pipe is
        written to.

    Raises
    ------
    TypeError
        If ``layer`` is none of these, or ``path`` neither a path nor a binary file.
    OSError
        If the file cannot be written.
    """
    path = _check.file("path", path, "write")
    _check.layer(layer, CLASSES.values())
    options = {**layer.options(), "dtype": layer.dtype.name}
    header = json.dumps({"version": VERSION, "class": type(layer).__name__, "options": options})
    arrays: dict[str, Any] = {HEADER: np.array(header), **layer.state_dict()}
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
    TypeError
        If ``path`` is neither a path nor a binary file.
    ValueError
        If the file is another program's, or damaged, truncated or of another version: the message says which.
    OSError
        If the file cannot be read.

    Notes
    -----
    A compressed file may be small and yet unpack to more than memory holds: what a layer of these sizes has no use for
    is refused unread.
    """
    source = _check.file("path", path, "read")
    data = Path(source).read_bytes() if isinstance(source, str) else source.read()
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise ValueError("no .npz archive, or the beginning of one")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _rebuilt(archive)
    except Exception as problem:  # bytes at random raise anything, SyntaxError and NotImplementedError among them
        shown = source if isinstance(source, str) else "file"
        found = f"{problem}" if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
        raise ValueError(f"{shown}: needs a whole file written by fastrnn, got {found}") from problem


def _rebuilt(archive: zipfile.ZipFile) -> RNN | LSTM | GRU:
    """The layer that an archive describes."""
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(infos) < len(archive.infolist()):
        raise ValueError("an archive with two entries of one name")
    if min((info.header_offset for info in infos.values()), default=0) > 0:
        raise ValueError("something before it, perhaps another layer")
    if HEADER not in infos:
        raise ValueError(f"an archive without the entry {HEADER!r}")
    header = json.loads(str(_array(archive, infos.pop(HEADER))))
    if header["version"] != VERSION:
        raise ValueError(f"format version {header['version']!r}, this fastrnn reads {VERSION}")
    kind, options = CLASSES[header["class"]], header["options"]
    sizes: dict[str, Any] = {name: _check.integer(name, options.get(name, 0), 0) for name in SIZES}
    sizes |= {name: _check.flag(name, options.get(name, False)) for name in FLAGS}
    shapes = _check.names("archive", infos, weight_shapes(kind.cell, **sizes))
    arrays = {name: _array(archive, infos[name], shape) for name, shape in shapes.items()}
    _check.entries("archive", arrays, shapes.items(), np.dtype(options["dtype"]))
    layer = kind(**options)  # only now: a false header must not take memory that the file's arrays do not
    layer.load_state_dict(arrays)
    return layer


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...] = ()) -> np.ndarray:
    """An entry's array, if by what the archive says of it no more has to be unpacked than for floats of that shape."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a limit
        raise ValueError(f"{info.filename} of compression method {info.compress_type}, which NumPy does not write")
    if info.file_size > (room := HEAD + WIDEST * math.prod(shape)):
        raise ValueError(f"{info.filename} of {info.file_size} bytes where at most {room} have a use")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _written(path: Any) -> Iterator[Any]:
    """A file to write to; a regular one at a path replaces what was there once it is complete."""
    if not isinstance(path, str):
        yield (whole := io.BytesIO())  # zipfile goes back to what it has written, which not every file can
        path.write(whole.getvalue())
        return
    mode = os.stat(path).st_mode if os.path.exists(path) else None
    if mode is not None and not stat.S_ISREG(mode):  # a device, a pipe: something that is to stay
        with open(path, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".fastrnn-{uuid.uuid4().hex}")
    allowed = 0o666 if mode is None else stat.S_IMODE(mode)
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, allowed)) as file:
            if mode is not None:
                draft.chmod(allowed)  # what the umask took away
            yield file
        draft.replace(target)
    except OSError as problem:
        if problem.filename is not None and os.fspath(problem.filename) == str(draft):
            problem.filename, problem.filename2 = path, None  # of the draft nobody knows
        raise
    finally:
        draft.unlink(missing_ok=True)
