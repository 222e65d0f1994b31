# SPDX-License-Identifier: MIT
"""The GRU, its reset gate after the recurrent product or before it: one step forward, one step back, and its weights.

Cho et al. 2014 (before); the variant of cuDNN, PyTorch and Keras (after).

Letters as in _unroll.pxd; z pre-activations of r z n, q = W_hn h + b_hn, rh = r h, h, dz, dh, drh; n rows of a step.
A row of dz is n r z q: the input's side reads n r z, the recurrent side r z q (reset before: n r z, no q).
_unroll and _bptt have the loops over time; csrc/frnn.h says what the primitives do.
"""

from fastrnn._bptt cimport Backward, BackJob, BackStep, through_w_hh
from fastrnn._kernels cimport (
    FRNN_GRU_TAPE,
    barrier,
    copy,
    gemm,
    gru_back,
    gru_gates,
    gru_gates_back,
    gru_reset,
    gru_reset_back,
    gru_step,
    packed_columns,
    packed_gates,
    real,
    summed,
)
from fastrnn._unroll cimport Job, PackedWeights, Step, packed_for


cdef void step_of(const Job* j, const Step* a, const real* z) noexcept nogil:
    """Reset after."""
    cdef Py_ssize_t n = a.n, H = j.H, u0 = a.u0, ldh_prev = a.ldh_prev
    cdef real* tape = <real*>a.tape + u0 if a.tape != NULL else <real*>NULL
    cdef const real* h_prev = <const real*>a.h_prev
    cdef const real* none = NULL
    gru_step(<int>a.s, n, a.U, H, z + u0, 3 * H, <const real*>j.b_hn + u0, none, 0, 0, h_prev, ldh_prev, u0,
             <const real*>j.w_hh + u0 * 3 * H, <real*>a.h + u0, a.ldh, tape)


cdef void step(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_of(j, a, <const double*>a.z)
    else:
        step_of(j, a, <const float*>a.z)


cdef void step_apart_of(const Job* j, const Step* a, real* z) noexcept nogil:
    """Reset before, or with a clip: the products apart from the cell; z is used up, a tape takes rh as it comes."""
    cdef Py_ssize_t n = a.n, H = j.H, ldh_prev = a.ldh_prev, ldrh = H
    cdef const real* h_prev = <const real*>a.h_prev
    cdef const real* w_hn = <const real*>j.w_hn
    cdef const real* none = NULL
    cdef real clip = <real>j.clip
    cdef real* tape = <real*>a.tape
    cdef real* q = <real*>a.scratch
    cdef real* rh = q
    if tape != NULL:
        rh, ldrh = tape + 3 * H, j.tape_width
    gemm(<int>a.s, n, 2 * H, H, h_prev, ldh_prev, <const real*>j.w_hh, z, 3 * H, z, 3 * H)
    gru_gates(n, H, clip, z, h_prev, ldh_prev, rh, ldrh)
    if j.variant:
        gemm(<int>a.s, n, H, H, rh, ldrh, w_hn, z + 2 * H, 3 * H, z + 2 * H, 3 * H)
        gru_reset(n, H, clip, z, none, h_prev, ldh_prev, <real*>a.h, a.ldh, tape)
    else:
        gemm(<int>a.s, n, H, H, h_prev, ldh_prev, w_hn, <const real*>j.b_hn, 0, q, H)
        gru_reset(n, H, clip, z, q, h_prev, ldh_prev, <real*>a.h, a.ldh, tape)


cdef void step_apart(const Job* j, const Step* a) noexcept nogil:
    if j.wide:
        step_apart_of(j, a, <double*>a.z)
    else:
        step_apart_of(j, a, <float*>a.z)


def pack(call):
    """The weights of a call, packed for its forward pass, but for W_ih."""
    cdef Py_ssize_t H = call.H, size = call.w_ih.itemsize
    cdef PackedWeights w = packed_for(call, 3, step, FRNN_GRU_TAPE, 0)
    cdef bint reset_before = w.job.variant
    w.job.bias = w.hold(summed(call.b_ih, call.b_hh, 0, (3 if reset_before else 2) * H, 3 * H, size))
    if w.job.clip > 0:
        w.job.step, w.job.extra = step_apart, H
        w.job.w_hh = w.hold(packed_columns(call.w_hh, H, 2 * H, True))
        w.job.w_hn = w.hold(packed_columns(call.w_hh[2 * H :], H, H, True))
    else:
        w.job.w_hh = w.hold(packed_gates(call.w_hh, 3, H, H))
    if not reset_before:
        w.job.b_hn = w.hold(summed(None, call.b_hh, 2 * H, H, H, size))
    return w


cdef void back_of(const BackJob* j, const BackStep* a, real* dz) noexcept nogil:
    cdef Py_ssize_t n = a.n, u0 = a.u0, H = j.H, lddz = j.lddz
    cdef const real* tape = <const real*>a.tape
    cdef const real* h_prev = <const real*>a.h_prev
    cdef real* dh = <real*>a.dh
    cdef real* drh = <real*>a.scratch
    if j.variant:
        gru_reset_back(n, H, tape, h_prev, H, dh, dz, lddz)
        gemm(<int>a.s, n, H, H, dz, lddz, <const real*>j.w_hn, <const real*>NULL, 0, drh, H)
        gru_gates_back(n, H, tape, h_prev, H, drh, dh, dz, lddz)
        through_w_hh(j, a, H, 2 * H, dz + H, dh, dh)
        copy(n, H, tape + 3 * H, NULL, j.tape_width, <real*>j.hidden.data + a.row * H, NULL, H)
    else:
        gru_back(n, a.U, H, tape + u0, h_prev + u0, H, dh + u0, dz + u0, lddz)
        barrier(a.parts)
        through_w_hh(j, a, a.U, 3 * H, dz + H, dh + u0, dh + u0)


cdef void back(const BackJob* j, const BackStep* a) noexcept nogil:
    if j.wide:
        back_of(j, a, <double*>a.dz)
    else:
        back_of(j, a, <float*>a.dz)


def backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights):
    call = tape.call
    cdef Py_ssize_t H = call.H, size = call.dtype.itemsize
    cdef bint reset_before = call.variant == "reset_before"
    cdef Py_ssize_t width = (3 if reset_before else 4) * H
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights, width)
    cdef BackJob* j = &b.j
    cdef char* dz_r = <char*>j.dz + H * size
    b.pack_w_hh(call.w_hh, (2 if reset_before else 3) * H)
    j.first = 2 * H  # dz is n r z, W_ih r z n
    b.product(dz_r, j.lddz, 2 * H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, j.lddz, H, j.x_rows, b.grads.w_ih, 2 * H)
    if reset_before:
        w_hn = packed_columns(call.w_hh[2 * H :], H, H, False)
        j.w_hn = w_hn.at
        j.hidden = b.rows(H)
        b.product(dz_r, j.lddz, 2 * H, j.h_rows, b.grads.w_hh, 0)
        b.product(j.dz, j.lddz, H, j.hidden, b.grads.w_hh, 2 * H)
    else:
        b.product(dz_r, j.lddz, 3 * H, j.h_rows, b.grads.w_hh, 0)
    b.run(back)
    b.bias(b.grads.b_ih, 0, H, 2 * H)
    b.bias(b.grads.b_ih, 2 * H, 0, H)
    b.bias(b.grads.b_hh, 0, H, 2 * H)
    b.bias(b.grads.b_hh, 2 * H, 0 if reset_before else 3 * H, H)
    return b.finished()
