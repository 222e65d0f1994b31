# SPDX-License-Identifier: MIT
"""Unrolling a layer over time: the loops over steps, chunks and threads, forward and BPTT, for every cell.

_unroll.pxd says what ranks, packed rows and the letters are; r0..r1-1 are the ranks of one thread, s0..s1-1 the steps
of a chunk.
"""

from fastrnn._kernels cimport (
    Memory,
    add,
    add_rows,
    address,
    barrier,
    gemm,
    lanes,
    meet,
    outer,
    punctual,
    real,
    run as run_shared,
)

from libc.string cimport memcpy, memset

import numpy as np

from fastrnn._records import Grads

WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")

cdef int threads = 1

# Bytes of the hoisted projection, or of the rows it reads, between two turns of the time loop: half of an L2 cache.
cdef Py_ssize_t CHUNK_BYTES = 512 * 1024
cdef Py_ssize_t CHUNK_ROWS = 24    # fewest rows for which a panel of W_ih is worth reading
cdef Py_ssize_t BACK_ROWS = 256    # of a chunk of BPTT: deep enough for the weight gradients' sums to pay
cdef double SHARED_FLOPS = 2e7     # below, waking a thread costs more than it brings
cdef Py_ssize_t SHARED_WEIGHTS = 60000  # that a step reads: below, threads would wait for each other more than work


def set_threads(int n):
    global threads
    threads = n


def set_shared_flops(double flops):
    """From how many flops on a call's rows are shared out; the value before. For tests and benchmarks."""
    global SHARED_FLOPS
    before, SHARED_FLOPS = SHARED_FLOPS, flops
    return before


def set_shared_weights(Py_ssize_t weights):
    """From how many weights of a step on its units are shared out; the value before. For tests and benchmarks: with 0
    they always are, even if the threads have met late before."""
    global SHARED_WEIGHTS
    before, SHARED_WEIGHTS = SHARED_WEIGHTS, weights
    return before


# ---- sharing work out -----------------------------------------------------------------------------------------------


cdef int parts_for(Py_ssize_t B, double flops) noexcept nogil:
    """Threads for a job whose rows can be shared out."""
    return 1 if flops < SHARED_FLOPS else <int>max(min(<Py_ssize_t>threads, B), 1)


cdef int parts_by_units(Py_ssize_t B, double flops, Py_ssize_t weights, Py_ssize_t H, Py_ssize_t unit) noexcept nogil:
    """Threads for a job of a single row, whose units can be shared out where a step is long enough to meet after it."""
    if threads == 1 or B != 1 or flops < SHARED_FLOPS or weights < SHARED_WEIGHTS:
        return 1
    if SHARED_WEIGHTS > 0 and not punctual():
        return 1
    return <int>max(min(<Py_ssize_t>threads, H // unit), 1)


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


cdef void share_units(Py_ssize_t H, Py_ssize_t itemsize, int part, int parts, Py_ssize_t* u0,
                      Py_ssize_t* U) noexcept nogil:
    """The units u0..u0+U-1 of a part: whole panels."""
    cdef Py_ssize_t panel = 4 * lanes(itemsize), panels = (H + panel - 1) // panel
    u0[0] = min(panels * part // parts * panel, H)
    U[0] = min(panels * (part + 1) // parts * panel, H) - u0[0]


cdef void share(const Sequence* q, int part, int parts, Py_ssize_t* r0, Py_ssize_t* r1) noexcept nogil:
    """The ranks r0..r1-1 of a part."""
    r0[0] = cut(q, part, parts) if part > 0 else 0
    r1[0] = cut(q, part + 1, parts) if part + 1 < parts else q.B


# ---- rows and steps -------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t before(const Sequence* q, Py_ssize_t s) noexcept nogil:
    """Packed rows before step s."""
    return q.start[s] if q.start != NULL else s * q.B


cdef inline Py_ssize_t at_work(const Sequence* q, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """How many of the ranks r0..r1-1 step s still has; they are the first ones."""
    cdef Py_ssize_t n = q.alive[s] if q.alive != NULL else q.B
    return max(min(n, r1) - r0, 0)


cdef inline Py_ssize_t offset(const View* v, const Sequence* q, Py_ssize_t s, Py_ssize_t r) noexcept nogil:
    """Where the caller keeps rank r's row of step s, in elements."""
    cdef Py_ssize_t t = s, row = q.order[r] if q.order != NULL else r
    if q.reverse:
        t = (q.lengths[r] if q.lengths != NULL else q.T) - 1 - s
    return t * v.step + row * v.row


cdef inline bint consecutive(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t n) noexcept nogil:
    """Whether n ranks' rows follow each other in the caller's array as they do when packed, over all steps."""
    return q.direct and not q.reverse and q.alive == NULL and v.step == n * width and (n == 1 or v.row == width)


cdef void gather(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                 real* to) noexcept nogil:
    """n rows of step s, from rank r0 on, out of the caller's array."""
    cdef Py_ssize_t r
    for r in range(r0, r0 + n):
        memcpy(to, <real*>v.data + offset(v, q, s, r), width * sizeof(real))
        to += width


cdef void scatter(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                  const real* rows) noexcept nogil:
    """The reverse of gather."""
    cdef Py_ssize_t r
    for r in range(r0, r0 + n):
        memcpy(<real*>v.data + offset(v, q, s, r), rows, width * sizeof(real))
        rows += width


cdef void add_gathered(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                       real* to) noexcept nogil:
    """to += the rows that gather would bring; v.data may be NULL for zeros."""
    cdef Py_ssize_t r
    if v.data == NULL or n == 0:
        return
    if q.direct:
        add(n, width, <const real*>v.data + offset(v, q, s, r0), v.row, to, width)
        return
    for r in range(r0, r0 + n):
        add(1, width, <const real*>v.data + offset(v, q, s, r), width, to, width)
        to += width


# ---- arrays to views and packed weights -----------------------------------------------------------------------------


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


# ---- forward --------------------------------------------------------------------------------------------------------


cdef Py_ssize_t chunk_end(const Job* j, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The step after the last one of a chunk that begins at s; s itself when no row is at work any more."""
    cdef Py_ssize_t n, rows = 0
    while s < j.q.T:
        n = at_work(&j.q, s, r0, r1)
        if n == 0 or (rows > 0 and rows + n > j.chunk):
            break
        rows += n
        s += 1
    return s


cdef void project(const Job* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1, real* x_rows,
                  real* z) noexcept nogil:
    """z = x W_ih^T + b for the rows at work in the steps of a chunk, packed."""
    cdef Py_ssize_t s, n, rows = 0, GH = j.G * j.H
    cdef const real* x = x_rows
    if consecutive(&j.x, &j.q, j.I, r1 - r0):
        x = <const real*>j.x.data + offset(&j.x, &j.q, s0, r0)
        rows = (s1 - s0) * (r1 - r0)
    else:
        for s in range(s0, s1):
            n = at_work(&j.q, s, r0, r1)
            gather(&j.x, &j.q, j.I, s, r0, n, x_rows + rows * j.I)
            rows += n
    gemm(rows, GH, j.I, x, j.I, <const real*>j.w_ih, <const real*>j.bias, 0, z, GH)


cdef void project_share(const Job* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts, real* x_rows,
                        real* z) noexcept nogil:
    """This part's steps of a chunk's projection, when all parts have all rows."""
    cdef Py_ssize_t first = s0 + (s1 - s0) * part // parts, end = s0 + (s1 - s0) * (part + 1) // parts
    cdef Py_ssize_t rows = before(&j.q, first) - before(&j.q, s0)
    project(j, first, end, 0, j.q.B, x_rows + rows * j.I, z + rows * j.G * j.H)
    barrier(parts)


cdef void forward_rows(const Job* j, Py_ssize_t r0, Py_ssize_t r1, int part, int parts, real* work) noexcept nogil:
    """All steps of the ranks r0..r1-1, chunk by chunk: their projections at once, then step by step.

    parts > 1: as many threads do this together, each with its share of the units, in one workspace."""
    cdef Py_ssize_t s0 = 0, s1, s, P = j.P, B = r1 - r0, GH = j.G * j.H
    cdef real* turns = work                      # where h lives if it has no place in `out`: two steps in turn
    cdef real* z_rows = turns + B * (2 * P + j.extra)
    cdef real* z
    cdef Step a
    a.r0, a.h_prev, a.ldh_prev, a.ldh, a.tape = r0, <const real*>j.h0 + r0 * P, P, P, NULL
    a.scratch = turns + 2 * B * P
    share_units(j.H, sizeof(real), part, parts, &a.u0, &a.U)
    s1 = chunk_end(j, s0, r0, r1)
    while s1 > s0:
        if parts == 1:
            project(j, s0, s1, r0, r1, z_rows + max(j.chunk, B) * GH, z_rows)
        else:
            project_share(j, s0, s1, part, parts, z_rows + max(j.chunk, B) * GH, z_rows)
        z = z_rows
        for s in range(s0, s1):
            a.s, a.n, a.z = s, at_work(&j.q, s, r0, r1), z
            if j.q.direct:
                a.h, a.ldh = <real*>j.out.data + offset(&j.out, &j.q, s, r0), j.out.row
            else:
                a.h = turns + (s & 1) * B * P
            if j.tape != NULL:
                a.tape = <real*>j.tape + (before(&j.q, s) + r0) * j.tape_width
            j.step(j, &a)
            meet(parts)
            if part == 0 and not j.q.direct:
                scatter(&j.out, &j.q, P, s, r0, a.n, <const real*>a.h)
            a.h_prev, a.ldh_prev = a.h, a.ldh
            z += a.n * GH
        s0 = s1
        s1 = chunk_end(j, s0, r0, r1)


cdef void forward_task(void* job, int part, int parts) noexcept nogil:
    cdef Job* j = <Job*>job
    cdef Py_ssize_t r0, r1
    if j.by_units:
        if j.wide:
            forward_rows(j, 0, j.q.B, part, parts, <double*>j.work)
        else:
            forward_rows(j, 0, j.q.B, part, parts, <float*>j.work)
        return
    share(&j.q, part, parts, &r0, &r1)
    if j.wide:
        forward_rows(j, r0, r1, 0, 1, <double*>j.work + part * j.work_each)
    else:
        forward_rows(j, r0, r1, 0, 1, <float*>j.work + part * j.work_each)


cdef tuple run_forward(object call, bint training, object out, Packed w,
                       void (*step)(const Job* j, const Step* a) noexcept nogil, Py_ssize_t tape_parts,
                       Py_ssize_t extra):
    """Run a cell forward: (out, h_n, c_n, saved). tape_parts: H-wide parts of a row of its tape."""
    cdef Job j
    cdef Py_ssize_t size = call.dtype.itemsize, rows
    cdef double flops
    cdef int parts
    memset(&j, 0, sizeof(j))
    j.q = sequence_of(call)
    j.wide = size == 8
    j.variant = call.variant in ("relu", "reset_before")
    j.I, j.H, j.P, j.extra, j.step = call.I, call.H, call.P, extra, step
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
        j.chunk = min(max(CHUNK_ROWS, CHUNK_BYTES // (max(j.G * j.H, j.I) * size)), j.q.R)
        flops = 2.0 * j.q.R * j.G * j.H * (j.I + j.P)
        parts = parts_for(j.q.B, flops)
        if j.w_hr == NULL and j.w_hn == NULL and parts == 1:
            parts = parts_by_units(j.q.B, flops, j.G * j.H * j.P, j.H, 4 * lanes(size))
            j.by_units = parts > 1
        rows = max(j.chunk, j.q.B)
        j.work_each = rows * (j.G * j.H + j.I) + j.q.B * (2 * j.P + extra)
        workspace = Memory(j.work_each * parts * size)
        j.work = (<Memory>workspace).at
        with nogil:
            run_shared(forward_task, &j, parts)
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


# ---- backward -------------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t chunk_start(const BackJob* j, Py_ssize_t s1) noexcept nogil:
    """The first step of the chunk that ends before s1. Chunks are cut from step 0 on, whatever T is, so that a padded
    batch sums its weight gradients in the same order as an unpadded one."""
    return (s1 - 1) // j.steps * j.steps


cdef void gather_now(const View* v, const BackJob* j, const BackStep* a, Py_ssize_t width, void* to) noexcept nogil:
    """The rows of a step, out of a caller's array."""
    if j.wide:
        gather(v, &j.q, width, a.s, a.r0, a.n, <double*>to)
    else:
        gather(v, &j.q, width, a.s, a.r0, a.n, <float*>to)


cdef void gather_previous(const BackJob* j, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n, real* to) noexcept nogil:
    """h_prev of n rows of step s."""
    if s == 0:
        memcpy(to, <const real*>j.h0 + r0 * j.P, n * j.P * sizeof(real))
    else:
        gather(&j.out, &j.q, j.P, s - 1, r0, n, to)


cdef void backward_rows(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                        real* scratch) noexcept nogil:
    """BPTT over the steps of a chunk for the ranks r0..r1-1; leaves dz and the rows that the products need."""
    cdef Py_ssize_t s, n, first = before(&j.q, s0), row
    cdef real* h_prev
    cdef BackStep a
    a.r0, a.dh, a.dc, a.scratch = r0, <real*>j.dh + r0 * j.P, <real*>j.dc + r0 * j.H, scratch
    for s in range(s1 - 1, s0 - 1, -1):
        n = at_work(&j.q, s, r0, r1)
        row = before(&j.q, s) + r0 - first
        h_prev = <real*>j.h_rows + row * j.P
        gather(&j.x, &j.q, j.I, s, r0, n, <real*>j.x_rows + row * j.I)
        gather_previous(j, s, r0, n, h_prev)
        add_gathered(&j.grad_out, &j.q, j.P, s, r0, n, <real*>a.dh)
        a.s, a.n, a.row, a.h_prev, a.dz = s, n, row, h_prev, <real*>j.dz + row * j.width
        a.tape, a.tape_prev = <const real*>j.tape + (first + row) * j.tape_width, NULL
        if s > 0:
            a.tape_prev = <const real*>j.tape + (before(&j.q, s - 1) + r0) * j.tape_width
        j.back(j, &a)


cdef void weight_gradients(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts,
                           real* work) noexcept nogil:
    """This part's share of the products of one chunk: whole sums, so that each of them keeps its order."""
    cdef Py_ssize_t K = before(&j.q, s1) - before(&j.q, s0), m0, m1
    cdef const Product* p
    cdef int i
    for i in range(j.n_products):
        p = &j.products[i]
        m0, m1 = p.M * part // parts, p.M * (part + 1) // parts
        outer(K, m1 - m0, p.N, <const real*>p.dz + m0, p.ld, <const real*>p.rows, p.N, <real*>p.w + m0 * p.N, p.N,
              work)
    m0, m1 = j.width * part // parts, j.width * (part + 1) // parts
    add_rows(K, m1 - m0, <const real*>j.dz + m0, j.width, <real*>j.sums + m0)


cdef void input_gradients(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts,
                          real* work) noexcept nogil:
    """This part's share of dx = dz W_ih for one chunk: a run of packed rows."""
    cdef Py_ssize_t first = before(&j.q, s0), K = before(&j.q, s1) - first, s = s0
    cdef Py_ssize_t k0 = K * part // parts, k1 = K * (part + 1) // parts, k
    cdef bint in_place = consecutive(&j.dx, &j.q, j.I, j.q.B)
    cdef real* to = <real*>j.dx.data + (first + k0) * j.I if in_place else work
    gemm(k1 - k0, j.I, j.G * j.H, <const real*>j.dz + k0 * j.width, j.width, <const real*>j.w_ih, <const real*>NULL, 0,
         to, j.I)
    if in_place:
        return
    for k in range(k0, k1):
        while first + k >= before(&j.q, s + 1):
            s += 1
        scatter(&j.dx, &j.q, j.I, s, first + k - before(&j.q, s), 1, work + (k - k0) * j.I)


cdef void backward_part(const BackJob* j, int part, int parts, real* work) noexcept nogil:
    """This part's rows of every chunk's time loop, then, when all have theirs, its share of the products."""
    cdef Py_ssize_t r0, r1, s0, s1 = j.q.T
    if j.by_units:
        r0, r1 = 0, j.q.B if part == 0 else 0
    else:
        share(&j.q, part, parts, &r0, &r1)
    while s1 > 0:
        s0 = chunk_start(j, s1)
        if r1 > r0:
            backward_rows(j, s0, s1, r0, r1, work)
        barrier(parts)
        input_gradients(j, s0, s1, part, parts, work)
        weight_gradients(j, s0, s1, part, parts, work)
        barrier(parts)
        s1 = s0


cdef void backward_task(void* job, int part, int parts) noexcept nogil:
    cdef BackJob* j = <BackJob*>job
    if j.wide:
        backward_part(j, part, parts, <double*>j.work + part * j.work_each)
    else:
        backward_part(j, part, parts, <float*>j.work + part * j.work_each)


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

    cdef void run(self, void (*back)(const BackJob* j, const BackStep* a) noexcept nogil) except *:
        cdef BackJob* j = &self.j
        cdef double flops = 4.0 * j.q.R * j.G * j.H * (j.I + j.P)
        cdef int parts = parts_for(j.q.B, flops)
        if parts == 1:
            parts = parts_by_units(j.q.B, flops, j.G * j.H * j.P, j.H, 1)
            j.by_units = parts > 1
        if j.q.R == 0:
            return
        j.back = back
        j.work_each = self.chunk_rows() * max(4 * lanes(self.itemsize), j.I) + j.q.B * j.H
        j.work = <char*>self.block(j.work_each * parts)
        with nogil:
            run_shared(backward_task, j, parts)

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
