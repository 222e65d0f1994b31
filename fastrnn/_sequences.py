# SPDX-License-Identifier: MIT
"""Sequences of several lengths laid end to end, from which batches of similar length are cut.

n sequences, S steps of all of them, T time steps, B batch, I input size, N results wanted of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from . import _check

BUCKET = 4  # batches sorted by length together: with fewer, batches mix better; with more, lengths are nearer


class Batch(NamedTuple):
    """Some sequences side by side, the longest first."""

    x: np.ndarray  # (T, B, I)
    lengths: np.ndarray  # (B,)
    real: np.ndarray  # (T, B), whether this step is one of the sequence's
    at: np.ndarray  # (N,), where the results belong: places of sequences, or of steps


class Sequences:
    """Sequences laid end to end.

    Parameters
    ----------
    steps : ndarray, shape (S, ...)
    lengths : ndarray, shape (n,)
    together : bool
        Whether they came, and are to leave, as one array.
    """

    def __init__(self, steps: np.ndarray, lengths: np.ndarray, together: bool) -> None:
        self.steps, self.lengths, self.together = steps, lengths, together
        self.starts = np.cumsum(lengths) - lengths

    @classmethod
    def of(cls, name: str, value: Any) -> Sequences:
        """One array whose first two axes are n and T, or a list or vector of arrays whose first axis is T."""
        if not separate(value):
            array = _check.plain(name, value, "an array")
            if array.ndim < 2:
                raise ValueError(f"{name}: needs an array for each sequence, got shape {array.shape}")
            n, T = array.shape[:2]
            return cls(array.reshape(n * T, *array.shape[2:]), np.full(n, T), together=True)
        parts = [_check.plain(f"{name}[{k}]", part, "an array") for k, part in enumerate(value)]
        if not parts:
            raise ValueError(f"{name}: needs at least one sequence, got none")
        for k, part in enumerate(parts):
            if part.ndim == 0:
                got = _check.text(part.item())  # value[k] may be another: a Series looks for a label
                raise ValueError(f"{name}[{k}]: needs an array whose first axis is time, got {got}")
            if part.shape[1:] != parts[0].shape[1:]:
                first, rest = f"{name}[0]", parts[0].shape[1:]
                raise ValueError(f"{name}[{k}]: needs shape (T, ...) with ... = {rest} like {first}, got {part.shape}")
        try:
            steps = np.concatenate(parts)
        except TypeError as problem:
            raise TypeError(f"{name}: needs arrays of one kind, got several ({problem})") from None
        return cls(steps, np.array([len(part) for part in parts]), together=False)

    def features(self, name: str) -> np.ndarray:
        """The steps, shape (S, I), of sequences of shape (T, I) or (T,)."""
        no_dates(name, self.steps)
        if not self.lengths.all():
            raise ValueError(f"{name}[{self.lengths.argmin()}]: needs at least one step, got none")
        if self.steps.ndim > 2:
            raise ValueError(f"{name}: needs sequences of shape (T, I) or (T,), got {self.steps.ndim} axes each")
        return self.steps if self.steps.ndim == 2 else self.steps[:, np.newaxis]

    def scaled(self, mean: np.ndarray, scale: np.ndarray) -> Sequences:
        """X, standardised, in float32."""
        return Sequences(standardised("X", self.steps, mean, scale), self.lengths, self.together)

    def steps_of(self, name: str, value: Any) -> np.ndarray:
        """Something else for every step, laid end to end, too."""
        other = Sequences.of(name, value)
        if len(other.lengths) != len(self.lengths):
            raise ValueError(f"{name}: needs {len(self.lengths)} sequences like X, got {len(other.lengths)}")
        wrong = np.flatnonzero(other.lengths != self.lengths)
        if len(wrong):
            k = wrong[0]
            raise ValueError(f"{name}[{k}]: needs {self.lengths[k]} steps like X[{k}], got {other.lengths[k]}")
        return other.steps

    def split(self, values: np.ndarray) -> Any:
        """What was found for every step, shape (S, ...), as the sequences came: (n, T, ...) or a list; views."""
        if self.together:
            return values.reshape(len(self.lengths), -1, *values.shape[1:])
        return np.split(values, self.starts[1:])

    def places(self, rows: np.ndarray, per_step: bool) -> np.ndarray:
        """Where the results of these rows are found: among those of all sequences, or of all steps."""
        return np.concatenate([self.starts[k] + np.arange(self.lengths[k]) for k in rows]) if per_step else rows

    def batches(self, rows: np.ndarray, size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """The rows in batches of similar length, in each the longest first; with ``rng`` mixed at random."""
        if rng is None:
            return self._sorted(rows, size)
        mixed = pieces(rng.permutation(rows), size)
        buckets = [np.concatenate(mixed[k : k + BUCKET]) for k in range(0, len(mixed), BUCKET)]
        batches = [batch for bucket in buckets for batch in self._sorted(bucket, size)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def _sorted(self, rows: np.ndarray, size: int) -> list[np.ndarray]:
        return pieces(rows[np.argsort(-self.lengths[rows], kind="stable")], size)

    def batch(self, rows: np.ndarray, per_step: bool) -> Batch:
        """Some rows, the longest first. Past its end a sequence repeats its last step, which no layer reads."""
        lengths = self.lengths[rows]
        t = np.arange(lengths[0])[:, np.newaxis]
        at, real = self.starts[rows] + np.minimum(t, lengths - 1), t < lengths
        return Batch(self.steps[at], lengths, real, at[real] if per_step else rows)


def separate(value: Any) -> bool:
    """Whether sequences come one by one."""
    return isinstance(value, (list, tuple)) or (getattr(value, "dtype", "") == "O" and getattr(value, "ndim", 0) == 1)


def pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in pieces of at most ``size``, as even as can be."""
    return np.array_split(rows, -(-len(rows) // size))


# -- values ----------------------------------------------------------------------------------------------------------


@contextmanager
def named(name: str, value: Any, wanted: str) -> Iterator[None]:
    """Name the argument that scikit-learn refuses, and leave its words, which its own checks look for."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as problem:
        if str(problem).startswith(name):
            raise
        kind = ValueError if isinstance(problem, ValueError) else TypeError
        raise kind(f"{name}: needs {wanted}, got {type(value).__name__} ({problem})") from None


def unmasked(name: str, value: Any) -> None:
    """Refuse a masked array, or a list with one, in the core's words: NumPy would drop the mask and say nothing."""
    parts = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for called, part in ((name, value), *((f"{name}[{k}]", part) for k, part in parts)):
        _check.unmasked(called, part)


def no_dates(name: str, value: Any) -> None:
    """Refuse dates and time spans, which NumPy would turn into numbers of some unit."""
    if isinstance(value, (list, tuple)):
        with suppress(ValueError, RuntimeError):  # NumPy cannot make an array of it: others will say so
            value = np.asarray(value)
    for found in [value.dtype] if hasattr(value, "dtype") else getattr(value, "dtypes", ()):  # a DataFrame's
        if getattr(found, "kind", None) in ("m", "M"):
            raise TypeError(f"{name}: needs numbers, got dtype {found}")
        if found == "O":
            for item in np.asarray(value, object).flat:
                if isinstance(item, (np.datetime64, np.timedelta64)):
                    raise TypeError(f"{name}: needs numbers, got {type(item).__name__}")


def moments(name: str, values: np.ndarray) -> tuple[Any, Any]:
    """Mean and standard deviation along the first axis, in float64; 1 for the deviation of what does not vary."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise ValueError(f"{name}: needs numbers whose mean and deviation are finite, got {largest(values)}")
    constant = (values.min(axis=0) == values.max(axis=0)) | (scale == 0)  # rounding may leave it a deviation
    return mean, np.where(constant, 1.0, scale)[()]  # a number of one column


def standardised(name: str, values: np.ndarray, mean: Any, scale: Any) -> np.ndarray:
    """``(values - mean) / scale`` in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = ((values - mean) / scale).astype(np.float32)
    if not np.isfinite(result).all():
        raise ValueError(f"{name}: needs numbers that float32 holds once standardised, got {largest(values)}")
    return result


def largest(values: np.ndarray) -> str:
    """For a message: how large these are."""
    return f"magnitudes up to {np.abs(values).max():g}"


def sorted_labels(name: str, labels: Any) -> np.ndarray:
    """Each label once, in order."""
    array = _check.plain(name, labels, "labels")
    if array.ndim != 1:
        kind = ValueError if array.ndim else TypeError
        raise kind(f"{name}: needs labels along one axis, got {_check.text(labels)}")
    try:
        found = np.unique(array)
    except (TypeError, ValueError) as problem:
        raise TypeError(f"{name}: needs labels of one kind, which can be sorted, got several ({problem})") from None
    if (found != found).any():
        raise ValueError(f"{name}: needs labels, got {found[found != found][0]} among them")
    return found
