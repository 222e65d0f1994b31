# SPDX-License-Identifier: MIT
"""The vanilla RNN, with tanh or relu (Elman 1990): one step forward, one step back, and its weights.

Letters as in _unroll.pxd; z pre-activations, h, dz, dh; n rows of a step.
_unroll and _bptt have the loops over time; csrc/frnn.h says what the primitives do.
"""

from fastrnn._bptt cimport Backward, BackJob, BackStep, through_w_hh
from fastrnn._kernels cimport (
    barrier,
    gemm,
    packed_columns,
    real,
    rnn_back,
    rnn_cell,
    rnn_step,
    summed,
)
from fastrnn._unroll cimport Job, PackedWeights, Step, packed_for


cdef void step_of(const Job* j, const Step* a, const real* z) noexcept nogil:
    rnn_step(<int>a.s, a.n, a.U, j.variant, z + a.u0, j.H, <const real*>NULL, 0, 0, <const real*>a.h_prev, a.ldh_prev,
             j.H, <const real*>j.w_hh + a.u0 * j.H, <real*>a.h + a.u0, a.ldh)


cdef void step(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_of(j, a, <const double*>a.z)
    else:
        step_of(j, a, <const float*>a.z)


cdef void step_apart_of(const Job* j, const Step* a, real* z) noexcept nogil:
    """The product apart from the cell, with a clip; z is used up."""
    cdef Py_ssize_t n = a.n, H = j.H
    gemm(<int>a.s, n, H, H, <const real*>a.h_prev, a.ldh_prev, <const real*>j.w_hh, z, H, z, H)
    rnn_cell(n, H, j.variant, <real>j.clip, z, <real*>a.h, a.ldh)


cdef void step_apart(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_apart_of(j, a, <double*>a.z)
    else:
        step_apart_of(j, a, <float*>a.z)


def pack(call):
    """The weights of a call, packed for its forward pass, but for W_ih."""
    cdef PackedWeights w = packed_for(call, 1, step, 0, 0)
    cdef Py_ssize_t H = call.H
    if w.job.clip > 0:
        w.job.step = step_apart
    w.job.w_hh = w.hold(packed_columns(call.w_hh, H, H, True))
    w.job.bias = w.hold(summed(call.b_ih, call.b_hh, 0, H, H, call.w_ih.itemsize))
    return w


cdef void back_of(const BackJob* j, const BackStep* a, real* dz) noexcept nogil:
    cdef Py_ssize_t u0 = a.u0, H = j.H
    cdef real* dh = <real*>a.dh + u0
    rnn_back(a.n, a.U, H, j.variant, <const real*>a.h + u0, H, dh, dz + u0, j.lddz)
    barrier(a.parts)
    through_w_hh(j, a, a.U, H, dz, <const real*>NULL, dh)


cdef void back(const BackJob* j, const BackStep* a) noexcept nogil:
    if j.wide:
        back_of(j, a, <double*>a.dz)
    else:
        back_of(j, a, <float*>a.dz)


def backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights):
    call = tape.call
    cdef Py_ssize_t H = call.H
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights, H)
    cdef BackJob* j = &b.j
    b.pack_w_hh(call.w_hh, H)
    b.product(j.dz, j.lddz, H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, j.lddz, H, j.h_rows, b.grads.w_hh, 0)
    b.run(back)
    b.bias(b.grads.b_ih, 0, 0, H)
    b.bias(b.grads.b_hh, 0, 0, H)
    return b.finished()
