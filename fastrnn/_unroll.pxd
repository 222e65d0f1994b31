# SPDX-License-Identifier: MIT
"""Unrolling a layer over time: which row works in which step, where the caller keeps it, and the loops over both.

Rows are counted by rank (the longest sequence first) and steps in the order of work: step s of rank r is time s, or, in
reverse, s steps before the row's last. So rows only ever leave: the ranks at work in step s are 0..alive-1.
The caller's own arrays are Views; all others are laid out row after row, step after step, in this order ("packed").

A cell brings what happens in one step, forward and back; the loops over time, chunks and threads are here, for all.

T time steps, B batch, I input size, H hidden size, P size of h, G gates; R rows of all steps; z, h, dz, dh, dc as ever.
"""

from fastrnn._kernels cimport Memory


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


# ---- forward --------------------------------------------------------------------------------------------------------


cdef struct Step:  # one thread's part of one step: all units of some ranks, or some units of all ranks
    Py_ssize_t s, r0, n        # n rows from rank r0 on
    Py_ssize_t u0, U           # U units from u0 on
    const void* z              # (n, G*H), x W_ih^T + b
    const void* h_prev         # (n, P)
    Py_ssize_t ldh_prev
    void* h                    # (n, P) out
    Py_ssize_t ldh
    void* tape                 # (n, tape_width) out, or NULL
    void* scratch              # the cell's own, `extra` elements a row


cdef struct Job:  # a forward pass
    Sequence q
    int wide, variant          # float64? relu, or reset before?
    Py_ssize_t I, H, P, G
    Py_ssize_t chunk           # rows of the hoisted projection, at most or one step's
    Py_ssize_t extra
    Py_ssize_t work_each       # elements of workspace a thread has
    bint by_units              # threads share the units of a step, not the rows
    void (*step)(const Job* j, const Step* a) noexcept nogil
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


cdef class Packed:
    """The weights of one layer and direction, packed for a forward pass."""

    cdef Memory w_ih, w_hh, w_hn, w_hr, bias, b_hn
    cdef Py_ssize_t lanes


cdef tuple run_forward(object call, bint training, object out, Packed w,
                       void (*step)(const Job* j, const Step* a) noexcept nogil, Py_ssize_t tape_parts,
                       Py_ssize_t extra)


# ---- backward -------------------------------------------------------------------------------------------------------


cdef struct BackStep:  # one step of the ranks of one thread
    Py_ssize_t s, r0, n        # n rows from rank r0 on ...
    Py_ssize_t row             # ... which is this row of the chunk
    const void* tape           # (n, tape_width)
    const void* tape_prev      # (n, tape_width) of the step before, NULL for step 0
    const void* h_prev         # (n, P)
    void* dh                   # (n, P): in dL/dh of this step, out of the one before
    void* dc                   # (n, H), likewise
    void* dz                   # (n, width) out
    void* scratch              # (n, H)


cdef struct Product:  # a weight gradient, or some rows of one: for every chunk w (M, N) += dz^T rows, dz (K, M)
    Py_ssize_t M, N
    const void* dz
    Py_ssize_t ld
    const void* rows           # (K, N)
    void* w


cdef struct BackJob:  # a backward pass
    Sequence q
    int wide, variant
    Py_ssize_t I, H, P, G
    Py_ssize_t steps           # of a chunk
    Py_ssize_t width           # of a row of dz, whose first G*H columns are x's side
    Py_ssize_t work_each
    bint by_units              # the time loop is one thread's, the products after it are all threads'
    void (*back)(const BackJob* j, const BackStep* a) noexcept nogil
    View x, out, dx, grad_out
    const void* tape           # (R, tape_width)
    Py_ssize_t tape_width
    const void* h0             # (B, P) by rank
    const void* c0             # (B, H) by rank
    void* dh                   # (B, P) by rank: in grad_h_n, out the gradient of h0
    void* dc                   # (B, H) by rank
    const void* w_ih           # packed for dz W_ih
    const void* w_hh           # packed for dz W_hh
    const void* w_hn
    const void* w_hr
    void* x_rows               # the rows of a chunk, packed: x (K, I), h_prev (K, P), dz (K, width)
    void* h_rows
    void* dz
    void* dh_rows              # with a projection: dh (K, P)
    void* hidden               # (K, H): with a projection o tanh(c), with reset before r h_prev
    void* sums                 # of the rows of dz: the gradients of the biases
    Product products[4]
    int n_products
    char* work


cdef void gather_now(const View* v, const BackJob* j, const BackStep* a, Py_ssize_t width, void* to) noexcept nogil


cdef class Backward:
    """One backward pass: the job, and everything that its pointers point to."""

    cdef BackJob j
    cdef object call, keep, grads
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t chunk_rows(self)
    cdef void* block(self, Py_ssize_t n) except NULL
    cdef void product(self, void* dz, Py_ssize_t ld, Py_ssize_t M, void* rows, object w, Py_ssize_t row) except *
    cdef void run(self, void (*back)(const BackJob* j, const BackStep* a) noexcept nogil) except *
    cdef void bias(self, object b, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n) except *
    cdef object finished(self)
