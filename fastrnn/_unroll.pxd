# SPDX-License-Identifier: MIT
"""Unrolling a layer over time: which row works in which step, where the caller keeps it, and the jobs of the time loops.

Rows are counted by rank (the longest sequence first) and steps in the order of work: step s of rank r is time s, or, in
reverse, the time s before the row's last. So rows only ever leave, and the ranks at work in step s are 0..alive-1.
The caller's own arrays are Views; everything else is laid out row after row, step by step, in this order ("packed").

T time steps, B batch, I input size, H hidden size, P size of h, G gates; R rows of all steps, K rows of a chunk.
"""

from fastrnn._kernels cimport Memory, add, add_rows, frnn_task, gemm, outer, real

from libc.string cimport memcpy


cdef struct View:  # a caller's array (T, B, width): strides in elements, the last one 1
    char* data
    Py_ssize_t step, row


cdef struct Sequence:
    Py_ssize_t T, B, R
    const Py_ssize_t* order    # the row at each rank; NULL: rank is row
    const Py_ssize_t* lengths  # by rank; NULL: all T
    const Py_ssize_t* alive    # ranks at work in each step; NULL: all B
    const Py_ssize_t* start    # packed rows before each step, T + 1 of them; NULL: s * B
    bint reverse
    bint direct                # the ranks of a step stand one row apart in the caller's arrays


cdef struct Job:  # a forward pass
    Sequence q
    int wide, variant
    Py_ssize_t I, H, P, G
    Py_ssize_t chunk           # most rows of a chunk of the hoisted projection
    Py_ssize_t work_each       # elements of workspace a thread has
    View x, out
    const void* w_ih
    const void* w_hh
    const void* w_hn           # the GRU with reset before: the gate n of W_hh
    const void* w_hr
    const void* bias           # b_ih + b_hh; without b_hn for the GRU with reset after
    const void* b_hn
    const void* h0             # (B, P) by rank
    void* c                    # (B, H) by rank, in/out
    void* tape                 # (R, tape_width), or NULL
    Py_ssize_t tape_width
    char* work


cdef struct Product:  # one weight gradient, or some rows of it: w (M, N) += dz^T rows, dz (K, M), rows (K, N), each chunk
    Py_ssize_t M, N
    const void* dz
    Py_ssize_t ld
    const void* rows
    void* w


cdef struct BackJob:  # a backward pass
    Sequence q
    int wide, variant
    Py_ssize_t I, H, P, G
    Py_ssize_t steps           # of a chunk
    Py_ssize_t width           # of a row of dz
    View x, out, dx, grad_out
    const void* tape           # (R, tape_width)
    Py_ssize_t tape_width
    const void* h0             # (B, P) by rank
    const void* c0             # (B, H) by rank
    void* dh                   # (B, P) by rank: in grad_h_n, out grad_h0
    void* dc                   # (B, H) by rank
    const void* w_ih           # packed for dz W_ih
    const void* w_hh           # packed for dz W_hh
    const void* w_hn
    const void* w_hr
    void* x_rows               # the rows of a chunk, packed: x (K, I), h_prev (K, P), dz (K, width)
    void* h_rows
    void* dz
    void* dh_rows              # with a projection: dh (K, P) and o tanh(c) (K, H)
    void* hidden
    void* sums                 # of the rows of dz: the gradients of the biases
    Product products[4]
    int n_products
    Py_ssize_t work_each
    char* work


# ---- rows and steps ---------------------------------------------------------------------------------------------------


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


cdef inline void gather(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                        real* to) noexcept nogil:
    """n rows of step s, from rank r0 on, out of the caller's array."""
    cdef Py_ssize_t r
    for r in range(r0, r0 + n):
        memcpy(to, <real*>v.data + offset(v, q, s, r), width * sizeof(real))
        to += width


cdef inline void scatter(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                         const real* rows) noexcept nogil:
    """The reverse of gather."""
    cdef Py_ssize_t r
    for r in range(r0, r0 + n):
        memcpy(<real*>v.data + offset(v, q, s, r), rows, width * sizeof(real))
        rows += width


cdef inline void add_gathered(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0,
                              Py_ssize_t n, real* to) noexcept nogil:
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


cdef void share(const Sequence* q, int part, int parts, Py_ssize_t* r0, Py_ssize_t* r1) noexcept nogil


# ---- forward: the hoisted projection, and h from step to step ----------------------------------------------------------


cdef inline Py_ssize_t chunk_end(const Job* j, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The step after the last one of a chunk that begins at s; s itself when no row is at work any more."""
    cdef Py_ssize_t rows = at_work(&j.q, s, r0, r1) if s < j.q.T else 0
    if rows == 0:
        return s
    s += 1
    while s < j.q.T and at_work(&j.q, s, r0, r1) > 0:
        rows += at_work(&j.q, s, r0, r1)
        if rows > j.chunk:
            break
        s += 1
    return s


cdef inline void project(const Job* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1, real* x_rows,
                         real* z) noexcept nogil:
    """z = x W_ih^T + b for the rows at work in the steps s0..s1-1, packed."""
    cdef Py_ssize_t s, n, rows = 0, GH = j.G * j.H
    cdef const real* x = x_rows
    if j.q.direct and not j.q.reverse and j.q.alive == NULL and j.x.step == (r1 - r0) * j.I and (
            r1 - r0 == 1 or j.x.row == j.I):
        x = <const real*>j.x.data + offset(&j.x, &j.q, s0, r0)
        rows = (s1 - s0) * (r1 - r0)
    else:
        for s in range(s0, s1):
            n = at_work(&j.q, s, r0, r1)
            gather(&j.x, &j.q, j.I, s, r0, n, x_rows + rows * j.I)
            rows += n
    gemm(rows, GH, j.I, x, j.I, <const real*>j.w_ih, <const real*>j.bias, 0, z, GH)


# ---- backward: what a chunk of steps adds to the gradients of x and of the weights ---------------------------------------


cdef inline Py_ssize_t chunk_start(const BackJob* j, Py_ssize_t s1) noexcept nogil:
    """The first step of the chunk that ends before s1. Chunks are cut from step 0 on, whatever T is: a padded batch
    sums its weight gradients in the same order as an unpadded one."""
    return (s1 - 1) // j.steps * j.steps


cdef inline void gather_previous(const BackJob* j, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n, real* to) noexcept nogil:
    """h_prev of n rows of step s."""
    if s == 0:
        memcpy(to, <const real*>j.h0 + r0 * j.P, n * j.P * sizeof(real))
    else:
        gather(&j.out, &j.q, j.P, s - 1, r0, n, to)


cdef inline void weight_gradients(BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts,
                                  real* work) noexcept nogil:
    """This part's share of the products of one chunk: whole sums, so that each of them keeps its order."""
    cdef Py_ssize_t K = before(&j.q, s1) - before(&j.q, s0), m0, m1
    cdef Product* p
    cdef int i
    for i in range(j.n_products):
        p = &j.products[i]
        m0, m1 = p.M * part // parts, p.M * (part + 1) // parts
        outer(K, m1 - m0, p.N, <const real*>p.dz + m0, p.ld, <const real*>p.rows, p.N, <real*>p.w + m0 * p.N, p.N,
              work)
    m0, m1 = j.width * part // parts, j.width * (part + 1) // parts
    add_rows(K, m1 - m0, <const real*>j.dz + m0, j.width, <real*>j.sums + m0)


cdef inline void input_gradients(BackJob* j, Py_ssize_t s0, Py_ssize_t s1, int part, int parts, Py_ssize_t columns,
                                 real* work) noexcept nogil:
    """This part's share of dx = dz W_ih for one chunk: a run of packed rows, `columns` wide from the left of dz."""
    cdef Py_ssize_t o = before(&j.q, s0), K = before(&j.q, s1) - o
    cdef Py_ssize_t k0 = K * part // parts, k1 = K * (part + 1) // parts, s, r, k = k0
    cdef real* to = work
    cdef bint in_place = j.q.direct and not j.q.reverse and j.q.alive == NULL
    if in_place:
        to = <real*>j.dx.data + (o + k0) * j.I
    gemm(k1 - k0, j.I, columns, <const real*>j.dz + k0 * j.width, j.width, <const real*>j.w_ih, <const real*>NULL, 0,
         to, j.I)
    if in_place:
        return
    for s in range(s0, s1):
        while k < k1 and k + o < before(&j.q, s + 1):
            r = k + o - before(&j.q, s)
            scatter(&j.dx, &j.q, j.I, s, r, 1, work + (k - k0) * j.I)
            k += 1


# ---- from Python to a job and back -------------------------------------------------------------------------------------


cdef class Packed:
    """The weights of one layer and direction, packed for a forward pass."""

    cdef Memory w_ih, w_hh, w_hn, w_hr, bias, b_hn
    cdef Py_ssize_t lanes


cdef Memory packed_columns(object w, Py_ssize_t K, Py_ssize_t N, bint transposed)
cdef Memory packed_gates(object w, Py_ssize_t G, Py_ssize_t H, Py_ssize_t K)
cdef Memory summed(object a, object b, Py_ssize_t first, Py_ssize_t both, Py_ssize_t n, Py_ssize_t itemsize)
cdef tuple run_forward(object call, bint training, object out, Packed w, frnn_task task, Py_ssize_t tape_parts,
                       Py_ssize_t extra)


cdef class Backward:
    """One backward pass: the job, and everything its pointers point to."""

    cdef BackJob j
    cdef object call, keep, grads
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t chunk_rows(self)
    cdef void* block(self, Py_ssize_t n) except NULL
    cdef void product(self, void* dz, Py_ssize_t ld, Py_ssize_t M, void* rows, object w, Py_ssize_t row) except *
    cdef void run(self, frnn_task task) except *
    cdef object finished(self)
    cdef void bias(self, object b, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n) except *
