# SPDX-License-Identifier: MIT
"""Backpropagation through time (Werbos 1990). A cell brings one step back; the loops over time, chunks and threads, and
the products after them, are here, for all. _rows.pxd says what ranks and packed rows are.

T time steps, B batch, I input size, H hidden size, P size of h, G gates; R rows of all steps; z, h, dz, dh, dc as ever;
a product's sums run over K rows and make M by N gradients.
"""

from fastrnn._kernels cimport gemm, padded, real
from fastrnn._rows cimport Sequence, View
from fastrnn._unroll cimport Shares


cdef struct BackStep:  # one thread's part of one step: all units of some ranks, or some units of all ranks
    int parts                  # that share the units, and have to meet between dz and the product that reads all of it
    Py_ssize_t u0, U           # U units from u0 on
    Py_ssize_t s, r0, n        # n rows from rank r0 on ...
    Py_ssize_t row             # ... which is this row of the chunk
    const void* tape           # (n, tape_width)
    const void* tape_prev      # (n, tape_width) of the step before, NULL for step 0
    const void* h_prev         # (n, P)
    const void* h              # (n, P)
    void* dh                   # (n, P): in dL/dh of this step, out of the one before
    void* dc                   # (n, H), likewise
    void* dz                   # (n, width) out, rows lddz apart
    void* scratch              # (n, H)


cdef struct Rows:  # packed rows: those of a chunk, (K, N), or, if they are `all`, those of all steps, (R, N)
    void* data
    bint all


cdef struct Product:  # a weight gradient, or some rows of one: for every chunk w (M, N) += dz^T rows, dz (K, M)
    Py_ssize_t M, N
    const void* dz
    Py_ssize_t ld
    Rows rows
    void* w


cdef struct BackJob:  # a backward pass
    Sequence q
    int wide, variant
    bint of_x, of_weights      # whose gradients are wanted; those of h0 and c0 come by themselves
    Py_ssize_t I, H, P, G
    Py_ssize_t* cuts           # the first step of each chunk, and T
    Py_ssize_t chunks, rows    # how many there are, and rows of the largest one
    Py_ssize_t width, lddz     # of a row of dz, whose first G*H columns are x's side, and from one to the next
    Py_ssize_t work_each
    Shares shares
    void (*back)(const BackJob* j, const BackStep* a) noexcept nogil
    View x, dx, grad_out
    const void* tape           # (R, tape_width)
    Py_ssize_t tape_width
    const void* h              # (B + R, P): h0, then h of every step
    const void* c0             # (B, H) by rank
    void* dh                   # (B, P) by rank: in grad_h_n, out the gradient of h0
    void* dc                   # (B, H) by rank
    const void* w_ih           # as it was given: packed a part at a time, when its turn comes
    Py_ssize_t dx_deep         # rows of W_ih in such a part, ...
    Py_ssize_t dx_wide         # ... and columns, whole panels: one, or several of all rows
    Py_ssize_t first           # row of W_ih that dz begins with
    const void* w_hh           # packed for dz W_hh, in parts, perhaps where its gradient will be
    Py_ssize_t deep            # rows of W_hh in such a part
    const void* w_hn
    const void* w_hr
    Rows x_rows                # x (K, I)
    Rows h_rows                # h_prev (K, P)
    void* dz                   # (K, width), rows lddz apart
    void* dh_rows              # with a projection: dh (K, P)
    Rows hidden                # (K, H): with a projection o tanh(c), with reset before r h_prev
    void* sums                 # of the rows of dz: the gradients of the biases
    Product products[4]
    int n_products
    char* work


cdef inline void through_w_hh(const BackJob* j, const BackStep* a, Py_ssize_t N, Py_ssize_t K, const real* dz,
                              const real* z, real* dh) noexcept nogil:
    """dh (n, N), of the units from u0 on, = z + dz W_hh, part by part, with the sums of a whole. z: NULL, or dh."""
    cdef Py_ssize_t row = padded(j.P, sizeof(real)), k = 0, deep
    cdef const real* w = <const real*>j.w_hh
    while k < K:
        deep = min(j.deep, K - k)
        gemm(<int>a.s, a.n, N, deep, dz + k, j.lddz, w + k * row + a.u0 * deep, z, j.P, dh, j.P)
        z = dh
        k += deep


cdef class Backward:
    """One backward pass: the job, and everything that its pointers point to."""

    cdef BackJob j
    cdef object call, keep, grads
    cdef Py_ssize_t itemsize
    cdef void cut_into_chunks(self) except *
    cdef void* block(self, Py_ssize_t n) except NULL
    cdef Rows rows(self, Py_ssize_t width) except *
    cdef void product(self, void* dz, Py_ssize_t ld, Py_ssize_t M, Rows rows, object w, Py_ssize_t row) except *
    cdef Py_ssize_t few_rows(self, Py_ssize_t panel) noexcept
    cdef void pack_w_hh(self, object w_hh, Py_ssize_t K) except *
    cdef void run(self, void (*back)(const BackJob* j, const BackStep* a) noexcept nogil) except *
    cdef void bias(self, object b, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n) except *
    cdef object finished(self)
