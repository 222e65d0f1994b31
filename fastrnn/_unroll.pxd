# SPDX-License-Identifier: MIT
"""Unrolling a layer over time. A cell brings what happens in one step; the loops over time, chunks and threads are
here, for all; those of BPTT are _bptt's. _rows.pxd says what ranks and packed rows are.

T time steps, B batch, I input size, H hidden size, P size of h, G gates; R rows of all steps; z, h, c as ever.
"""

from fastrnn._kernels cimport Memory, frnn_kind, frnn_task
from fastrnn._rows cimport Sequence, View


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


cdef struct Shares:            # how threads share a job out
    int parts
    bint by_units              # each has some units of every step, not some rows
    frnn_kind kind             # what is learned of such jobs goes by


ctypedef void (*step_function)(const Job* j, const Step* a) noexcept nogil


cdef struct Job:  # a forward pass: what holds for all calls of a layer, then what one call brings
    int wide, variant          # float64? relu, or reset before?
    Py_ssize_t lanes           # that the weights are packed for
    Py_ssize_t I, H, P, G
    Py_ssize_t extra           # elements of scratch for a row
    Py_ssize_t tape_width
    step_function step
    const void* w_ih
    const void* w_ih_given     # (G*H, I), where W_ih is not packed at once but panel by panel
    const void* w_hh
    const void* w_hn           # the gate n of the GRU's W_hh, where a step is not fused
    const void* w_hr
    const void* bias           # b_ih + b_hh; without b_hn for the GRU with reset after
    const void* b_hn
    const void* peephole       # (3, H) i f o, or NULL
    double clip                # 0: a step is fused; else its products and its cell are apart, of all units
    Sequence q
    View x, out
    const void* h0             # (B, P) by rank
    void* h                    # (B + R, P) packed, for a tape: h0, then h of every step; or NULL
    void* h_n                  # (B, P) by row: h0, then h after the row's last step; perhaps in h0's memory
    void* c                    # (B, H) by rank, in/out
    void* tape                 # (R, tape_width), or NULL
    Py_ssize_t panel           # elements of room for one of W_ih
    Py_ssize_t chunk           # rows of a chunk, at most, or one step's if these are more
    Shares shares
    char* work
    Py_ssize_t work_each       # elements of it for each thread; by units for all, and a panel for each but one


cdef class PackedWeights:
    """The weights of one layer and direction, packed, and all of a Job that follows from them."""

    cdef Job job
    cdef bint lstm             # is there a c?
    cdef object dtype, w_ih    # W_ih as it was given: most calls pack it, the others need not
    cdef list keep
    cdef const void* hold(self, Memory memory)


cdef object state_of(object given, Py_ssize_t B, Py_ssize_t width, object dtype)
cdef PackedWeights packed_for(object call, Py_ssize_t G, step_function step, Py_ssize_t tape_parts, Py_ssize_t extra)

# What _bptt shares work out and reads arrays with, too.
cdef Shares shares_of(frnn_task task, Py_ssize_t B, double flops, bint divisible, Py_ssize_t weights, Py_ssize_t H,
                      Py_ssize_t itemsize) noexcept nogil
cdef void share_ranks(const Sequence* q, Py_ssize_t s0, Py_ssize_t s1, int part, int parts, Py_ssize_t* r0,
                      Py_ssize_t* r1) noexcept nogil
cdef void share_units(Py_ssize_t H, Py_ssize_t itemsize, int part, int parts, Py_ssize_t* u0,
                      Py_ssize_t* U) noexcept nogil
cdef View view_of(object array, const Sequence* q, Py_ssize_t itemsize, bint writable=*) except *
cdef Sequence sequence_of(object call) except *
cdef by_rank(object ragged, object state, tuple shape, object dtype)
cdef by_row(object ragged, object state)
