# SPDX-License-Identifier: MIT
"""Arguments -> a valid Call, or TypeError / ValueError. Every message about an argument of functions and layers.

One template: ``name: needs what it needs, got what it got``.
T time steps, B batch, I input size, H hidden size, P size of h, G gates.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ._records import ALTERED, GATES, Call, Ragged, Tape

DTYPES = FLOAT32, FLOAT64 = (np.dtype(np.float32), np.dtype(np.float64))
LETTERS = {  # of the shapes of W_ih, W_hh and the biases
    "rnn": ("(H, I)", "(H, P)", "(H,)"),
    "lstm": ("(4*H, I)", "(4*H, P)", "(4*H,)"),
    "gru": ("(3*H, I)", "(3*H, P)", "(3*H,)"),
}
PLAIN = 0x101  # flags of an array: C-contiguous and aligned
SOURCES = ("Generator", "BitGenerator", "SeedSequence", "RandomState")  # names: NumPy loads its random on first use
MAX_BYTES = 2**50  # beyond any memory; below it no size of a workspace, of 64 threads or less, overflows ptrdiff_t

dimensions: Any = None  # the kernels' own quick look at a function's arguments, where config has found kernels


def text(value: Any) -> str:
    """A short, one-line rendering of a value for a message."""
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {value.dtype} {value.shape}"
    try:
        shown = repr(value)
    except Exception:  # its own code may raise anything, and Python writes out no integer beyond some thousand digits
        if isinstance(value, int):
            return f"about {'-' if value < 0 else ''}2**{value.bit_length() - 1}"
        return f"{type(value).__name__} that cannot be shown"
    shown = " ".join(shown.split())
    return shown if len(shown) <= 60 else shown[:57] + "..."


# -- scalars ---------------------------------------------------------------------------------------------------------


def flag(name: str, value: Any) -> bool:
    if value is True or value is False:  # as most come
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: needs True or False, got {text(value)}")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: needs an integer, got {text(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: needs an integer, got {text(value)}") from None
    if number < low or (high is not None and number > high):
        wanted = f"an integer >= {low}" if high is None else f"an integer in {low}..{text(high)}"
        raise ValueError(f"{name}: needs {wanted}, got {text(number)}")
    return number


def real(
    name: str, value: Any, low: float, high: float = np.inf, *, open_low: bool = False, open_high: bool = False
) -> float:
    """A finite number in [low, high], without low or high itself where the interval is open there."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or getattr(value, "ndim", 0) != 0:
        raise TypeError(f"{name}: needs a number, got {text(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = -np.inf if value < 0 else np.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}: needs a number, got {text(value)}") from None
    short, beyond = number < low or (open_low and number == low), number > high or (open_high and number == high)
    if short or beyond or not np.isfinite(number):
        wanted = f"{'>' if open_low else '>='} {low:g}"
        if high != np.inf:
            wanted += f" and {'<' if open_high else '<='} {high:g}"
        raise ValueError(f"{name}: needs a finite number {wanted}, got {repr(number).removesuffix('.0')}")
    return number


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in known:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: needs one of {', '.join(map(repr, known))}, got {text(value)}")


def dtype(name: str, value: Any) -> np.dtype:
    try:
        found = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        found = np.dtype(object)
    if value is None or found not in DTYPES:
        raise TypeError(f"{name}: needs float32 or float64, got {text(value)}")
    return DTYPES[DTYPES.index(found)]


# -- arrays ----------------------------------------------------------------------------------------------------------


def unmasked(name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: needs a plain array, got a masked one (a mask would be ignored)")


def plain(name: str, value: Any, wanted: str) -> np.ndarray:
    """The value as an array, if an array can say all of it."""
    unmasked(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise TypeError(f"{name}: needs {wanted}, got {type(value).__name__} ({problem})") from None


def kind_of(value: Any, array: np.ndarray) -> str:
    """An array's dtype and, if it was none before, what it was."""
    return str(array.dtype) if isinstance(value, np.ndarray) else f"{array.dtype} ({type(value).__name__})"


def floats(name: str, value: Any, like: np.dtype | None = None) -> np.ndarray:
    """A native float32 or float64 array; ``like`` fixes which."""
    if type(value) is np.ndarray:  # as most come: nothing more to find out
        given = value.dtype
        if given is like or (like is None and (given is FLOAT32 or given is FLOAT64)):
            return value
    array = plain(name, value, "an array of float32 or float64")
    found = array.dtype
    if found is not FLOAT32 and found is not FLOAT64:
        native = found.newbyteorder("=")
        if native not in DTYPES:
            raise TypeError(f"{name}: needs dtype float32 or float64, got {kind_of(value, array)}")
        native = DTYPES[DTYPES.index(native)]
        array = array.view(native) if found == native else array.astype(native)  # "<" may stand for "="
        found = native
    if like is not None and found != like:
        raise TypeError(f"{name}: needs dtype {like} like x, got {found}")
    return array


def shaped(name: str, array: np.ndarray, letters: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array, C-contiguous and aligned, if its shape is right: a view, or a copy.

    A view, since to make an array of the next argument may run its own code, which could change the shape of this one.
    """
    if array.shape != shape:
        raise ValueError(f"{name}: needs shape {letters} = {shape}, got {array.shape}")
    return array[...] if array.flags.num & PLAIN == PLAIN else np.array(array, order="C")


def rows(array: np.ndarray) -> np.ndarray:
    """The array itself if its last axis is contiguous and all is aligned, else a C-contiguous copy."""
    if array.flags.carray:
        return array
    size = array.itemsize
    strides = array.strides
    if array.flags.aligned and (strides[-1] == size or array.shape[-1] <= 1) and not any(s % size for s in strides):
        return array
    return np.array(array, order="C")


def optional(name: str, value: Any, like: np.dtype, letters: str, shape: tuple[int, ...]) -> np.ndarray | None:
    return None if value is None else shaped(name, floats(name, value, like), letters, shape)


def lengths(value: Any, T: int, B: int) -> Ragged | None:
    """How the rows of a batch run out; None where all of them fill T."""
    if value is None:
        return None
    array = plain("lengths", value, "integers")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"lengths: needs integers, got dtype {array.dtype}")
    if array.shape != (B,):
        raise ValueError(f"lengths: needs shape (B,) = {(B,)}, got {array.shape}")
    given, array = array, array.astype(np.intp)  # a value too large for it turns negative
    shortest, longest = (array.min(), array.max()) if B else (T, T)
    if shortest < 0 or longest > T:
        raise ValueError(f"lengths: needs values in 0..T = 0..{T}, got {given.min()}..{given.max()}")
    return None if shortest == T else Ragged.of(array, T)


def sizes(T: int, B: int, widest: int, itemsize: int) -> None:
    """Refuse sizes whose buffers no address space holds."""
    if T * B * widest * itemsize > MAX_BYTES:
        raise ValueError(f"x: needs T*B*{widest} elements below 2**50 bytes, got T = {T}, B = {B}")


# -- one layer, one direction ----------------------------------------------------------------------------------------


def rnn(x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths_, reverse) -> Call:
    variant = choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    return _call("rnn", variant, x, w_ih, w_hh, b_ih, b_hh, None, h0, None, lengths_, reverse)


def gru(x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths_, reverse) -> Call:
    variant = "reset_after" if flag("reset_after", reset_after) else "reset_before"
    return _call("gru", variant, x, w_ih, w_hh, b_ih, b_hh, None, h0, None, lengths_, reverse)


def lstm(x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths_, reverse) -> Call:
    h0, c0 = pair("state0", state0)
    return _call("lstm", "", x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, lengths_, reverse)


def pair(name: str, state: Any) -> tuple[Any, Any]:
    """(h, c) of an LSTM's state; None stands for zeros, whole or in part."""
    if state is None:
        return None, None
    if isinstance(state, (tuple, list)) and len(state) == 2:
        return state[0], state[1]
    raise TypeError(f"{name}: needs a pair (h, c) or None, got {text(state)}")


def _call(cell, variant, x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, lengths_, reverse) -> Call:
    reverse = flag("reverse", reverse)
    if lengths_ is not None:
        lengths_ = plain("lengths", lengths_, "integers")  # before the look at the others: see shaped
    found = dimensions and dimensions(GATES[cell], x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0)
    if not found:
        x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0 = _fitted(cell, x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0)
        found = *x.shape, w_hh.shape[0] // GATES[cell], w_hh.shape[1]
    T, B, I, H, P = found
    ragged = None if lengths_ is None else lengths(lengths_, T, B)
    return Call(cell, variant, T, B, I, H, P, x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, ragged, reverse)


def _fitted(cell, x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0) -> tuple:
    """The same arrays as a Call needs them."""
    x = floats("x", x)
    like = x.dtype
    if x.ndim != 3:
        raise ValueError(f"x: needs shape (T, B, I), got {x.shape}")
    x = rows(x[...])  # a view: see shaped
    T, B, I = x.shape
    G = GATES[cell]
    of_x, of_h, of_b = LETTERS[cell]
    w_hh = floats("w_hh", w_hh, like)
    if w_hh.ndim != 2:
        raise ValueError(f"w_hh: needs shape {of_h}, got {w_hh.shape}")
    H = P = w_hh.shape[1]
    if w_hr is not None:
        H = w_hh.shape[0] // G
    if min(I, H, P) < 1:
        raise ValueError(f"x, w_hh: need I, H, P >= 1, got I = {I}, H = {H}, P = {P}")
    sizes(T, B, max(G * H, I, P), x.itemsize)
    w_hh = shaped("w_hh", w_hh, of_h, (G * H, P))
    return (
        x,
        shaped("w_ih", floats("w_ih", w_ih, like), of_x, (G * H, I)),
        w_hh,
        optional("b_ih", b_ih, like, of_b, (G * H,)),
        optional("b_hh", b_hh, like, of_b, (G * H,)),
        optional("w_hr", w_hr, like, "(P, H)", (P, H)),
        optional("h0" if cell != "lstm" else "state0[0]", h0, like, "(B, P)", (B, P)),
        optional("state0[1]", c0, like, "(B, H)", (B, H)),
    )


def gradients(call: Call, grad_out: Any, grad_h_n: Any, grad_c_n: Any = None) -> tuple:
    """The gradients that a loss sends back into one direction; None stands for zeros."""
    T, B, P, H, like = call.T, call.B, call.P, call.H, call.dtype
    grad_h_n = optional("grad_h_n", grad_h_n, like, "(B, P)", (B, P))
    grad_c_n = optional("grad_c_n", grad_c_n, like, "(B, H)", (B, H))
    if grad_out is not None:
        grad_out = floats("grad_out", grad_out, like)  # last: see shaped
        if grad_out.shape != (T, B, P):
            raise ValueError(f"grad_out: needs shape (T, B, P) = {(T, B, P)}, got {grad_out.shape}")
        grad_out = rows(grad_out)
    return grad_out, grad_h_n, grad_c_n


def tape(value: Any, cell: str) -> Tape:
    if not isinstance(value, Tape):
        raise TypeError(f"tape: needs the tape that {cell}_forward returned, got {text(value)}")
    if not isinstance(value.call, Call):
        raise ValueError(ALTERED)
    if value.call.cell != cell:
        raise ValueError(f"tape: needs the tape that {cell}_forward returned, got {value.call.cell}_forward's")
    return value


# -- layers and streams ----------------------------------------------------------------------------------------------
# L layers, D directions.


def generator(name: str, seed: Any) -> np.random.Generator:
    """What NumPy makes of a seed; it would crash on some objects that are none."""
    try:
        if seed is not None and not isinstance(seed, tuple(getattr(np.random, kind) for kind in SOURCES)):
            seed = [integer(name, k, 0) for k in seed] if isinstance(seed, (list, tuple)) else integer(name, seed, 0)
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as problem:
        wanted = "None, an integer >= 0 or a numpy.random.Generator"
        raise type(problem)(f"{name}: needs {wanted}, got {text(seed)}") from None


def parameters(count: int, itemsize: int) -> int:
    """Refuse sizes whose weights no address space holds."""
    if count * itemsize > MAX_BYTES:
        raise ValueError(
            f"input_size, hidden_size, num_layers: need fewer than 2**50 bytes of weights, got {text(count)} weights"
        )
    return count


def layer_floats(name: str, value: Any, like: np.dtype) -> np.ndarray:
    array = floats(name, value)
    if array.dtype != like:
        raise TypeError(f"{name}: needs dtype {like} like the layer, got {array.dtype}")
    return array


def sequence(name: str, value: Any, like: np.dtype, I: int, batch_first: bool) -> tuple[np.ndarray, bool]:
    """The input of a layer, time-major (T, B, I), and whether the caller's has a batch axis."""
    array = layer_floats(name, value, like)
    if array.ndim not in (2, 3) or array.shape[-1] != I:
        axes = "B, T" if batch_first else "T, B"
        raise ValueError(f"{name}: needs shape ({axes}, I) or (T, I) with I = {I}, got {array.shape}")
    return _time_major(array, batch_first), array.ndim == 3


def same_sequence(
    name: str, value: Any, like: np.dtype, shape: tuple[int, ...], batch_first: bool
) -> np.ndarray | None:
    """The gradient of an output, time-major; ``shape`` is that of the output as the caller saw it."""
    if value is None:
        return None
    array = layer_floats(name, value, like)
    if array.shape != shape:
        raise ValueError(f"{name}: needs the shape of out, {shape}, got {array.shape}")
    return _time_major(array, batch_first)


def _time_major(array: np.ndarray, batch_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return rows(array[:, None])
    return rows(array.swapaxes(0, 1) if batch_first else array[...])  # always a view: see shaped


def layer_state(
    name: str, value: Any, cell: str, like: np.dtype, shape: tuple[int, int, int], H: int, batched: bool | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(h, c) of a stack, c None but for the LSTM; ``shape`` is h's, (L*D, B, P).

    Unbatched they come without the axis B; where ``batched`` is None and B = 1, with or without it.
    """
    if value is None:
        return None, None
    if cell != "lstm":
        return _state_part(name, value, like, "P", shape, batched), None
    h, c = pair(name, value)
    return (
        _state_part(f"{name}[0]", h, like, "P", shape, batched),
        _state_part(f"{name}[1]", c, like, "H", (*shape[:2], H), batched),
    )


def _state_part(
    name: str, value: Any, like: np.dtype, letter: str, shape: tuple[int, int, int], batched: bool | None
) -> np.ndarray | None:
    if value is None:
        return None
    array = layer_floats(name, value, like)
    if batched is None:
        batched = array.ndim != 2 or shape[1] != 1
    if batched:
        return shaped(name, array, f"(L*D, B, {letter})", shape)
    return shaped(name, array, f"(L*D, {letter})", shape[::2])[:, None]


def layer(value: Any, kinds: Iterable[type]) -> None:
    if type(value) not in kinds:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"layer: needs one of fastrnn's {names}, got {type(value).__name__}")


def layer_tape(value: Any, kind: Any, owner: Any) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"tape: needs what forward returned, got {type(value).__name__}")
    if value.layer is not owner:
        raise ValueError("tape: needs one made by this layer's forward, got another layer's")
    if not value.fits():
        raise ValueError(ALTERED)


def entries(name: str, given: Any, shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: np.dtype) -> np.ndarray:
    """The named arrays of a mapping, cast and laid end to end in the order of ``shapes``: a new array."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: needs a mapping from names to arrays, got {type(given).__name__}")
    parts = []
    for key, shape in names(name, given, shapes).items():
        array = _entry(f"{name}[{key!r}]", given[key])
        if array.shape != shape:
            raise ValueError(f"{name}[{key!r}]: needs shape {shape}, got {array.shape}")
        parts.append(array.ravel())
    with np.errstate(over="ignore", under="ignore"):  # beyond float32 is infinite, or 0, as in PyTorch's copy_
        return np.concatenate(parts, dtype=dtype, casting="same_kind")


def names(name: str, given: Mapping, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The shapes by name, if the mapping has these names and no others; its values are left unread."""
    wanted: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes:
        if key not in given:
            raise ValueError(f"{name}: needs an entry {key!r}, got none")
        wanted[key] = shape
    unknown = set(given) - set(wanted)
    if unknown:
        raise ValueError(
            f"{name}: needs no entry {', '.join(sorted(map(text, unknown)))}, which this layer does not have"
        )
    return wanted


def _entry(name: str, value: Any) -> np.ndarray:
    """An array of floats of any width. A PyTorch tensor, of any device, is known by its ``detach``, without importing
    PyTorch; NumPy has none of its narrower floats."""
    try:
        given = value.detach().cpu() if hasattr(value, "detach") else value
        array = np.asarray(given.double() if given is not value and given.is_floating_point() else given)
    except (AttributeError, TypeError, ValueError, RuntimeError) as problem:
        raise TypeError(f"{name}: needs an array of floats, got {type(value).__name__} ({problem})") from None
    if array.dtype.kind != "f" or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: needs an array of floats, got {type(value).__name__} of dtype {array.dtype}")
    return array


def filling(name: str, value: Any, into: np.ndarray) -> np.ndarray:
    """Numbers to fill an array with, known to be such before the first of them is written."""
    array = plain(name, value, "numbers")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: needs numbers, got {kind_of(value, array)}")
    if not into.flags.writeable:
        raise ValueError(f"{name}: needs parameters that can be written to, got those of a frozen layer")
    try:
        np.broadcast_to(array, into.shape)
    except ValueError:
        raise ValueError(f"{name}: needs a shape that can be broadcast to {into.shape}, got {array.shape}") from None
    with np.errstate(over="ignore", under="ignore"):  # beyond float32 is infinite, or 0, as in PyTorch's copy_
        return array.astype(into.dtype, copy=False)


def batch_size(value: Any, row: int) -> int:
    """The rows of a stream, each of which takes that many bytes; refuses more than any address space holds."""
    B = integer("batch_size", value, 1)
    if B * row > MAX_BYTES:
        raise ValueError(f"batch_size: needs fewer than 2**50 bytes of states, got {text(B)} rows of {row} bytes")
    return B


def step(value: Any, like: np.dtype, B: int, I: int) -> np.ndarray:
    """One time step, (B, I) or, of one sequence, (I,)."""
    array = layer_floats("x", value, like)
    if array.shape == (I,) and B == 1:
        return shaped("x", array, "(I,)", (I,))
    return shaped("x", array, "(B, I)", (B, I))


def room(name: str, value: Any, like: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array to write results into as it is; a plain view, since a subclass may say anything of itself."""
    unmasked(name, value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: needs an array of {like}, got {type(value).__name__}")
    array = np.asarray(value)
    if array.dtype != like:
        raise TypeError(f"{name}: needs an array of {like}, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: needs shape {shape}, got {array.shape}")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise ValueError(f"{name}: needs to be C-contiguous, aligned and writeable, got strides {array.strides}")
    return array


def one_direction(value: Any) -> None:
    if not hasattr(value, "_calls"):  # by which our layers are known, and subclasses of theirs
        raise TypeError(f"layer: needs an RNN, LSTM or GRU, got {text(value)}")
    if value.bidirectional:
        raise ValueError("layer: needs one direction, got bidirectional=True (its reverse half starts at the end)")


# -- files -----------------------------------------------------------------------------------------------------------


def file(name: str, value: Any, method: str) -> Any:
    """A path as text, or a binary file with that method as it is."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str) and "\0" in path:
            raise ValueError(f"{name}: needs a path without null characters, got {text(value)}")
        if path == "":
            raise ValueError(f"{name}: needs a path, got an empty one")
        if isinstance(path, str):
            return path
    elif hasattr(value, method) and not hasattr(value, "encoding"):  # which text files have
        return value
    raise TypeError(f"{name}: needs a path or a binary file, got {text(value)}")


# -- optimizers ------------------------------------------------------------------------------------------------------


def writeable(name: str, value: Any) -> np.ndarray:
    """An array of floats that can be updated in place."""
    unmasked(name, value)
    if not isinstance(value, np.ndarray) or value.dtype not in DTYPES:
        found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name}: needs an array of float32 or float64 to update in place, got {found}")
    if not value.flags.writeable:
        raise ValueError(f"{name}: needs a writeable array, got a read-only one")
    return value


def several(name: str, value: Any) -> list[np.ndarray]:
    """One array of floats that can be updated in place, or several."""
    if isinstance(value, np.ndarray):
        return [writeable(name, value)]
    try:
        arrays = iter(value)
    except TypeError:
        raise TypeError(f"{name}: needs an array of float32 or float64, or several, got {text(value)}") from None
    return [writeable(f"{name}[{k}]", array) for k, array in enumerate(arrays)]


def alike(name: str, value: Any, other_name: str, other: np.ndarray) -> np.ndarray:
    """An array of the other's dtype and shape."""
    array = floats(name, value)
    if array.dtype != other.dtype:
        raise TypeError(f"{name}: needs dtype {other.dtype} like {other_name}, got {array.dtype}")
    if array.shape != other.shape:
        raise ValueError(f"{name}: needs shape {other.shape} like {other_name}, got {array.shape}")
    return array


def betas(name: str, value: Any) -> tuple[float, float]:
    """Two decay rates below 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name}: needs a pair of numbers, got {text(value)}")
    first, second = (real(f"{name}[{k}]", beta, 0, 1, open_high=True) for k, beta in enumerate(value))
    return first, second
