# SPDX-License-Identifier: MIT
"""Unrolling a layer over time: from a Call to a job for the time loops, and from their workspaces to results.

Letters, ranks and packed rows as in _unroll.pxd.
"""

from fastrnn._kernels cimport (
    Memory,
    address,
    frnn_task,
    lanes,
    pack_columns,
    pack_gates,
    padded,
    real,
    run,
)

from libc.string cimport memcpy, memset

import numpy as np

from fastrnn._records import Grads

WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")

cdef int threads = 1

# Bytes of the hoisted projection that are written before the time loop reads them: half of a typical L2 cache.
cdef Py_ssize_t CHUNK_BYTES = 512 * 1024
cdef Py_ssize_t CHUNK_ROWS = 24    # fewest rows for which a panel of W_ih is worth reading
cdef Py_ssize_t BACK_ROWS = 256    # of a chunk of BPTT: deep enough for the weight gradients' sums to pay
cdef double SHARED_FLOPS = 2e7     # below, waking a thread costs more than it brings


def set_threads(int n):
    global threads
    threads = n


def set_shared_flops(double flops):
    """From how many flops on a call's work is shared out; the value before. For tests and benchmarks."""
    global SHARED_FLOPS
    before, SHARED_FLOPS = SHARED_FLOPS, flops
    return before


# ---- sharing work out ---------------------------------------------------------------------------------------------------


cdef int parts_for(Py_ssize_t B, double flops) noexcept nogil:
    """Threads for a job whose rows can be shared out."""
    return 1 if flops < SHARED_FLOPS else <int>max(min(<Py_ssize_t>threads, B), 1)


cdef Py_ssize_t cut(const Sequence* q, int part, int parts) noexcept nogil:
    """The first rank of a part; parts have about the same number of steps in all."""
    cdef Py_ssize_t r, steps = 0
    if q.lengths == NULL:
        return q.B * part // parts
    for r in range(q.B):
        if steps * parts >= q.R * part:
            return r
        steps += q.lengths[r]
    return q.B


cdef void share(const Sequence* q, int part, int parts, Py_ssize_t* r0, Py_ssize_t* r1) noexcept nogil:
    """The ranks r0..r1-1 of a part."""
    r0[0] = cut(q, part, parts) if part > 0 else 0
    r1[0] = cut(q, part + 1, parts) if part + 1 < parts else q.B


# ---- arrays to views and packed weights ---------------------------------------------------------------------------------


cdef View view_of(object array, bint writable=False) except *:
    cdef View v
    v.data = <char*>address(array, writable)
    v.step = v.row = 0
    if array is not None:
        strides = array.strides
        v.step = <Py_ssize_t>strides[0] // <Py_ssize_t>array.itemsize
        v.row = <Py_ssize_t>strides[1] // <Py_ssize_t>array.itemsize
    return v


cdef Sequence sequence_of(object call) except *:
    """Points into call.ragged, which the caller keeps alive."""
    cdef Sequence q
    memset(&q, 0, sizeof(q))
    q.T, q.B, q.reverse = call.T, call.B, call.reverse
    q.R = q.T * q.B
    ragged = call.ragged
    if ragged is not None:
        q.R = ragged.start[q.T]
        q.alive = <Py_ssize_t*>address(ragged.alive)
        q.start = <Py_ssize_t*>address(ragged.start)
        q.lengths = <Py_ssize_t*>address(ragged.lengths)
        if not ragged.in_order:
            q.order = <Py_ssize_t*>address(ragged.order)
    q.direct = q.order == NULL and (not q.reverse or q.lengths == NULL)
    return q


cdef Memory packed_columns(object w, Py_ssize_t K, Py_ssize_t N, bint transposed):
    """A matrix (K, N), or (N, K) if transposed, in columns layout."""
    cdef Py_ssize_t size = w.itemsize, ldw = K if transposed else N
    cdef Memory to = Memory(K * padded(N, size) * size)
    if size == 4:
        pack_columns(K, N, transposed, <const float*>address(w), ldw, <float*>to.at, K, 0)
    else:
        pack_columns(K, N, transposed, <const double*>address(w), ldw, <double*>to.at, K, 0)
    return to


cdef Memory packed_gates(object w, Py_ssize_t G, Py_ssize_t H, Py_ssize_t K):
    """The first G*H rows of a matrix (., K) in gates layout."""
    cdef Py_ssize_t size = w.itemsize
    cdef Memory to = Memory(G * K * padded(H, size) * size)
    if size == 4:
        pack_gates(G, H, K, 0, <const float*>address(w), K, <float*>to.at, K, 0)
    else:
        pack_gates(G, H, K, 0, <const double*>address(w), K, <double*>to.at, K, 0)
    return to


cdef void sum_rows(Py_ssize_t n, Py_ssize_t both, const real* a, const real* b, real* to) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = (a[i] if a != NULL else 0) + (b[i] if b != NULL and i < both else 0)


cdef Memory summed(object a, object b, Py_ssize_t first, Py_ssize_t both, Py_ssize_t n, Py_ssize_t itemsize):
    """n elements of a + b from `first` on, b only in the first `both` of them; None stands for zeros."""
    cdef Memory to = Memory(n * itemsize)
    cdef char* pa = <char*>address(a)
    cdef char* pb = <char*>address(b)
    pa = pa + first * itemsize if pa != NULL else NULL
    pb = pb + first * itemsize if pb != NULL else NULL
    if itemsize == 4:
        sum_rows(n, both, <const float*>pa, <const float*>pb, <float*>to.at)
    else:
        sum_rows(n, both, <const double*>pa, <const double*>pb, <double*>to.at)
    return to


cdef by_rank(object call, object state, Py_ssize_t width):
    """An initial state or final gradient (B, width) in the order of ranks, always a new array; None gives zeros."""
    if state is None:
        return np.zeros((call.B, width), call.dtype)
    ragged = call.ragged
    return state.copy() if ragged is None or ragged.in_order else state[ragged.order]


cdef by_row(object call, object state):
    """The reverse."""
    ragged = call.ragged
    if ragged is None or ragged.in_order:
        return state
    rows = np.empty_like(state)
    rows[ragged.order] = state
    return rows


# ---- forward ------------------------------------------------------------------------------------------------------------


cdef tuple run_forward(object call, bint training, object out, Packed w, frnn_task task, Py_ssize_t tape_parts,
                       Py_ssize_t extra):
    """Run a cell's forward task. tape_parts: H-wide parts of a row of the tape; extra: scratch of a row."""
    cdef Job j
    cdef Py_ssize_t size = call.dtype.itemsize, rows
    cdef int parts
    memset(&j, 0, sizeof(j))
    j.q = sequence_of(call)
    j.wide = size == 8
    j.variant = call.variant in ("relu", "reset_before")
    j.I, j.H, j.P = call.I, call.H, call.P
    j.G = call.w_hh.shape[0] // j.H
    if out is None:
        out = (np.empty if call.ragged is None else np.zeros)((j.q.T, j.q.B, j.P), call.dtype)
    elif call.ragged is not None:
        out[...] = 0
    h0 = by_rank(call, call.h0, j.P)
    c0 = by_rank(call, call.c0, j.H) if call.cell == "lstm" else None
    c = None if c0 is None else c0.copy() if training else c0
    tape = Memory(j.q.R * tape_parts * j.H * size) if training else None
    if j.q.R > 0:
        if w.lanes != lanes(size):
            raise RuntimeError("packed weights: made for another instruction set")
        j.x, j.out = view_of(call.x), view_of(out, True)
        j.h0, j.c, j.tape_width = address(h0), address(c, True), tape_parts * j.H
        j.tape = NULL if tape is None else (<Memory>tape).at
        j.w_ih, j.w_hh, j.bias = w.w_ih.at, w.w_hh.at, w.bias.at
        j.w_hr = NULL if w.w_hr is None else w.w_hr.at
        j.w_hn = NULL if w.w_hn is None else w.w_hn.at
        j.b_hn = NULL if w.b_hn is None else w.b_hn.at
        j.chunk = min(max(CHUNK_ROWS, CHUNK_BYTES // (j.G * j.H * size)), j.q.R)
        parts = parts_for(j.q.B, 2.0 * j.q.R * j.G * j.H * (j.I + j.P))
        rows = max(j.chunk, j.q.B)
        j.work_each = rows * (j.G * j.H + j.I) + j.q.B * (2 * j.P + extra)
        workspace = Memory(j.work_each * parts * size)
        j.work = (<Memory>workspace).at
        with nogil:
            run(task, &j, parts)
    h_n = final_h(call, out, h0)
    return out, h_n, None if c is None else by_row(call, c), (tape, tape_parts * j.H, h0, c0) if training else None


cdef final_h(object call, object out, object h0):
    """h after each row's last step: from `out`, or, where a row had none, h0."""
    if call.T == 0:
        return by_row(call, h0.copy())
    ragged = call.ragged
    if ragged is None:
        return out[0 if call.reverse else call.T - 1].copy()
    h_n = by_row(call, h0.copy())
    live = ragged.lengths > 0
    rows = ragged.order[live]
    h_n[rows] = out[0 if call.reverse else ragged.lengths[live] - 1, rows]
    return h_n


# ---- backward -----------------------------------------------------------------------------------------------------------


cdef new_weights(object call, object into):
    """Arrays for the gradients of the weights, None where there is none: those of `into` or new ones."""
    if into is not None:
        return {name: getattr(into, name) for name in WEIGHTS}
    given = {name: getattr(call, name) for name in WEIGHTS}
    return {name: None if w is None else np.empty_like(w) for name, w in given.items()}


cdef class Backward:
    def __cinit__(self, tape, grad_out, grad_h_n, grad_c_n, into, Py_ssize_t width):
        cdef BackJob* j = &self.j
        memset(j, 0, sizeof(BackJob))
        call = tape.call
        saved, j.tape_width, h0, c0 = tape.saved
        self.call, self.keep = call, [tape, grad_out]
        self.itemsize = call.dtype.itemsize
        j.q = sequence_of(call)
        j.wide = self.itemsize == 8
        j.variant = call.variant in ("relu", "reset_before")
        j.I, j.H, j.P, j.width = call.I, call.H, call.P, width
        j.G = call.w_hh.shape[0] // j.H
        x = (np.empty if call.ragged is None else np.zeros)((j.q.T, j.q.B, j.I), call.dtype)
        dh, dc = by_rank(call, grad_h_n, j.P), None if c0 is None else by_rank(call, grad_c_n, j.H)
        self.grads = Grads(x, h0=dh, c0=dc, **new_weights(call, into))
        j.x, j.out, j.dx, j.grad_out = view_of(call.x), view_of(tape.out), view_of(x, True), view_of(grad_out)
        j.tape = (<Memory>saved).at
        j.h0, j.c0, j.dh, j.dc = address(h0), address(c0), address(dh, True), address(dc, True)
        j.steps = max(BACK_ROWS // max(j.q.B, 1), 1)
        j.x_rows, j.h_rows = self.block(self.chunk_rows() * j.I), self.block(self.chunk_rows() * j.P)
        j.dz, j.sums = self.block(self.chunk_rows() * width), self.block(width)
        memset(j.sums, 0, width * self.itemsize)

    cdef Py_ssize_t chunk_rows(self):
        return min(self.j.steps * self.j.q.B, self.j.q.R)

    cdef void* block(self, Py_ssize_t n) except NULL:
        """n elements that live as long as this pass."""
        memory = Memory(n * self.itemsize)
        self.keep.append(memory)
        return (<Memory>memory).at

    cdef void product(self, void* dz, Py_ssize_t ld, Py_ssize_t M, void* rows, object w, Py_ssize_t row) except *:
        """w[row:row+M] will be dz^T rows, summed over all steps."""
        cdef Product* p = &self.j.products[self.j.n_products]
        p.M, p.N, p.dz, p.ld, p.rows = M, w.shape[1], dz, ld, rows
        p.w = <char*>address(w, True) + row * p.N * self.itemsize
        memset(p.w, 0, M * p.N * self.itemsize)
        self.j.n_products += 1

    cdef void run(self, frnn_task task) except *:
        cdef BackJob* j = &self.j
        cdef int parts = parts_for(j.q.B, 6.0 * j.q.R * j.G * j.H * (j.I + j.P))
        if j.q.R == 0:
            return
        j.work_each = self.chunk_rows() * max(4 * lanes(self.itemsize), j.I) + j.q.B * j.H
        j.work = <char*>self.block(j.work_each * parts)
        with nogil:
            run(task, j, parts)

    cdef void bias(self, object b, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n) except *:
        """b[row:row+n] becomes the sums of dz's columns from `column` on."""
        if b is not None:
            memcpy(<char*>address(b, True) + row * self.itemsize, <char*>self.j.sums + column * self.itemsize,
                   n * self.itemsize)

    cdef object finished(self):
        """The gradients, the states' in the caller's order."""
        grads = self.grads
        grads.h0 = by_row(self.call, grads.h0)
        if grads.c0 is not None:
            grads.c0 = by_row(self.call, grads.c0)
        return grads
