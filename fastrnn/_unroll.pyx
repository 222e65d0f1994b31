# SPDX-License-Identifier: MIT
"""Unrolling a layer over time: the loops over steps, chunks and threads, for every cell.

Letters as in _unroll.pxd, and: r0..r1-1 the ranks of one thread, s0..s1-1 the steps of a chunk. _rows.pxd says what
ranks and packed rows are.
"""

from fastrnn._arrays cimport Array, address, fields
from fastrnn._kernels cimport (
    FRNN_MOST_THREADS,
    Memory,
    array_of,
    barrier,
    copy,
    frnn_task,
    gemm,
    gemm_unpacked,
    lanes,
    packed_columns,
    plain,
    real,
    run_task,
    worth,
)
from fastrnn._rows cimport (
    Sequence,
    View,
    at_work,
    before,
    clear_padding,
    consecutive,
    from_column,
    gather,
    offset,
    scatter,
)

from libc.math cimport INFINITY, ilogb
from libc.string cimport memcpy, memset

from numpy import empty_like, zeros

cdef int threads = 1, processors = 1

# Bytes of a chunk, its hoisted projection and the rows of x: little of an L2 cache, which has the weights and the
# caller's arrays to hold as well. Where W_ih is so large that no cache holds it beside W_hh, half its own bytes: to
# bring W_ih once more would take longer than to bring the chunk.
cdef Py_ssize_t CHUNK_BYTES = 128 * 1024, LARGE_W_IH = 8 * 1024 * 1024
cdef Py_ssize_t CHUNK_ROWS = 128   # fewest rows for which a panel of W_ih is worth reading
cdef double SHARED_FLOPS = 4e6     # below, some 20 us, a thread is not worth its wait for the next call
# Fewest weights of a step, for each of its rows, for its units to be shared out: with fewer, threads would wait for
# each other more than they save. So many times as many where units cannot be shared out as evenly as rows.
cdef Py_ssize_t SHARED_WEIGHTS = 12000, UNEVEN = 4


def set_threads(int n, int useful=FRNN_MOST_THREADS):
    """Let a call use n threads, or as many as there can be; returns how many that is. useful: no call takes more of its
    own accord, since they would only be in each other's way."""
    global threads, processors
    threads, processors = min(n, FRNN_MOST_THREADS), useful
    return threads


def set_shared_flops(double flops):
    """Share a call out from so many flops on; returns the value so far. For tests and benchmarks: with 0 every call is,
    whatever has been learned."""
    global SHARED_FLOPS
    so_far, SHARED_FLOPS = SHARED_FLOPS, flops
    return so_far


def set_shared_weights(Py_ssize_t a_row):
    """Share the units of a step out from so many weights for each row on; returns the value so far. For tests and
    benchmarks."""
    global SHARED_WEIGHTS
    so_far, SHARED_WEIGHTS = SHARED_WEIGHTS, a_row
    return so_far


# ---- sharing work out -----------------------------------------------------------------------------------------------


cdef bint better_by_units(Py_ssize_t B, Py_ssize_t H, Py_ssize_t weights, Py_ssize_t itemsize, int n) noexcept nogil:
    """Whether n threads had better share out the units of a step than its rows.

    To share units costs a barrier after every step, but then no thread reads all weights for some rows only: the one
    way for a lone row, and the better one as long as weights, not rows, are what takes the time. But units go by whole
    panels, and the largest share may be more than a tenth above that of the rows."""
    cdef Py_ssize_t panel = 4 * lanes(itemsize), panels = (H + panel - 1) // panel
    cdef Py_ssize_t units = min((panels + n - 1) // n * panel, H), rows = (B + n - 1) // n
    cdef bint uneven = 10 * units * B > 11 * rows * H
    return H >= 2 * panel and weights >= B * SHARED_WEIGHTS * (UNEVEN if uneven else 1)


cdef Shares shares_of(frnn_task task, Py_ssize_t B, double flops, bint divisible, Py_ssize_t weights, Py_ssize_t H,
                      Py_ssize_t itemsize) noexcept nogil:
    """Threads for a job, and whether they share out its units, if these are divisible, or its rows; a kind, if it is
    one of those whose worth is learned: alike are those with less than twice as much to do."""
    cdef Shares its
    cdef unsigned long long key = <size_t>task + itemsize
    cdef int most = threads if SHARED_FLOPS == 0 else min(threads, processors)
    its.by_units = divisible and better_by_units(B, H, weights, itemsize, most)
    its.parts = <int>min(<Py_ssize_t>most, H // (4 * lanes(itemsize)) if its.by_units else B)
    its.kind.key, its.kind.work = 0, flops
    if flops < SHARED_FLOPS:
        its.parts = 1
    elif its.parts > 1 and SHARED_FLOPS > 0:
        key = (((key * 31 + ilogb(flops)) * 31 + weights) * 31 + B) * 31 + its.parts
        its.kind.key = key | 1
        if not worth(its.kind):
            its.parts = 1
    its.by_units = its.by_units and its.parts > 1
    return its


cdef Py_ssize_t first_rank(const Sequence* q, Py_ssize_t s0, Py_ssize_t s1, int part, int parts) noexcept nogil:
    """The first rank of a part; parts have about the same number of steps among s0..s1-1."""
    cdef Py_ssize_t r, steps = 0, all_steps = before(q, s1) - before(q, s0)
    if q.lengths == NULL:
        return q.B * part // parts
    for r in range(q.B):
        if steps * parts >= all_steps * part:
            return r
        steps += max(min(q.lengths[r], s1) - s0, 0)
    return q.B


cdef void share_units(Py_ssize_t H, Py_ssize_t itemsize, int part, int parts, Py_ssize_t* u0,
                      Py_ssize_t* U) noexcept nogil:
    """The units u0..u0+U-1 of a part: whole panels."""
    cdef Py_ssize_t panel = 4 * lanes(itemsize), panels = (H + panel - 1) // panel
    u0[0] = min(panels * part // parts * panel, H)
    U[0] = min(panels * (part + 1) // parts * panel, H) - u0[0]


cdef void share_ranks(const Sequence* q, Py_ssize_t s0, Py_ssize_t s1, int part, int parts, Py_ssize_t* r0,
                      Py_ssize_t* r1) noexcept nogil:
    """The ranks r0..r1-1 of a part, for the steps s0..s1-1."""
    r0[0] = first_rank(q, s0, s1, part, parts) if part > 0 else 0
    r1[0] = first_rank(q, s0, s1, part + 1, parts) if part + 1 < parts else q.B


# ---- arrays ---------------------------------------------------------------------------------------------------------


cdef View view_of(object array, const Sequence* q, Py_ssize_t itemsize, bint writable=False) except *:
    """An array (T, B, width), or, packed, (R, width); None gives NULL."""
    cdef View v
    cdef const Py_ssize_t* strides
    v.data, v.step, v.row, v.start = <char*>address(array, writable), 0, 0, NULL
    if v.data != NULL:
        strides = fields(array).strides
        if fields(array).nd == 2:
            v.start, v.row = q.start, strides[0] // itemsize
        else:
            v.step, v.row = strides[0] // itemsize, strides[1] // itemsize
    return v


cdef inline View laid_out(void* data, const Sequence* q, Py_ssize_t width, bint batch_first) noexcept nogil:
    """A C-contiguous array (T, B, width), or (B, T, width)."""
    cdef View v
    v.data, v.start = <char*>data, NULL
    v.step, v.row = (width, q.T * width) if batch_first else (q.B * width, width)
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


cdef by_rank(object ragged, object state, tuple shape, object dtype):
    """An initial state or final gradient in the order of ranks, always a new array; None gives zeros."""
    if state is None:
        return zeros(shape, dtype)
    if ragged is None or ragged.in_order:
        return state.copy()
    return state.reshape(shape)[ragged.order]  # another thread may have changed it


cdef by_row(object ragged, object state):
    """The reverse; None stays None."""
    if state is None or ragged is None or ragged.in_order:
        return state
    rows = empty_like(state)
    rows[ragged.order] = state
    return rows


# ---- forward --------------------------------------------------------------------------------------------------------


cdef Py_ssize_t chunk_rows(const Job* j) noexcept nogil:
    """Rows of a chunk, at most or one step's."""
    cdef Py_ssize_t GH = j.G * j.H, size = itemsize(j), w_ih = GH * j.I * size
    cdef Py_ssize_t bytes = CHUNK_BYTES if w_ih < LARGE_W_IH else w_ih // 2
    return min(max(CHUNK_ROWS, bytes // ((GH + j.I) * size)), j.q.R)


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


cdef const real* inputs(const Job* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1, real* x_rows,
                        Py_ssize_t* rows) noexcept nogil:
    """x of the rows at work in the steps s0..s1-1, packed: where it is, if it is, or else gathered in x_rows."""
    cdef Py_ssize_t s, n
    rows[0] = 0
    if consecutive(&j.x, &j.q, j.I, r1 - r0):
        rows[0] = before(&j.q, s1) - before(&j.q, s0) if r1 - r0 == j.q.B else (s1 - s0) * (r1 - r0)
        return <const real*>j.x.data + offset(&j.x, &j.q, s0, r0)
    for s in range(s0, s1):
        n = at_work(&j.q, s, r0, r1)
        gather(&j.x, &j.q, j.I, s, r0, n, x_rows + rows[0] * j.I, j.I)
        rows[0] += n
    return x_rows


cdef void project(const Job* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1, int part, int parts,
                  real* x_rows, real* z, real* panel) noexcept nogil:
    """z = x W_ih^T + b for the rows at work in the steps of a chunk, packed.

    parts > 1: they share out the steps to bring x together, and, when all of it is there, the units of z, which are
    then read across the parts' bounds."""
    cdef Py_ssize_t first = s0 + (s1 - s0) * part // parts, end = s0 + (s1 - s0) * (part + 1) // parts
    cdef Py_ssize_t GH = j.G * j.H, skipped = 0, rows, u0, U
    if parts > 1:
        skipped = before(&j.q, first) - before(&j.q, s0)
    cdef const real* x = inputs(j, first, end, r0, r1, x_rows + skipped * j.I, &rows) - skipped * j.I
    barrier(parts)
    if parts > 1:
        rows = before(&j.q, s1) - before(&j.q, s0)
    share_units(GH, sizeof(real), part, parts, &u0, &U)
    cdef const real* bias = <const real*>j.bias + u0
    if j.w_ih != NULL:
        gemm(0, rows, U, j.I, x, j.I, <const real*>j.w_ih + u0 * j.I, bias, 0, z + u0, GH)
    else:
        gemm_unpacked(rows, U, j.I, x, j.I, <const real*>j.w_ih_given + u0 * j.I, bias, 0, z + u0, GH, panel)
    barrier(parts)


cdef void give_last(const Job* j, const Step* a, Py_ssize_t r1, const real* h) noexcept nogil:
    """h, that of a step, to h_n for the ranks that have no other."""
    cdef Py_ssize_t i, row, left = at_work(&j.q, a.s + 1, a.r0, r1) if a.s + 1 < j.q.T else 0
    for i in range(left, a.n):
        row = a.r0 + i if j.q.order == NULL else j.q.order[a.r0 + i]
        copy(1, j.P, h + i * a.ldh, NULL, 0, <real*>j.h_n + row * j.P, NULL, 0)


cdef inline void place_results(const Job* j, Step* a, bint in_place, real* turns, Py_ssize_t B) noexcept nogil:
    """Where a step of B rows at most writes h, among those of a tape, in `out`, or one of two places in turns; and its
    part of the tape."""
    cdef Py_ssize_t packed = before(&j.q, a.s) + a.r0
    if j.h != NULL:
        a.h = <real*>j.h + (j.q.B + packed) * j.P
    elif in_place:
        a.h, a.ldh = <real*>j.out.data + offset(&j.out, &j.q, a.s, a.r0), j.out.row
    else:
        a.h = turns + (a.s & 1) * B * j.P
    if j.tape != NULL:
        a.tape = <real*>j.tape + packed * j.tape_width


cdef void forward_rows(const Job* j, Py_ssize_t r0, Py_ssize_t r1, int part, int parts, real* work) noexcept nogil:
    """All steps of the ranks r0..r1-1, chunk by chunk: their projections at once, then step by step.

    parts > 1: as many threads do this together, each with its share of the units, in one workspace."""
    cdef Py_ssize_t s0 = 0, s1, s, P = j.P, B = r1 - r0, GH = j.G * j.H, width = P
    cdef bint in_place = j.h == NULL and j.q.direct
    cdef real* turns = work                      # where h lives if a tape and `out` have no place for it: two steps
    cdef real* z_rows = turns + B * (2 * P + j.extra)
    cdef real* x_rows = z_rows + max(j.chunk, B) * GH
    cdef real* panel = work + j.work_each + (part - 1) * j.panel
    cdef real* z
    cdef View out
    cdef Step a
    a.r0, a.h_prev, a.ldh_prev, a.ldh, a.tape = r0, <const real*>j.h0 + r0 * P, P, P, NULL
    a.scratch = turns + 2 * B * P
    share_units(j.H, sizeof(real), part, parts, &a.u0, &a.U)
    out = from_column(&j.out, a.u0, sizeof(real))
    if parts > 1:
        width = a.U
    s1 = chunk_end(j, s0, r0, r1)
    while s1 > s0:
        project(j, s0, s1, r0, r1, part, parts, x_rows, z_rows, panel)
        z = z_rows
        for s in range(s0, s1):
            a.s, a.n, a.z = s, at_work(&j.q, s, r0, r1), z
            place_results(j, &a, in_place, turns, B)
            j.step(j, &a)
            if not in_place:
                scatter(&out, &j.q, width, s, r0, a.n, <const real*>a.h + a.u0, P)
            barrier(parts)
            if part == 0 and (s + 1 == j.q.T or j.q.lengths != NULL):
                give_last(j, &a, r1, <const real*>a.h)
            a.h_prev, a.ldh_prev = a.h, a.ldh
            z += a.n * GH
        s0 = s1
        s1 = chunk_end(j, s0, r0, r1)


cdef void forward_task(void* job, int part, int parts) noexcept nogil:
    cdef Job* j = <Job*>job
    cdef Py_ssize_t r0, r1
    if j.shares.by_units:
        if j.wide:
            forward_rows(j, 0, j.q.B, part, parts, <double*>j.work)
        else:
            forward_rows(j, 0, j.q.B, part, parts, <float*>j.work)
        return
    share_ranks(&j.q, 0, j.q.T, part, parts, &r0, &r1)
    if j.wide:
        forward_rows(j, r0, r1, 0, 1, <double*>j.work + part * j.work_each)
    else:
        forward_rows(j, r0, r1, 0, 1, <float*>j.work + part * j.work_each)


cdef int run_job(Job* j, PackedWeights w, Memory tape) except -1:
    """All that is left to be found out about a job, then the job."""
    cdef Py_ssize_t size = itemsize(j), GH = j.G * j.H, rows
    cdef double flops = 2.0 * j.q.R * GH * (j.I + j.P)
    if j.lanes != lanes(size):
        raise RuntimeError("packed weights: made for another instruction set")
    if j.q.R == 0:
        return 0
    j.tape = NULL if tape is None else tape.at
    j.chunk = chunk_rows(j)
    j.shares = shares_of(forward_task, j.q.B, flops, j.w_hr == NULL and j.clip == 0, GH * j.P, j.H, size)
    # So few rows, and all weights would be packed only to be read once or twice: a panel at a time stays in the cache.
    if j.w_ih == NULL and (j.shares.parts == 1 or j.shares.by_units) and j.q.R <= max(j.I, j.chunk):
        j.w_ih_given, j.chunk, j.panel = address(w.w_ih), j.q.R, 4 * j.lanes * j.I
    elif j.w_ih == NULL:
        w.pack_inputs()
        j.w_ih = w.job.w_ih
    rows = max(j.chunk, j.q.B)
    j.work_each = rows * (GH + j.I) + j.q.B * (2 * j.P + j.extra) + j.panel
    cdef Py_ssize_t more = j.panel if j.shares.by_units else j.work_each
    cdef Memory workspace = Memory((j.work_each + (j.shares.parts - 1) * more) * size)
    j.work = workspace.at
    with nogil:
        run_task(forward_task, j, j.shares.parts, j.shares.kind)
    return 0


cdef inline Py_ssize_t itemsize(const Job* j) noexcept nogil:
    return 8 if j.wide else 4


cdef object state_of(object given, Py_ssize_t B, Py_ssize_t width, object dtype):
    """A new (1, B, width) with what is given, zeros for None; None if that is not just such an array."""
    if given is None:
        return zeros((1, B, width), dtype)
    cdef const Array* a = plain(given, dtype.itemsize, 0)
    if a == NULL or a.nd != 3 or a.dimensions[0] != 1 or a.dimensions[1] != B or a.dimensions[2] != width:
        return None
    return given.copy()


cdef class PackedWeights:
    """The weights of one layer and direction, packed, and all of a Job that follows from them."""

    cdef const void* hold(self, Memory memory):
        """Where this memory is, kept alive from now on."""
        self.keep.append(memory)
        return memory.at

    def pack_inputs(self):
        """Pack W_ih, too."""
        cdef Job* j = &self.job
        j.w_ih = self.hold(packed_columns(self.w_ih, j.I, j.G * j.H, True))
        self.w_ih = None

    def serve(self, x, state, bint batch_first):
        """A layer's call, checked here and fast, on plain arrays: x (T, B, I), or (B, T, I), and its initial state.
        Gives `out` and the final state; None, with nothing done, for anything else."""
        cdef Job j = self.job
        cdef bint lstm = self.lstm
        cdef const Array* a = plain(x, itemsize(&j), 0)
        if a == NULL or a.nd != 3 or a.dimensions[2] != j.I or a.dimensions[0] == 0 or a.dimensions[1] == 0:
            return None
        if lstm and state is not None and (type(state) is not tuple or len(state) != 2):
            return None
        j.q.T, j.q.B = a.dimensions[batch_first], a.dimensions[not batch_first]
        h0, c0 = state if lstm and state is not None else (state, None)
        h, c = state_of(h0, j.q.B, j.P, self.dtype), state_of(c0, j.q.B, j.H, self.dtype) if lstm else None
        if h is None or lstm and c is None:
            return None
        j.q.R, j.q.direct = j.q.T * j.q.B, True
        shape = (j.q.B, j.q.T, j.P) if batch_first else (j.q.T, j.q.B, j.P)
        out = array_of(j.q.R * j.P * itemsize(&j), shape, self.dtype)
        j.x, j.out = laid_out(a.data, &j.q, j.I, batch_first), laid_out(address(out), &j.q, j.P, batch_first)
        j.h0 = j.h_n = address(h)
        j.c = address(c)
        run_job(&j, self, None)
        return out, (h, c) if lstm else h


cdef PackedWeights packed_for(object call, Py_ssize_t G, step_function step, Py_ssize_t tape_parts, Py_ssize_t extra):
    """Still without weights. tape_parts: H-wide parts of a row of the cell's tape."""
    cdef PackedWeights w = PackedWeights()
    cdef Job* j = &w.job
    memset(j, 0, sizeof(Job))
    w.lstm, w.dtype, w.w_ih, w.keep = call.cell == "lstm", call.dtype, call.w_ih, []
    j.wide = w.dtype.itemsize == 8
    j.lanes = lanes(itemsize(j))
    j.I, j.H, j.P, j.G, j.step, j.extra = call.I, call.H, call.P, G, step, extra
    j.tape_width = tape_parts * j.H
    j.variant = call.variant in ("relu", "reset_before")
    clip = call.clip
    if clip is not None:
        j.clip = clip
    elif call.variant == "reset_before" or call.peephole is not None:
        j.clip = INFINITY
    return w


def forward(call, bint training, out, PackedWeights w):
    """Run a call: (out, h_n, c_n or None, what backward needs if training)."""
    cdef Job j = w.job
    cdef Memory tape = None, hs = None
    ragged, c0, c = call.ragged, None, None
    j.q = sequence_of(call)
    if out is None:
        if call.x.ndim == 2:
            out = array_of(j.q.R * j.P * itemsize(&j), (j.q.R, j.P), w.dtype)
        else:
            out = array_of(j.q.T * j.q.B * j.P * itemsize(&j), (j.q.T, j.q.B, j.P), w.dtype)
    h0 = by_rank(ragged, call.h0, (j.q.B, j.P), w.dtype)
    h = by_row(ragged, h0)
    if call.cell == "lstm":
        c = c0 = by_rank(ragged, call.c0, (j.q.B, j.H), w.dtype)
    j.h0 = address(h0)
    if training:
        tape = Memory(j.q.R * j.tape_width * itemsize(&j))
        hs = Memory((j.q.B + j.q.R) * j.P * itemsize(&j))
        memcpy(hs.at, j.h0, j.q.B * j.P * itemsize(&j))
        j.h0 = j.h = hs.at
        c = None if c0 is None else c0.copy()
    j.x, j.out = view_of(call.x, &j.q, itemsize(&j)), view_of(out, &j.q, itemsize(&j), True)
    j.h_n, j.c = address(h, True), address(c, True)
    run_job(&j, w, tape)
    if j.wide:
        clear_padding(&j.out, &j.q, j.P, <double*>j.out.data)
    else:
        clear_padding(&j.out, &j.q, j.P, <float*>j.out.data)
    return out, h, by_row(ragged, c), (tape, j.tape_width, hs, c0) if training else None
