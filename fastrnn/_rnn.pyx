# SPDX-License-Identifier: MIT
"""The vanilla RNN's time loops, forward and BPTT, with tanh or relu (Elman 1990).

T B I H P G; z pre-activations, h, dz, dh; s steps, r0..r1 a thread's ranks, n rows of a step.
See _unroll.pxd for how rows are laid out and csrc/frnn.h for the primitives.
"""

from fastrnn._kernels cimport barrier, gemm, lanes, real, rnn_back, rnn_step
from fastrnn._unroll cimport (
    Backward,
    BackJob,
    Job,
    Packed,
    add_gathered,
    at_work,
    before,
    chunk_end,
    chunk_start,
    gather,
    gather_previous,
    input_gradients,
    offset,
    packed_columns,
    project,
    run_forward,
    scatter,
    share,
    summed,
    weight_gradients,
)


def pack(call):
    """The weights of a call, packed for `forward`."""
    cdef Packed w = Packed()
    cdef Py_ssize_t H = call.H, size = call.dtype.itemsize
    w.lanes = lanes(size)
    w.w_ih = packed_columns(call.w_ih, call.I, H, True)
    w.w_hh = packed_columns(call.w_hh, H, H, True)
    w.bias = summed(call.b_ih, call.b_hh, 0, H, H, size)
    return w


# ---- forward ------------------------------------------------------------------------------------------------------------


cdef void forward_rows(const Job* j, Py_ssize_t r0, Py_ssize_t r1, real* work) noexcept nogil:
    cdef Py_ssize_t H = j.H, s0 = 0, s1, s, n, ldp = H, ldh = H
    cdef real* turn = work  # where h lives when it has no place in `out`: two steps in turn
    cdef real* z_rows = turn + 2 * (r1 - r0) * H
    cdef real* x_rows = z_rows + max(j.chunk, r1 - r0) * H
    cdef const real* h_prev = <const real*>j.h0 + r0 * H
    cdef real* z
    cdef real* h
    s1 = chunk_end(j, s0, r0, r1)
    while s1 > s0:
        project(j, s0, s1, r0, r1, x_rows, z_rows)
        z = z_rows
        for s in range(s0, s1):
            n = at_work(&j.q, s, r0, r1)
            if j.q.direct:
                h, ldh = <real*>j.out.data + offset(&j.out, &j.q, s, r0), j.out.row
            else:
                h = turn + (s & 1) * (r1 - r0) * H
            rnn_step(<int>s, n, H, j.variant, z, H, <const real*>NULL, 0, 0, h_prev, ldp, H, <const real*>j.w_hh, h, ldh)
            if not j.q.direct:
                scatter(&j.out, &j.q, H, s, r0, n, h)
            h_prev, ldp = h, ldh
            z += n * H
        s0 = s1
        s1 = chunk_end(j, s0, r0, r1)


cdef void forward_task(void* job, int part, int parts) noexcept nogil:
    cdef Job* j = <Job*>job
    cdef Py_ssize_t r0, r1
    share(&j.q, part, parts, &r0, &r1)
    if j.wide:
        forward_rows(j, r0, r1, <double*>j.work + part * j.work_each)
    else:
        forward_rows(j, r0, r1, <float*>j.work + part * j.work_each)


def forward(call, training, out=None, packed=None):
    cdef Packed w = pack(call) if packed is None else packed
    return run_forward(call, training, out, w, forward_task, 0, 0)


# ---- backward -----------------------------------------------------------------------------------------------------------


cdef void backward_rows(BackJob* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                        real* scratch) noexcept nogil:
    """BPTT over the steps s1-1..s0 for the ranks r0..r1-1; leaves dz, and the rows that its products need."""
    cdef Py_ssize_t H = j.H, s, n, o, ldh = H
    cdef real* dh = <real*>j.dh + r0 * H
    cdef real* h
    cdef real* dz
    for s in range(s1 - 1, s0 - 1, -1):
        n = at_work(&j.q, s, r0, r1)
        o = before(&j.q, s) + r0 - before(&j.q, s0)
        dz = <real*>j.dz + o * H
        if j.q.direct:
            h, ldh = <real*>j.out.data + offset(&j.out, &j.q, s, r0), j.out.row
        else:
            h = scratch
            gather(&j.out, &j.q, H, s, r0, n, h)
        add_gathered(&j.grad_out, &j.q, H, s, r0, n, dh)
        rnn_back(n, H, j.variant, h, ldh, dh, dz)
        gemm(n, H, H, dz, H, <const real*>j.w_hh, <const real*>NULL, 0, dh, H)
        gather(&j.x, &j.q, j.I, s, r0, n, <real*>j.x_rows + o * j.I)
        gather_previous(j, s, r0, n, <real*>j.h_rows + o * H)


cdef void backward_part(BackJob* j, int part, int parts, real* work) noexcept nogil:
    cdef Py_ssize_t r0, r1, s0, s1 = j.q.T
    share(&j.q, part, parts, &r0, &r1)
    while s1 > 0:
        s0 = chunk_start(j, s1)
        backward_rows(j, s0, s1, r0, r1, work)
        barrier(parts)
        input_gradients(j, s0, s1, part, parts, j.H, work)
        weight_gradients(j, s0, s1, part, parts, work)
        barrier(parts)
        s1 = s0


cdef void backward_task(void* job, int part, int parts) noexcept nogil:
    cdef BackJob* j = <BackJob*>job
    if j.wide:
        backward_part(j, part, parts, <double*>j.work + part * j.work_each)
    else:
        backward_part(j, part, parts, <float*>j.work + part * j.work_each)


def backward(tape, grad_out=None, grad_h_n=None, grad_c_n=None, into=None):
    call = tape.call
    cdef Py_ssize_t I = call.I, H = call.H
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, H)
    cdef BackJob* j = &b.j
    w_ih, w_hh = packed_columns(call.w_ih, H, I, False), packed_columns(call.w_hh, H, H, False)
    j.w_ih, j.w_hh = w_ih.at, w_hh.at
    b.product(j.dz, H, H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, H, H, j.h_rows, b.grads.w_hh, 0)
    b.run(backward_task)
    b.bias(b.grads.b_ih, 0, 0, H)
    b.bias(b.grads.b_hh, 0, 0, H)
    return b.finished()
