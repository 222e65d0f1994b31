# SPDX-License-Identifier: MIT
"""The LSTM, with and without projection: one step forward, one step back, and its weights.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000 and the projection of Sak et al. 2014.

Letters as in _unroll.pxd; z pre-activations of i f g o, h, c, dz, dh, dc; hidden o tanh(c), before its projection;
n rows of a step.
_unroll and _bptt have the loops over time; csrc/frnn.h says what the primitives do.
"""

from fastrnn._bptt cimport Backward, BackJob, BackStep, through_w_hh
from fastrnn._kernels cimport (
    FRNN_LSTM_TAPE,
    barrier,
    copy,
    gemm,
    lstm_back,
    lstm_cell,
    lstm_step,
    packed_columns,
    packed_gates,
    real,
    summed,
)
from fastrnn._unroll cimport Job, PackedWeights, Step, packed_for


cdef void step_of(const Job* j, const Step* a, const real* z) noexcept nogil:
    cdef Py_ssize_t n = a.n, H = j.H, P = j.P, u0 = a.u0, ldh = a.ldh
    cdef real* c = <real*>j.c + a.r0 * H + u0
    cdef real* h = <real*>a.h + u0
    cdef real* tape = <real*>a.tape + u0 if a.tape != NULL else <real*>NULL
    cdef const real* none = NULL
    if j.w_hr != NULL:
        h, ldh = <real*>a.scratch, H
    lstm_step(<int>a.s, n, a.U, H, z + u0, 4 * H, none, 0, 0, <const real*>a.h_prev, a.ldh_prev, P,
              <const real*>j.w_hh + u0 * 4 * P, c, h, ldh, tape)
    if j.w_hr != NULL:
        gemm(<int>a.s, n, P, H, h, H, <const real*>j.w_hr, none, 0, <real*>a.h, a.ldh)


cdef void step(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_of(j, a, <const double*>a.z)
    else:
        step_of(j, a, <const float*>a.z)


cdef void step_apart_of(const Job* j, const Step* a, real* z) noexcept nogil:
    """The product apart from the cell, with peepholes or a clip; z is used up."""
    cdef Py_ssize_t n = a.n, H = j.H, P = j.P, ldh = a.ldh
    cdef real* h = <real*>a.h
    if j.w_hr != NULL:
        h, ldh = <real*>a.scratch, H
    gemm(<int>a.s, n, 4 * H, P, <const real*>a.h_prev, a.ldh_prev, <const real*>j.w_hh, z, 4 * H, z, 4 * H)
    lstm_cell(n, H, <real>j.clip, z, <const real*>j.peephole, <real*>j.c + a.r0 * H, h, ldh)
    if j.w_hr != NULL:
        gemm(<int>a.s, n, P, H, h, H, <const real*>j.w_hr, <const real*>NULL, 0, <real*>a.h, a.ldh)


cdef void step_apart(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_apart_of(j, a, <double*>a.z)
    else:
        step_apart_of(j, a, <float*>a.z)


def pack(call):
    """The weights of a call, packed for its forward pass, but for W_ih."""
    cdef Py_ssize_t H = call.H, P = call.P, size = call.w_ih.itemsize
    w_hr = call.w_hr
    cdef PackedWeights w = packed_for(call, 4, step, FRNN_LSTM_TAPE, 0 if w_hr is None else H)
    w.job.bias = w.hold(summed(call.b_ih, call.b_hh, 0, 4 * H, 4 * H, size))
    if w.job.clip > 0:
        w.job.step = step_apart
        w.job.w_hh = w.hold(packed_columns(call.w_hh, P, 4 * H, True))
        if call.peephole is not None:
            w.job.peephole = w.hold(summed(call.peephole, None, 0, 0, 3 * H, size))
    else:
        w.job.w_hh = w.hold(packed_gates(call.w_hh, 4, H, P))
    if w_hr is not None:
        w.job.w_hr = w.hold(packed_columns(w_hr, H, P, True))
    return w


cdef void back_of(const BackJob* j, const BackStep* a, real* dz) noexcept nogil:
    cdef Py_ssize_t n = a.n, u0 = a.u0, H = j.H, P = j.P, N = a.U, ldc_prev = H
    cdef real* dh = <real*>a.dh
    cdef real* dhidden = dh
    cdef real* hidden = NULL
    cdef const real* c_prev = <const real*>j.c0 + a.r0 * H
    if a.tape_prev != NULL:
        c_prev, ldc_prev = <const real*>a.tape_prev + 4 * H, j.tape_width
    if j.w_hr != NULL:
        dhidden, hidden = <real*>a.scratch, <real*>j.hidden.data + a.row * H
        copy(n, P, dh, NULL, P, <real*>j.dh_rows + a.row * P, NULL, P)
        gemm(<int>a.s, n, H, P, dh, P, <const real*>j.w_hr, <const real*>NULL, 0, dhidden, H)
        N = P
    lstm_back(n, a.U, H, <const real*>a.tape + u0, c_prev + u0, ldc_prev, dhidden + u0, <real*>a.dc + u0, dz + u0,
              j.lddz, hidden)
    barrier(a.parts)
    through_w_hh(j, a, N, 4 * H, dz, <const real*>NULL, dh + u0)


cdef void back(const BackJob* j, const BackStep* a) noexcept nogil:
    if j.wide:
        back_of(j, a, <double*>a.dz)
    else:
        back_of(j, a, <float*>a.dz)


def backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights):
    call = tape.call
    cdef Py_ssize_t H = call.H, P = call.P
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights, 4 * H)
    cdef BackJob* j = &b.j
    b.pack_w_hh(call.w_hh, 4 * H)
    b.product(j.dz, j.lddz, 4 * H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, j.lddz, 4 * H, j.h_rows, b.grads.w_hh, 0)
    if call.w_hr is not None:
        w_hr = packed_columns(call.w_hr, P, H, False)
        j.w_hr = w_hr.at
        j.dh_rows, j.hidden = b.block(j.rows * P), b.rows(H)
        b.product(j.dh_rows, P, P, j.hidden, b.grads.w_hr, 0)
    b.run(back)
    b.bias(b.grads.b_ih, 0, 0, 4 * H)
    b.bias(b.grads.b_hh, 0, 0, 4 * H)
    return b.finished()
