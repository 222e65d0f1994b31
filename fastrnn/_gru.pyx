# SPDX-License-Identifier: MIT
"""The GRU's time loops, forward and BPTT, with the reset gate after the recurrent product or before it.

Cho et al. 2014 (reset before); cuDNN's and PyTorch's variant (reset after).
T B I H P G; z pre-activations of r z n, q = W_hn h + b_hn, h, dz, dh; s steps, r0..r1 a thread's ranks, n rows of a
step. A row of dz is n r z q: the input's side reads n r z, the recurrent side r z q (reset before: n r z, no q).
See _unroll.pxd for how rows are laid out and csrc/frnn.h for the primitives.
"""

from fastrnn._kernels cimport (
    Memory,
    address,
    barrier,
    gemm,
    gru_back,
    gru_gates,
    gru_gates_back,
    gru_reset,
    gru_reset_back,
    gru_step,
    lanes,
    pack_columns,
    padded,
    real,
)
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
    cdef Py_ssize_t H = call.H, size = call.dtype.itemsize
    w.lanes = lanes(size)
    w.w_ih = packed_columns(call.w_ih, call.I, 3 * H, True)
    if call.variant == "reset_before":
        w.w_hh = packed_gates(call.w_hh, 2, H, H)
        w.w_hn = packed_columns(call.w_hh[2 * H :], H, H, True)
        w.bias = summed(call.b_ih, call.b_hh, 0, 3 * H, 3 * H, size)
    else:
        w.w_hh = packed_gates(call.w_hh, 3, H, H)
        w.bias = summed(call.b_ih, call.b_hh, 0, 2 * H, 3 * H, size)
        w.b_hn = summed(None, call.b_hh, 2 * H, H, H, size)
    return w


# ---- forward ------------------------------------------------------------------------------------------------------------


cdef void forward_rows(const Job* j, Py_ssize_t r0, Py_ssize_t r1, real* work) noexcept nogil:
    cdef Py_ssize_t H = j.H, s0 = 0, s1, s, n, ldp = H, ldh = H
    cdef real* turn = work  # where h lives when it has no place in `out`: two steps in turn
    cdef real* rz = turn + 2 * (r1 - r0) * H  # reset before: the gates of a step, and r h_prev
    cdef real* rh = rz + (2 * (r1 - r0) * H if j.variant else 0)
    cdef real* z_rows = rh + ((r1 - r0) * H if j.variant else 0)
    cdef real* x_rows = z_rows + max(j.chunk, r1 - r0) * 3 * H
    cdef const real* h_prev = <const real*>j.h0 + r0 * H
    cdef const real* none = NULL
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
                h = turn + (s & 1) * (r1 - r0) * H
            if j.tape != NULL:
                tape = <real*>j.tape + (before(&j.q, s) + r0) * j.tape_width
            if j.variant:
                gru_gates(<int>s, n, H, z, 3 * H, none, 0, 0, h_prev, ldp, <const real*>j.w_hh, rz, rh)
                gru_reset(<int>s, n, H, z, 3 * H, none, 0, 0, h_prev, ldp, rh, rz, <const real*>j.w_hn, h, ldh, tape)
            else:
                gru_step(<int>s, n, H, H, z, 3 * H, <const real*>j.b_hn, none, 0, 0, h_prev, ldp, 0, <const real*>j.w_hh, h,
                         ldh, tape)
            if not j.q.direct:
                scatter(&j.out, &j.q, H, s, r0, n, h)
            h_prev, ldp = h, ldh
            z += n * 3 * H
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
    return run_forward(call, training, out, w, forward_task, 4, 3 * call.H if call.variant == "reset_before" else 0)


# ---- backward -----------------------------------------------------------------------------------------------------------


cdef void backward_rows(BackJob* j, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                        real* drh) noexcept nogil:
    """BPTT over the steps s1-1..s0 for the ranks r0..r1-1; leaves dz, and the rows that its products need."""
    cdef Py_ssize_t H = j.H, s, n, o, i
    cdef real* dh = <real*>j.dh + r0 * H
    cdef real* dz
    cdef real* h_prev
    cdef const real* tape
    for s in range(s1 - 1, s0 - 1, -1):
        n = at_work(&j.q, s, r0, r1)
        o = before(&j.q, s) + r0
        tape = <const real*>j.tape + o * j.tape_width
        o -= before(&j.q, s0)
        dz = <real*>j.dz + o * j.width
        h_prev = <real*>j.h_rows + o * H
        gather_previous(j, s, r0, n, h_prev)
        gather(&j.x, &j.q, j.I, s, r0, n, <real*>j.x_rows + o * j.I)
        add_gathered(&j.grad_out, &j.q, H, s, r0, n, dh)
        if j.variant:
            gru_reset_back(n, H, tape, h_prev, H, dh, dz)
            gemm(n, H, H, dz, 3 * H, <const real*>j.w_hn, <const real*>NULL, 0, drh, H)
            gru_gates_back(n, H, tape, h_prev, H, drh, dh, dz)
            gemm(n, H, 2 * H, dz + H, 3 * H, <const real*>j.w_hh, dh, H, dh, H)
            for i in range(n):
                memcpy(<real*>j.hidden + (o + i) * H, tape + i * j.tape_width + 3 * H, H * sizeof(real))
        else:
            gru_back(n, H, tape, h_prev, H, dh, dz)
            gemm(n, H, 3 * H, dz + H, 4 * H, <const real*>j.w_hh, dh, H, dh, H)


cdef void backward_part(BackJob* j, int part, int parts, real* work) noexcept nogil:
    cdef Py_ssize_t r0, r1, s0, s1 = j.q.T
    share(&j.q, part, parts, &r0, &r1)
    while s1 > 0:
        s0 = chunk_start(j, s1)
        backward_rows(j, s0, s1, r0, r1, work)
        barrier(parts)
        input_gradients(j, s0, s1, part, parts, 3 * j.H, work)
        weight_gradients(j, s0, s1, part, parts, work)
        barrier(parts)
        s1 = s0


cdef void backward_task(void* job, int part, int parts) noexcept nogil:
    cdef BackJob* j = <BackJob*>job
    if j.wide:
        backward_part(j, part, parts, <double*>j.work + part * j.work_each)
    else:
        backward_part(j, part, parts, <float*>j.work + part * j.work_each)


cdef Memory packed_w_ih(object w, Py_ssize_t H, Py_ssize_t I):
    """W_ih for dz W_ih: its rows r z n taken as n r z."""
    cdef Py_ssize_t size = w.itemsize
    cdef Memory to = Memory(3 * H * padded(I, size) * size)
    cdef char* at = <char*>address(w)
    if size == 4:
        pack_columns(H, I, 0, <const float*>at + 2 * H * I, I, <float*>to.at, 3 * H, 0)
        pack_columns(2 * H, I, 0, <const float*>at, I, <float*>to.at, 3 * H, H)
    else:
        pack_columns(H, I, 0, <const double*>at + 2 * H * I, I, <double*>to.at, 3 * H, 0)
        pack_columns(2 * H, I, 0, <const double*>at, I, <double*>to.at, 3 * H, H)
    return to


def backward(tape, grad_out=None, grad_h_n=None, grad_c_n=None, into=None):
    call = tape.call
    cdef Py_ssize_t I = call.I, H = call.H, size = call.dtype.itemsize
    cdef bint before_product = call.variant == "reset_before"
    cdef Backward b = Backward(tape, grad_out, grad_h_n, grad_c_n, into, (3 if before_product else 4) * H)
    cdef BackJob* j = &b.j
    cdef char* dz_r = <char*>j.dz + H * size
    w_ih = packed_w_ih(call.w_ih, H, I)
    w_hh = packed_columns(call.w_hh, (2 if before_product else 3) * H, H, False)
    j.w_ih, j.w_hh = w_ih.at, w_hh.at
    b.product(dz_r, j.width, 2 * H, j.x_rows, b.grads.w_ih, 0)
    b.product(j.dz, j.width, H, j.x_rows, b.grads.w_ih, 2 * H)
    if before_product:
        w_hn = packed_columns(call.w_hh[2 * H :], H, H, False)
        j.w_hn = w_hn.at
        j.hidden = b.block(b.chunk_rows() * H)
        b.product(dz_r, j.width, 2 * H, j.h_rows, b.grads.w_hh, 0)
        b.product(j.dz, j.width, H, j.hidden, b.grads.w_hh, 2 * H)
    else:
        b.product(dz_r, j.width, 3 * H, j.h_rows, b.grads.w_hh, 0)
    b.run(backward_task)
    b.bias(b.grads.b_ih, 0, H, 2 * H)
    b.bias(b.grads.b_ih, 2 * H, 0, H)
    b.bias(b.grads.b_hh, 0, H, 2 * H)
    b.bias(b.grads.b_hh, 2 * H, 0 if before_product else 3 * H, H)
    return b.finished()
