# SPDX-License-Identifier: MIT
"""One time step at a time through a stack of layers: weights packed once, W_ih and W_hh one after the other. And a lone
step of a lone row, for which weights are not worth packing.

B batch, I input size, H hidden size, P size of h, L layers; z, q, rh as in _gru.pyx. The same primitives as the time
loops, started from the bias instead of a hoisted projection: the same sums in the same order, hence the same bits.
"""

from fastrnn._arrays cimport WRITEABLE, Array, address
from fastrnn._kernels cimport (
    LONG,
    Memory,
    flush,
    gemm,
    gemv,
    gru_gates,
    gru_reset,
    gru_step,
    joined,
    lanes,
    lstm_cell,
    lstm_step,
    packed_columns,
    plain,
    real,
    rnn_cell,
    rnn_step,
    summed,
    unflush,
)
from fastrnn._unroll cimport state_of

from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from fastrnn._records import GATES

cdef enum Cell:
    RNN_TANH
    RNN_RELU
    LSTM
    GRU_AFTER
    GRU_BEFORE

CELLS = {"tanh": RNN_TANH, "relu": RNN_RELU, "": LSTM, "reset_after": GRU_AFTER, "reset_before": GRU_BEFORE}


cdef struct Layer:
    Py_ssize_t I
    const void* w      # W_ih then W_hh; the GRU with reset before: W_ih alone
    const void* w_rz   # the GRU with reset before: the gates r and z of W_hh
    const void* w_n    # and its gate n
    const void* w_hr
    const void* bias
    const void* b_hn


cdef void advance(Cell cell, int turn, Py_ssize_t B, Py_ssize_t H, Py_ssize_t P, const Layer* l, const real* x,
                  const real* h_prev, real* h, real* c, real* scratch) noexcept nogil:
    """One step of one layer. scratch: 4 B H elements."""
    cdef Py_ssize_t I = l.I
    cdef const real* w = <const real*>l.w
    cdef const real* bias = <const real*>l.bias
    cdef real* tape = NULL
    cdef real* rh = scratch + 3 * B * H
    if cell == RNN_TANH or cell == RNN_RELU:
        rnn_step(turn, B, H, cell == RNN_RELU, bias, 0, x, I, I, h_prev, H, H, w, h, H)
    elif cell == GRU_AFTER:
        gru_step(turn, B, H, H, bias, 0, <const real*>l.b_hn, x, I, I, h_prev, H, 0, w, h, H, tape)
    elif cell == GRU_BEFORE:
        gemm(0, B, 3 * H, I, x, I, w, bias, 0, scratch, 3 * H)
        gemm(0, B, 2 * H, H, h_prev, H, <const real*>l.w_rz, scratch, 3 * H, scratch, 3 * H)
        gru_gates(B, H, <real>INFINITY, scratch, h_prev, H, rh, H)
        gemm(0, B, H, H, rh, H, <const real*>l.w_n, scratch + 2 * H, 3 * H, scratch + 2 * H, 3 * H)
        gru_reset(B, H, <real>INFINITY, scratch, <const real*>NULL, h_prev, H, h, H, tape)
    elif l.w_hr == NULL:
        lstm_step(turn, B, H, H, bias, 0, x, I, I, h_prev, P, P, w, c, h, P, tape)
    else:
        lstm_step(turn, B, H, H, bias, 0, x, I, I, h_prev, P, P, w, c, scratch, H, tape)
        gemm(0, B, P, H, scratch, H, <const real*>l.w_hr, <const real*>NULL, 0, h, P)


cdef class Stepper:
    """The compiled twin of `reference.Stepper`."""

    cdef Cell cell
    cdef bint wide
    cdef Py_ssize_t L, B, I, H, P, n_weights, lanes, turn
    cdef Layer* layers
    cdef list keep
    cdef Memory states, cells, scratch  # h (2, L, B, P): the steps write them in turn; c (L, B, H); a step's own
    cdef object dtype, empty, shape

    def __cinit__(self, str cell, str variant, list weights, Py_ssize_t B):
        cdef Py_ssize_t size, l
        self.cell, self.L, self.B = CELLS[variant], len(weights), B
        w_ih, w_hh = weights[0][:2]
        self.dtype, self.empty = w_ih.dtype, np.empty
        size = w_ih.itemsize
        self.wide, self.lanes = size == 8, lanes(size)
        self.I, self.P = w_ih.shape[1], w_hh.shape[1]
        self.H = w_hh.shape[0] // GATES[cell]
        self.shape = (B, self.P)
        self.keep = []
        self.layers = <Layer*>calloc(self.L, sizeof(Layer))
        if self.layers == NULL:
            raise MemoryError()
        for l in range(self.L):
            self.pack(&self.layers[l], weights[l])
        self.states = Memory(2 * self.L * B * self.P * size)
        self.cells = Memory(self.L * B * self.H * size)
        self.scratch = Memory(4 * B * self.H * size)
        self.assign(None, None)

    def __dealloc__(self):
        free(self.layers)

    cdef const void* hold(self, Memory memory):
        self.keep.append(memory)
        return memory.at

    cdef int pack(self, Layer* l, tuple weights) except -1:
        w_ih, w_hh, b_ih, b_hh, w_hr = weights
        cdef Py_ssize_t H = self.H, size = w_ih.itemsize, rows = w_ih.shape[0]
        cdef Py_ssize_t both = 2 * H if self.cell == GRU_AFTER else rows
        l.I = w_ih.shape[1]
        l.bias = self.hold(summed(b_ih, b_hh, 0, both, rows, size))
        if self.cell == LSTM:
            l.w = self.hold(joined(w_ih, w_hh, 4, H, 0))
        elif self.cell == GRU_AFTER:
            l.w = self.hold(joined(w_ih, w_hh, 3, H, 2))
            l.b_hn = self.hold(summed(None, b_hh, 2 * H, H, H, size))
        elif self.cell == GRU_BEFORE:
            l.w = self.hold(packed_columns(w_ih, l.I, 3 * H, True))
            l.w_rz = self.hold(packed_columns(w_hh, H, 2 * H, True))
            l.w_n = self.hold(packed_columns(w_hh[2 * H :], H, H, True))
        else:
            l.w = self.hold(joined(w_ih, w_hh, 0, H, 0))
        if w_hr is not None:
            l.w_hr = self.hold(packed_columns(w_hr, H, self.P, True))
        self.n_weights += w_ih.size + w_hh.size
        return 0

    cdef void run(self, const real* x, real* out) noexcept nogil:
        cdef Py_ssize_t l, B = self.B, size = B * self.P
        cdef const real* h_prev = <const real*>self.states.at + self.turn * self.L * size
        cdef real* h = <real*>self.states.at + (1 - self.turn) * self.L * size
        cdef real* c = <real*>self.cells.at
        cdef real* scratch = <real*>self.scratch.at
        cdef unsigned long saved = flush()
        for l in range(self.L):
            advance(self.cell, <int>self.turn, B, self.H, self.P, &self.layers[l], x, h_prev, h, c, scratch)
            x = h
            h += size
            h_prev += size
            c += B * self.H
        self.turn = 1 - self.turn
        memcpy(out, x, size * sizeof(real))  # last, so that x may stand where out does
        unflush(saved)

    cdef void run_either(self, const void* x, void* out) noexcept nogil:
        if self.wide:
            self.run(<const double*>x, <double*>out)
        else:
            self.run(<const float*>x, <float*>out)

    cdef int go(self, void* x, void* out) except -1:
        if self.lanes != lanes(8 if self.wide else 4):
            raise RuntimeError("stream: made for another instruction set")
        if self.n_weights * self.B > LONG:
            with nogil:
                self.run_either(x, out)
        else:
            self.run_either(x, out)
        return 0

    def __call__(self, x, out):
        """One step: x (B, I) in, the last layer's h into out (B, P); both C-contiguous and of the right dtype."""
        self.go(address(x), address(out, True))

    cdef const Array* fits(self, object array, int flags, Py_ssize_t width) noexcept:
        """The fields of an array that is just what a step needs, (B, width), or (width,) with B = 1; else NULL."""
        cdef const Array* a = plain(array, 8 if self.wide else 4, flags)
        if (a != NULL and (a.nd == 1 and self.B == 1 or a.nd == 2 and a.dimensions[0] == self.B)
                and a.dimensions[a.nd - 1] == width):
            return a
        return NULL

    def feed(self, x, out=None):
        """One step on plain arrays, x (B, I) or (I,), checked here and fast; None, and nothing done, for any other."""
        cdef const Array* to
        cdef const Array* a = self.fits(x, 0, self.I)
        if a == NULL:
            return None
        if out is None:
            out = self.empty(self.P if a.nd == 1 else self.shape, self.dtype)
        to = self.fits(out, WRITEABLE, self.P)
        if to == NULL or to.nd != a.nd:
            return None
        self.go(a.data, to.data)
        return out

    def state(self):
        """Copies of h (L, B, P) and of c (L, B, H), which is None for RNN and GRU."""
        h = np.empty((self.L, self.B, self.P), self.dtype)
        memcpy(address(h, True), self.states.at + self.turn * self.states.size // 2, self.states.size // 2)
        if self.cell != LSTM:
            return h, None
        c = np.empty((self.L, self.B, self.H), self.dtype)
        memcpy(address(c, True), self.cells.at, self.cells.size)
        return h, c

    def assign(self, h, c):
        """Copy h and c in; None for zeros."""
        cdef Py_ssize_t h_bytes = self.states.size // 2
        self.turn = 0
        if h is None:
            memset(self.states.at, 0, h_bytes)
        else:
            memcpy(self.states.at, address(h), h_bytes)
        if c is None:
            memset(self.cells.at, 0, self.cells.size)
        else:
            memcpy(self.cells.at, address(c), self.cells.size)


# ---- a lone step ----------------------------------------------------------------------------------------------------


cdef struct Lone:
    Cell cell
    Py_ssize_t I, H
    const void* x
    const void* w_ih       # as given
    const void* w_hh
    const void* bias
    const void* b_hn
    const void* h_prev
    void* c                # in/out
    void* h
    void* work             # 6 H elements


cdef void lone(const Lone* l, const real* h_prev) noexcept nogil:
    """A step's products, then its cell: the sums and formulas of a fused step."""
    cdef Py_ssize_t H = l.H, gates = 4 if l.cell == LSTM else 3 if l.cell == GRU_AFTER else 1
    cdef Py_ssize_t rows = (2 if l.cell == GRU_AFTER else gates) * H
    cdef const real* w_hh = <const real*>l.w_hh
    cdef real* h = <real*>l.h
    cdef real* z = <real*>l.work
    cdef real* q = z + 4 * H
    cdef real* rh = q + H
    cdef real* none = NULL
    gemv(gates * H, l.I, <const real*>l.w_ih, l.I, <const real*>l.x, <const real*>l.bias, z)
    gemv(rows, H, w_hh, H, h_prev, z, z)
    if l.cell == LSTM:
        lstm_cell(1, H, <real>INFINITY, z, <const real*>none, <real*>l.c, h, H)
    elif l.cell == GRU_AFTER:
        gemv(H, H, w_hh + 2 * H * H, H, h_prev, <const real*>l.b_hn, q)
        gru_gates(1, H, <real>INFINITY, z, h_prev, H, rh, H)
        gru_reset(1, H, <real>INFINITY, z, q, h_prev, H, h, H, none)
    else:
        rnn_cell(1, H, l.cell == RNN_RELU, <real>INFINITY, z, h, H)


cdef void run_lone(const Lone* l, Py_ssize_t itemsize) noexcept nogil:
    cdef unsigned long saved = flush()
    if itemsize == 8:
        lone(l, <const double*>l.h_prev)
    else:
        lone(l, <const float*>l.h_prev)
    unflush(saved)


cdef object stepped(object call, Cell cell, const void* x, object out, object h, object c):
    """Fills out (1, 1, H), new if None; h and c, which hold the states before, then hold those after."""
    cdef Py_ssize_t I = call.I, H = call.H, size = call.w_ih.itemsize, rows = call.w_ih.shape[0]
    if out is None:
        out = np.empty((1, 1, H), call.w_ih.dtype)
    cdef Memory bias = summed(call.b_ih, call.b_hh, 0, 2 * H if cell == GRU_AFTER else rows, rows, size)
    cdef Memory b_hn = summed(None, call.b_hh, 2 * H, H, H, size) if cell == GRU_AFTER else None
    cdef Memory work = Memory(6 * H * size)
    cdef Lone l
    l.cell, l.I, l.H, l.x, l.w_ih, l.w_hh = cell, I, H, x, address(call.w_ih), address(call.w_hh)
    l.bias, l.b_hn, l.work = bias.at, b_hn.at if b_hn is not None else NULL, work.at
    l.h_prev, l.c, l.h = address(h), address(c), address(out)
    if rows * (I + H) > LONG:
        with nogil:
            run_lone(&l, size)
    else:
        run_lone(&l, size)
    memcpy(<void*>l.h_prev, l.h, H * size)
    return out


def lone_step(call, x, state):
    """What a layer with the weights of a call makes of x (1, 1, I): (out, state); None, with nothing done, for any
    other x or state, and for a cell that takes the product of a product."""
    cdef Cell cell = CELLS[call.variant]
    cdef Py_ssize_t I = call.I, H = call.H
    cdef const Array* a = plain(x, call.w_ih.itemsize, 0)
    if a == NULL or a.nd != 3 or a.dimensions[0] != 1 or a.dimensions[1] != 1 or a.dimensions[2] != I:
        return None
    if cell == GRU_BEFORE or call.w_hr is not None:
        return None
    if cell == LSTM and state is not None and (type(state) is not tuple or len(state) != 2):
        return None
    h0, c0 = state if cell == LSTM and state is not None else (state, None)
    h, c = state_of(h0, 1, H, call.dtype), state_of(c0, 1, H, call.dtype) if cell == LSTM else None
    if h is None or cell == LSTM and c is None:
        return None
    out = stepped(call, cell, a.data, None, h, c)
    return out, (h, c) if cell == LSTM else h


def lone_call(call, out):
    """What forward makes of a call of one step of one sequence: (out, h_n, c_n or None, None); None for a call that it
    takes more for."""
    cdef Cell cell = CELLS[call.variant]
    if cell == GRU_BEFORE or call.w_hr is not None or call.clip is not None or call.peephole is not None:
        return None
    if call.ragged is not None:  # of length 0, or packed
        return None
    shape, dtype = (1, call.H), call.w_ih.dtype
    h = np.zeros(shape, dtype) if call.h0 is None else call.h0.copy()
    c = None if cell != LSTM else np.zeros(shape, dtype) if call.c0 is None else call.c0.copy()
    return stepped(call, cell, address(call.x), out, h, c), h, c, None
