# SPDX-License-Identifier: MIT
"""The LSTM's time loops, forward and BPTT, with and without projection.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000 and the projection of Sak et al. 2014.
T B I H P G; z pre-activations of i f g o, h, c, dz, dh, dc; s steps, r0..r1 a thread's ranks, n rows of a step.
See _unroll.pxd for how rows are laid out and csrc/frnn.h for the primitives.
"""

from fastrnn._kernels cimport barrier, gemm, lanes, lstm_back, lstm_step, real
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
    packed_gates,
    project,
    run_forward,
    scatter,
    share,
    summed,
    weight_gradients,
)

from libc.string cimport memcpy


def pack(call):
    """The weights of a call, packed for `forward`."""
    cdef Packed w = Packed()
    cdef Py_ssize_t H = call.H, P = call.P, size = call.dtype.itemsize
    w.lanes = lanes(size)
    w.w_ih = packed_columns(call.w_ih, call.I, 4 * H, True)
    w.w_hh = packed_gates(call.w_hh, 4, H, P)
    w.bias = summed(call.b_ih, call.b_hh, 0, 4 * H, 4 * H, size)
    w.w_hr = None if call.w_hr is None else packed_columns(call.w_hr, H, P, True)
    return w


# ---- forward ------------------------------------------------------------------------------------------------------------


cdef void forward_rows(const Job* j, Py_ssize_t r0, Py_ssize_t r1, real* work) noexcept nogil:
    cdef Py_ssize_t H = j.H, P = j.P, s0 = 0, s1, s, n, ldp = P, ldh = P
    cdef real* turn = work                        # where h lives when it has no place in `out`: two steps in turn
    cdef real* hidden = turn + 2 * (r1 - r0) * P  # o tanh(c), before its projection
    cdef real* z_rows = hidden + ((r1 - r0) * H if j.w_hr != NULL else 0)
    cdef real* x_rows = z_rows + max(j.chunk, r1 - r0) * 4 * H
    cdef const real* h_prev = <const real*>j.h0 + r0 * P
    cdef real* c = <real*>j.c + r0 * H
    cdef real* tape = NULL
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
                h = turn + (s & 1) * (r1 - r0) * P
            if j.tape != NULL:
                tape = <real*>j.tape + (before(&j.q, s) + r0) * j.tape_width
            if j.w_hr == NULL:
                lstm_step(<int>s, n, H, H, z, 4 * H, <const real*>NULL, 0, 0, h_prev, ldp, P, <const real*>j.w_hh, c, h, ldh,
                          tape)
            else:
                lstm_step(<int>s, n, H, H, z, 4 * H, <const real*>NULL, 0, 0, h_prev, ldp, P, <const real*>j.w_hh, c, hidden,
                          H, tape)
                gemm(n, P, H, hidden, H, <const real*>j.w_hr, <const real*>NULL, 0, h, ldh)
            if not j.q.direct:
                scatter(&j.out, &j.q, P, s, r0, n, h)
            h_prev, ldp = h, ldh
            z += n * 4 * H
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
    return run_forward(call, training, out, w, forward_task, 5, 0 if call.w_hr is None else call.H)


# ---- backward -----------------------------------------------------------------------------------------------------------


cdef void backward_rows(BackJob* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                        real* dhidden) noexcept nogil:
    """BPTT over the steps s1-1..s0 for the ranks r0..r1-1; leaves dz, and the rows that its products need."""
    cdef Py_ssize_t H = j.H, P = j.P, s, n, o, ldc
    cdef real* dh = <real*>j.dh + r0 * P
    cdef real* dc = <real*>j.dc + r0 * H
    cdef real* hidden = NULL
    cdef real* dz
    cdef const real* dout
    cdef const real* tape
    cdef const real* c_prev
    for s in range(s1 - 1, s0 - 1, -1):
        n = at_work(&j.q, s, r0, r1)
        o = before(&j.q, s) + r0
        tape = <const real*>j.tape + o * j.tape_width
        if s > 0:
            c_prev, ldc = <const real*>j.tape + (before(&j.q, s - 1) + r0) * j.tape_width + 4 * H, j.tape_width
        else:
            c_prev, ldc = <const real*>j.c0 + r0 * H, H
        o -= before(&j.q, s0)
        dz = <real*>j.dz + o * 4 * H
        add_gathered(&j.grad_out, &j.q, P, s, r0, n, dh)
        dout = dh
        if j.w_hr != NULL:
            memcpy(<real*>j.dh_rows + o * P, dh, n * P * sizeof(real))
            gemm(n, H, P, dh, P, <const real*>j.w_hr, <const real*>NULL, 0, dhidden, H)
            dout, hidden = dhidden, <real*>j.hidden + o * H
        lstm_back(n, H, tape, c_prev, ldc, dout, dc, dz, hidden)
        gemm(n, P, 4 * H, dz, 4 * H, <const real*>j.w_hh, <const real*>NULL, 0, dh, P)
        gather(&j.x, &j.q, j.I, s, r0, n, <real*>j.x_rows + o * j.I)
        gather_previous(j, s, r0, n, <real*>j.h_rows + o * P)


cdef void backward_part(BackJob* j, int part, int parts, real* work) noexcept nogil:
    cdef Py_ssize_t r0, r1, s0, s1 = j.q.T
    share(&j.q, part, parts, &r0, &r1)
    while s1 > 0:
        s0 = chunk_start(j, s1)
        backward_rows(j, s0, s1, r0, r1, work)
        barrier(parts)
        input_gradients(j, s0, s1, part, parts, 4 * j.H, work)
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
    cdef Py_ssize_t I = call.I, H = call.H, P = call.P
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, 4 * H)
    cdef BackJob* j = &b.j
    w_ih, w_hh = packed_columns(call.w_ih, 4 * H, I, False), packed_columns(call.w_hh, 4 * H, P, False)
    j.w_ih, j.w_hh = w_ih.at, w_hh.at
    b.product(j.dz, 4 * H, 4 * H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, 4 * H, 4 * H, j.h_rows, b.grads.w_hh, 0)
    if call.w_hr is not None:
        w_hr = packed_columns(call.w_hr, P, H, False)
        j.w_hr = w_hr.at
        j.dh_rows, j.hidden = b.block(b.chunk_rows() * P), b.block(b.chunk_rows() * H)
        b.product(j.dh_rows, P, P, j.hidden, b.grads.w_hr, 0)
    b.run(backward_task)
    b.bias(b.grads.b_ih, 0, 0, 4 * H)
    b.bias(b.grads.b_hh, 0, 0, 4 * H)
    return b.finished()
