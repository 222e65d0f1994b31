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
    transpose,
)

from libc.string cimport memcpy, memset

import numpy as np

from fastrnn._records import Grads

cdef int threads = 1

# Bytes of the hoisted projection that are written before the time loop reads them: half of a typical L2 cache.
cdef Py_ssize_t CHUNK_BYTES = 512 * 1024
cdef Py_ssize_t CHUNK_ROWS = 24    # fewest rows for which a panel of W_ih is worth reading
cdef Py_ssize_t BACK_ROWS = 256    # of a chunk of BPTT: deep enough for the weight gradients' sums to pay
cdef double SHARED_FLOPS = 2e7     # below, waking a thread costs more than it brings


def set_threads(int n):
    global threads
    threads = n


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


cdef void columns_of(Py_ssize_t N, Py_ssize_t itemsize, int part, int parts, Py_ssize_t* n0,
                     Py_ssize_t* n1) noexcept nogil:
    """The columns n0..n1-1 of a part: whole panels."""
    cdef Py_ssize_t panel = 4 * lanes(itemsize), panels = (N + panel - 1) // panel
    n0[0] = min(panels * part // parts * panel, N)
    n1[0] = min(panels * (part + 1) // parts * panel, N)


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
    tape = np.empty((j.q.R, tape_parts * j.H), call.dtype) if training else None
    if j.q.R > 0:
        if w.lanes != lanes(size):
            raise RuntimeError("packed weights: made for another instruction set")
        j.x, j.out = view_of(call.x), view_of(out, True)
        j.h0, j.c, j.tape, j.tape_width = address(h0), address(c, True), address(tape, True), tape_parts * j.H
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
    return out, h_n, None if c is None else by_row(call, c), (tape, h0, c0) if training else None


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


cdef class Backward:
    def __cinit__(self, tape, grad_out, grad_h_n, grad_c_n, into, Py_ssize_t width):
        cdef BackJob* j = &self.j
        cdef Py_ssize_t K
        call = tape.call
        saved, h0, c0 = tape.saved
        self.call, self.into, self.keep = call, into, [tape]
        self.itemsize = call.dtype.itemsize
        memset(j, 0, sizeof(BackJob))
        j.q = sequence_of(call)
        j.wide = self.itemsize == 8
        j.variant = call.variant in ("relu", "reset_before")
        j.I, j.H, j.P, j.width = call.I, call.H, call.P, width
        j.G = call.w_hh.shape[0] // j.H
        self.x = (np.empty if call.ragged is None else np.zeros)((j.q.T, j.q.B, j.I), call.dtype)
        self.h0 = by_rank(call, grad_h_n, j.P)
        self.c0 = None if c0 is None else by_rank(call, grad_c_n, j.H)
        self.keep.append(grad_out)
        j.x, j.out, j.dx, j.grad_out = view_of(call.x), view_of(tape.out), view_of(self.x, True), view_of(grad_out)
        j.tape, j.tape_width = address(saved), saved.shape[1]
        j.h0, j.c0, j.dh, j.dc = address(h0), address(c0), address(self.h0, True), address(self.c0, True)
        j.steps = max(BACK_ROWS // max(j.q.B, 1), 1)
        K = self.chunk_rows()
        j.x_rows, j.h_rows, j.dz = self.block(K * j.I), self.block(K * j.P), self.block(K * width)

    cdef Py_ssize_t chunk_rows(self):
        return min(self.j.steps * self.j.q.B, self.j.q.R)

    cdef void* block(self, Py_ssize_t n, bint zero=False) except NULL:
        """n elements that live as long as this pass."""
        memory = Memory(n * self.itemsize)
        self.keep.append(memory)
        if zero:
            memset((<Memory>memory).at, 0, n * self.itemsize)
        return (<Memory>memory).at

    cdef Product* product(self, void* a, Py_ssize_t lda, Py_ssize_t M, void* d, Py_ssize_t ldd, Py_ssize_t N,
                          bint sums) except NULL:
        cdef Product* p = &self.j.products[self.j.n_products]
        cdef Py_ssize_t width = padded(N, self.itemsize)
        p.a, p.lda, p.M, p.d, p.ldd, p.N = a, lda, M, d, ldd, N
        p.acc = self.block(M * width, True)
        p.sums = self.block(width, True) if sums else NULL
        self.j.n_products += 1
        return p

    cdef void run(self, frnn_task task) except *:
        cdef BackJob* j = &self.j
        cdef Py_ssize_t K = self.chunk_rows()
        cdef int parts = parts_for(j.q.B, 6.0 * j.q.R * j.G * j.H * (j.I + j.P))
        if j.q.R == 0:
            return
        j.work_each = K * max(4 * lanes(self.itemsize), j.I) + j.q.B * j.H
        j.work = <char*>self.block(j.work_each * parts)
        with nogil:
            run(task, j, parts)

    cdef object weight(self, str name, object like):
        """The array for a weight's gradient."""
        if like is None:
            return None
        return np.empty_like(like) if self.into is None else getattr(self.into, name)

    cdef void give_weight(self, Product* p, Py_ssize_t first, object to, Py_ssize_t row, Py_ssize_t rows) except *:
        """to[row:row+rows] = acc[:, first:first+rows]^T."""
        cdef char* at = <char*>address(to, True) + row * p.M * self.itemsize
        cdef Py_ssize_t ld = padded(p.N, self.itemsize)
        if self.itemsize == 4:
            transpose(p.M, rows, <const float*>p.acc + first, ld, <float*>at, p.M)
        else:
            transpose(p.M, rows, <const double*>p.acc + first, ld, <double*>at, p.M)

    cdef void give_bias(self, Product* p, Py_ssize_t first, object to, Py_ssize_t row, Py_ssize_t rows) except *:
        """to[row:row+rows] = sums[first:first+rows]."""
        if to is not None:
            memcpy(<char*>address(to, True) + row * self.itemsize, <char*>p.sums + first * self.itemsize,
                   rows * self.itemsize)

    cdef object states(self, object grads):
        """The gradients of the initial states, in the caller's order."""
        grads.h0 = by_row(self.call, self.h0)
        grads.c0 = None if self.c0 is None else by_row(self.call, self.c0)
        return grads
