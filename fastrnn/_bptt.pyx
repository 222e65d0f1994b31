# SPDX-License-Identifier: MIT
"""Backpropagation through time, for every cell: the loops over steps, chunks and threads, and the products.

Letters as in _bptt.pxd, and: r0..r1-1 the ranks of one thread, s0..s1-1 the steps of a chunk. _rows.pxd says what
ranks and packed rows are.
"""

from fastrnn._arrays cimport ALIGNED, Array, address, fields
from fastrnn._kernels cimport (
    FRNN_GRU_TAPE,
    FRNN_LSTM_TAPE,
    FRNN_NEAR_BYTES,
    Memory,
    add_rows,
    array_of,
    barrier,
    copy,
    frnn_outer_work,
    gemm,
    is_plain,
    lanes,
    outer,
    pack_columns,
    pack_parts,
    padded,
    real,
    run_task,
)
from fastrnn._rows cimport (
    Sequence,
    View,
    add_gathered,
    at_work,
    before,
    clear_padding,
    consecutive,
    from_column,
    gather,
    scatter,
)
from fastrnn._unroll cimport by_rank, by_row, sequence_of, share_ranks, share_units, shares_of, view_of

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

from numpy import ndarray

from fastrnn._records import ALTERED, GATES, Grads

# Of a chunk, or one step's: enough for the sums of the weight gradients to pay, not too many for L2.
cdef Py_ssize_t BACK_ROWS = 512
# What a near cache is taken to hold where weights are packed in parts, and the fewest rows of a step for which that
# counts: of fewer the weights take all the time, wherever they are.
cdef Py_ssize_t NEAR_BYTES = FRNN_NEAR_BYTES, SOME_ROWS = 8
cdef Py_ssize_t DX_ROWS = 48  # whole tiles
NONE = (None,) * 5  # the gradients of weights that nobody wants


def set_near_bytes(Py_ssize_t bytes):
    """Take a near cache to hold so much where weights are packed in parts (csrc has a constant); returns the value so
    far. For tests."""
    global NEAR_BYTES
    so_far, NEAR_BYTES = NEAR_BYTES, bytes
    return so_far


cdef inline Py_ssize_t rows_of(const Sequence* q, Py_ssize_t s0, Py_ssize_t s1) noexcept nogil:
    """How many rows work in the steps s0..s1-1."""
    return before(q, s1) - before(q, s0)


cdef inline Py_ssize_t spread(Py_ssize_t width, Py_ssize_t itemsize) noexcept nogil:
    """Elements from one long row to the next: an odd number of cache lines, or the rows of a column would have to share
    a few of the places that a cache has for them."""
    cdef Py_ssize_t line = 64 // itemsize, lines = (width + line - 1) // line
    return (lines | 1) * line if lines >= 64 else width


cdef void backward_rows(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                        int part, int parts, real* scratch) noexcept nogil:
    """BPTT over the steps of a chunk for the ranks r0..r1-1; leaves dz and the rows that the products need.

    parts > 1: as many threads do this together, each with its share of the units."""
    cdef Py_ssize_t s, n, first = before(&j.q, s0), row, width = j.P, P = j.P
    cdef const real* h = <const real*>j.h + r0 * P
    cdef View grad_out
    cdef BackStep a
    a.r0, a.dh, a.dc, a.scratch, a.parts = r0, <real*>j.dh + r0 * j.P, NULL, scratch, parts
    if j.dc != NULL:
        a.dc = <real*>j.dc + r0 * j.H
    share_units(j.H, sizeof(real), part, parts, &a.u0, &a.U)
    if parts > 1:
        width = a.U
    grad_out = from_column(&j.grad_out, a.u0, sizeof(real))
    if part == 0 and not j.x_rows.all:
        for s in range(s0, s1):
            n = at_work(&j.q, s, r0, r1)
            gather(&j.x, &j.q, j.I, s, r0, n, <real*>j.x_rows.data + (before(&j.q, s) + r0 - first) * j.I, j.I)
    for s in range(s1 - 1, s0 - 1, -1):
        n = at_work(&j.q, s, r0, r1)
        row = before(&j.q, s) + r0 - first
        a.h, a.h_prev = h + (j.q.B + before(&j.q, s)) * P, h
        if s > 0:
            a.h_prev = h + (j.q.B + before(&j.q, s - 1)) * P
        if not j.h_rows.all:
            copy(n, width, <const real*>a.h_prev + a.u0, NULL, P, <real*>j.h_rows.data + row * P + a.u0, NULL, P)
        add_gathered(&grad_out, &j.q, width, s, r0, n, <real*>a.dh + a.u0, P)
        a.s, a.n, a.row, a.dz = s, n, row, <real*>j.dz + row * j.lddz
        a.tape, a.tape_prev = <const real*>j.tape + (first + row) * j.tape_width, NULL
        if s > 0:
            a.tape_prev = <const real*>j.tape + (before(&j.q, s - 1) + r0) * j.tape_width
        j.back(j, &a)


cdef void weight_gradients(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts,
                           real* work) noexcept nogil:
    """This part's share of the products of one chunk: whole sums, so that each of them keeps its order."""
    cdef Py_ssize_t K = rows_of(&j.q, s0, s1), m0, m1
    cdef const Product* p
    cdef const real* rows
    cdef int i
    for i in range(j.n_products):
        p = &j.products[i]
        rows = <const real*>p.rows.data + (before(&j.q, s0) * p.N if p.rows.all else 0)
        m0, m1 = p.M * part // parts, p.M * (part + 1) // parts
        outer(s1 < j.q.T, K, m1 - m0, p.N, <const real*>p.dz + m0, p.ld, rows, p.N, <real*>p.w + m0 * p.N, p.N, work)
    m0, m1 = j.width * part // parts, j.width * (part + 1) // parts
    add_rows(K, m1 - m0, <const real*>j.dz + m0, j.lddz, <real*>j.sums + m0)


cdef void pack_w_ih(const BackJob* j, Py_ssize_t k, Py_ssize_t deep, Py_ssize_t n, Py_ssize_t cols,
                    real* to) noexcept nogil:
    """The rows of W_ih that dz has k..k+deep-1 for, by the columns n..n+cols-1: its rows from `first` on, then those
    before."""
    cdef const real* w = <const real*>j.w_ih + n
    cdef Py_ssize_t last = min(max(j.G * j.H - j.first - k, 0), deep)
    pack_columns(last, cols, 0, w + (j.first + k) * j.I, j.I, to, deep, 0)
    if last < deep:
        pack_columns(deep - last, cols, 0, w + (j.first + k + last - j.G * j.H) * j.I, j.I, to, deep, last)


cdef void times_w_ih(const BackJob* j, Py_ssize_t M, const real* dz, real* dx, real* packed) noexcept nogil:
    """dx (M, I) = dz W_ih, packing W_ih as it goes, some panels at a time or a part of one: whole it would be as large
    as its gradient. Some rows are done by all these panels, so that what they take and make is near."""
    cdef Py_ssize_t K = j.G * j.H, n = 0, k, r, cols, deep
    cdef Py_ssize_t rows = DX_ROWS if j.dx_wide > 4 * lanes(sizeof(real)) else M
    cdef real* to
    cdef real* so_far
    while n < j.I:
        cols, k = min(j.dx_wide, j.I - n), 0
        while k < K:
            deep = min(j.dx_deep, K - k)
            pack_w_ih(j, k, deep, n, cols, packed)
            r = 0
            while r < M:
                to = dx + r * j.I + n
                so_far = to if k > 0 else <real*>NULL
                gemm(0, min(rows, M - r), cols, deep, dz + r * j.lddz + k, j.lddz, packed, so_far, j.I, to, j.I)
                r += rows
            k += deep
        n += cols


cdef void input_gradients(const BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts,
                          real* work) noexcept nogil:
    """This part's share of dx = dz W_ih for one chunk: a run of packed rows."""
    cdef Py_ssize_t first = before(&j.q, s0), K = rows_of(&j.q, s0, s1), s, r0, r1
    cdef Py_ssize_t k0 = first + K * part // parts, k1 = first + K * (part + 1) // parts
    cdef bint in_place = consecutive(&j.dx, &j.q, j.I, j.q.B)
    cdef real* panel = work + (K * j.I if not in_place else 0)
    cdef real* to = <real*>j.dx.data + k0 * j.I if in_place else work
    times_w_ih(j, k1 - k0, <const real*>j.dz + (k0 - first) * j.lddz, to, panel)
    if in_place:
        return
    for s in range(s0, s1):
        r0, r1 = max(k0, before(&j.q, s)), min(k1, before(&j.q, s + 1))
        if r0 < r1:
            scatter(&j.dx, &j.q, j.I, s, r0 - before(&j.q, s), r1 - r0, work + (r0 - k0) * j.I, j.I)


cdef void backward_part(const BackJob* j, int part, int parts, real* work) noexcept nogil:
    """This part's rows of every chunk's time loop, then, when all have theirs, its share of the products."""
    cdef Py_ssize_t r0, r1, s0, s1, k
    for k in range(j.chunks - 1, -1, -1):
        s0, s1 = j.cuts[k], j.cuts[k + 1]
        share_ranks(&j.q, s0, s1, part, parts, &r0, &r1)
        if j.shares.by_units:
            backward_rows(j, s0, s1, 0, j.q.B, part, parts, work)
        elif r1 > r0:
            backward_rows(j, s0, s1, r0, r1, 0, 1, work)
        barrier(parts)
        if j.of_x:
            input_gradients(j, s0, s1, part, parts, work)
        if j.of_weights:
            weight_gradients(j, s0, s1, part, parts, work)
        barrier(parts)


cdef void backward_task(void* job, int part, int parts) noexcept nogil:
    cdef BackJob* j = <BackJob*>job
    if j.wide:
        backward_part(j, part, parts, <double*>j.work + part * j.work_each)
    else:
        backward_part(j, part, parts, <float*>j.work + part * j.work_each)


cdef tuple weights_of(object it):
    return it.w_ih, it.w_hh, it.b_ih, it.b_hh, it.w_hr


cdef tuple new_weights(object call, const BackJob* j, object dtype):
    """Arrays for the gradients of the weights, None where there is none."""
    cdef Py_ssize_t GH = j.G * j.H, size = 8 if j.wide else 4
    return (
        array_of(GH * j.I * size, (GH, j.I), dtype),
        array_of(GH * j.P * size, (GH, j.P), dtype),
        None if call.b_ih is None else array_of(GH * size, (GH,), dtype),
        None if call.b_hh is None else array_of(GH * size, (GH,), dtype),
        None if call.w_hr is None else array_of(j.P * j.H * size, (j.P, j.H), dtype),
    )


cdef bint is_input(object x, Py_ssize_t T, Py_ssize_t B, Py_ssize_t R, Py_ssize_t I, Py_ssize_t size) noexcept:
    """Whether it is an array (T, B, I), or, packed, (R, I), of whole rows."""
    cdef const Array* a
    cdef int i
    if type(x) is not ndarray:
        return False
    a = fields(x)
    if a.descr.type != (c"d" if size == 8 else c"f") or a.descr.byteorder != c"=" or not a.flags & ALIGNED:
        return False
    for i in range(a.nd):
        if a.strides[i] % size or (i == a.nd - 1 and min(I - 1, R) > 0 and a.strides[i] != size):
            return False
    if a.nd == 2:
        return a.dimensions[0] == R and a.dimensions[1] == I
    return a.nd == 3 and a.dimensions[0] == T and a.dimensions[1] == B and a.dimensions[2] == I


cdef bint are_weights(object call, int G, Py_ssize_t I, Py_ssize_t H, Py_ssize_t P, Py_ssize_t size) except -1:
    """Whether a call has arrays of these sizes."""
    if call.w_ih is None or call.w_hh is None or (call.w_hr is None and P != H):
        return False
    if not (is_plain(call.w_ih, size, 2, G * H, I) and is_plain(call.w_hh, size, 2, G * H, P)):
        return False
    return is_plain(call.w_hr, size, 2, P, H)


cdef bint holds(object memory, Py_ssize_t bytes) noexcept:
    return type(memory) is Memory and (<Memory>memory).size >= bytes


cdef bint intact(object call, tuple saved) except -1:
    """Whether a tape still has what forward gave it: its fields can be assigned, and pointers go into them."""
    cdef Py_ssize_t T = call.T, B = call.B, I = call.I, H = call.H, P = call.P, R = T * B, size = call.dtype.itemsize
    cdef int G = GATES[call.cell]
    cdef Py_ssize_t width = H * (FRNN_LSTM_TAPE if G == 4 else FRNN_GRU_TAPE if G == 3 else 0)
    if saved is None or len(saved) != 4:
        return False
    gates, tape_width, h, c0 = saved
    if call.ragged is not None:
        if not call.ragged.fits(T, B):
            return False
        R = call.ragged.start[T]
    if min(I, H, P) < 1 or not is_input(call.x, T, B, R, I, size):
        return False
    if not are_weights(call, G, I, H, P, size):
        return False
    if (c0 is None) == (G == 4) or not is_plain(c0, size, 2, B, H):
        return False
    return tape_width == width and holds(gates, R * width * size) and holds(h, (B + R) * P * size)


cdef class Backward:
    def __cinit__(self, tape, grad_out, grad_h_n, grad_c_n, into, bint of_x, bint of_weights, Py_ssize_t width):
        cdef BackJob* j = &self.j
        memset(j, 0, sizeof(BackJob))
        call, saved = tape.call, tape.saved
        if not intact(call, saved):
            raise ValueError(ALTERED)
        gates, j.tape_width, h, c0 = saved
        self.call, self.keep = call, [saved, grad_out]
        ragged, dtype = call.ragged, call.dtype
        self.itemsize = dtype.itemsize
        j.q = sequence_of(call)
        j.wide = self.itemsize == 8
        j.variant = call.variant in ("relu", "reset_before")
        j.G, j.I, j.H, j.P, j.width = GATES[call.cell], call.I, call.H, call.P, width
        j.lddz = spread(width, self.itemsize)
        j.of_x, j.of_weights = of_x, of_weights
        x = array_of(call.x.size * self.itemsize, call.x.shape, dtype) if of_x else None
        dh = by_rank(ragged, grad_h_n, (j.q.B, j.P), dtype)
        dc = None if c0 is None else by_rank(ragged, grad_c_n, (j.q.B, j.H), dtype)
        if not of_weights:
            w_ih, w_hh, b_ih, b_hh, w_hr = NONE
        else:
            w_ih, w_hh, b_ih, b_hh, w_hr = new_weights(call, j, dtype) if into is None else weights_of(into)
        self.grads = Grads(x, w_ih, w_hh, b_ih, b_hh, dh, dc, w_hr)
        j.x, j.dx = view_of(call.x, &j.q, self.itemsize), view_of(x, &j.q, self.itemsize, True)
        j.grad_out = view_of(grad_out, &j.q, self.itemsize)
        j.tape, j.h = (<Memory>gates).at, (<Memory>h).at
        j.w_ih = address(call.w_ih)
        j.c0, j.dh, j.dc = address(c0), address(dh, True), address(dc, True)
        self.cut_into_chunks()
        j.x_rows.all, j.x_rows.data = True, j.x.data
        if of_weights and not consecutive(&j.x, &j.q, j.I, j.q.B):
            j.x_rows = self.rows(j.I)
        j.h_rows.all, j.h_rows.data = True, <void*>j.h  # where no row leaves, the rows before are the h before
        if of_weights and j.q.alive != NULL:
            j.h_rows = self.rows(j.P)
        j.dz, j.sums = self.block(j.rows * j.lddz), self.block(width)
        memset(j.sums, 0, width * self.itemsize)

    cdef void cut_into_chunks(self) except *:
        """From step 0 on and by the rows at work, so that a padded batch sums its weight gradients in the same order as
        an unpadded one."""
        cdef BackJob* j = &self.j
        cdef Py_ssize_t s, n, rows = 0
        cuts = Memory((2 * j.q.R // BACK_ROWS + 3) * sizeof(Py_ssize_t))  # two chunks together have more rows
        self.keep.append(cuts)
        j.cuts = <Py_ssize_t*>cuts.at
        j.cuts[0] = 0
        for s in range(j.q.T if j.q.R > 0 else 0):  # an empty batch may have any number of steps
            n = j.q.alive[s] if j.q.alive != NULL else j.q.B
            if n > 0 and rows > 0 and rows + n > BACK_ROWS:  # no chunk is of steps without rows
                j.chunks += 1
                j.cuts[j.chunks], rows = s, 0
            rows += n
            j.rows = max(j.rows, rows)
        j.chunks += 1
        j.cuts[j.chunks] = j.q.T

    cdef void* block(self, Py_ssize_t n) except NULL:
        """n elements that live as long as this pass."""
        memory = Memory(n * self.itemsize)
        self.keep.append(memory)
        return (<Memory>memory).at

    cdef Rows rows(self, Py_ssize_t width) except *:
        """Room for those of a chunk."""
        cdef Rows room
        room.data, room.all = self.block(self.j.rows * width), False
        return room

    cdef void product(self, void* dz, Py_ssize_t ld, Py_ssize_t M, Rows rows, object w, Py_ssize_t row) except *:
        """w[row:row+M] will be dz^T rows, summed over all steps, if w is wanted."""
        cdef Product* p = &self.j.products[self.j.n_products]
        if w is None:
            return
        p.M, p.N, p.dz, p.ld, p.rows = M, w.shape[1], dz, ld, rows
        p.w = <char*>address(w, True) + row * p.N * self.itemsize
        if self.j.q.R == 0:  # else the first chunk's sums begin them
            memset(p.w, 0, M * p.N * self.itemsize)
        self.j.n_products += 1

    cdef Py_ssize_t few_rows(self, Py_ssize_t panel) noexcept:
        """How many rows of a panel so wide are an eighth of a near cache."""
        return max(NEAR_BYTES // self.itemsize // 8 // panel, 1)

    cdef void pack_w_hh(self, object w_hh, Py_ssize_t K) except *:
        """Pack its first K rows for the way back: with a single chunk, whose steps are over before any gradient is
        written, where their gradient will be. So before `product`, which clears that of an empty batch.

        In parts, their panels an eighth of a near cache, where dz of a step has a place in it, but not beside two
        panels of all K rows: the one at work and the one that is asked for."""
        cdef BackJob* j = &self.j
        cdef Py_ssize_t near = NEAR_BYTES // self.itemsize, dz = j.q.B * K, panel = 4 * lanes(self.itemsize)
        cdef char* to
        j.deep = K
        if j.q.B >= SOME_ROWS and dz <= near and dz + 2 * K * panel > near:
            j.deep = self.few_rows(panel)
        to = <char*>address(self.grads.w_hh, True)
        if to == NULL or j.chunks > 1 or K * j.P <= near or padded(j.P, self.itemsize) > j.P or <uintptr_t>to % 64 > 0:
            to = <char*>self.block(K * padded(j.P, self.itemsize))
        pack_parts(w_hh, K, j.P, j.deep, to)
        j.w_hh = to

    cdef void run(self, void (*back)(const BackJob* j, const BackStep* a) noexcept nogil) except *:
        cdef BackJob* j = &self.j
        cdef double a_weight = 2.0 * j.q.R * j.G * j.H
        cdef double flops = a_weight * ((j.of_x + j.of_weights) * j.I + (1 + j.of_weights) * j.P)
        cdef Py_ssize_t panel = 4 * lanes(self.itemsize), few = self.few_rows(panel), outer_work
        cdef int i
        if j.q.R == 0:
            return
        j.shares = shares_of(backward_task, j.q.B, flops, j.w_hr == NULL and j.w_hn == NULL, j.G * j.H * j.P, j.H,
                             self.itemsize)
        j.back, j.dx_deep = back, min(j.G * j.H, few)
        j.dx_wide = min((j.I + panel - 1) // panel, few // j.dx_deep) * panel
        j.work_each = j.dx_wide * j.dx_deep if j.of_x else 0  # for dx; then for the steps, and for the sums
        if j.of_x and not consecutive(&j.dx, &j.q, j.I, j.q.B):
            j.work_each += j.rows * j.I
        j.work_each = max(j.work_each, j.q.B * j.H)
        for i in range(j.n_products):
            outer_work = frnn_outer_work(j.rows, j.products[i].N, lanes(self.itemsize), self.itemsize)
            j.work_each = max(j.work_each, outer_work)
        j.work = <char*>self.block(j.work_each * j.shares.parts)
        with nogil:
            run_task(backward_task, j, j.shares.parts, j.shares.kind)

    cdef void bias(self, object b, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n) except *:
        """b[row:row+n] becomes the sums of dz's columns from `column` on."""
        if b is not None:
            memcpy(<char*>address(b, True) + row * self.itemsize, <char*>self.j.sums + column * self.itemsize,
                   n * self.itemsize)

    cdef object finished(self):
        """The gradients, the states' in the caller's order."""
        if self.j.of_x and self.j.wide:
            clear_padding(&self.j.dx, &self.j.q, self.j.I, <double*>self.j.dx.data)
        elif self.j.of_x:
            clear_padding(&self.j.dx, &self.j.q, self.j.I, <float*>self.j.dx.data)
        grads = self.grads
        grads.h0 = by_row(self.call.ragged, grads.h0)
        if grads.c0 is not None:
            grads.c0 = by_row(self.call.ragged, grads.c0)
        return grads
