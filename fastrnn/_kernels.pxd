# SPDX-License-Identifier: MIT
"""The only door to csrc: frnn.h mirrored once, one typed inline shim per primitive that the loops use, memory and
pointers.

csrc/frnn.h says what each primitive does, and its letters.
"""

from fastrnn._arrays cimport Array

cdef extern from "frnn.h" nogil:
    enum:
        FRNN_LSTM_TAPE
        FRNN_GRU_TAPE
        FRNN_NEAR_BYTES

    Py_ssize_t frnn_outer_work(Py_ssize_t K, Py_ssize_t N, Py_ssize_t lanes, size_t itemsize)

    ctypedef struct frnn_f32:
        Py_ssize_t lanes
        void (*pack_columns)(Py_ssize_t K, Py_ssize_t N, int transposed, const float* w, Py_ssize_t ldw, float* to,
                             Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil
        void (*pack_gates)(Py_ssize_t G, Py_ssize_t H, Py_ssize_t K, int first, const float* w, Py_ssize_t ldw,
                           float* to, Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil
        void (*gemm)(int turn, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const float* a, Py_ssize_t lda,
                     const float* w, const float* z, Py_ssize_t ldz, float* c, Py_ssize_t ldc) noexcept nogil
        void (*gemv)(Py_ssize_t N, Py_ssize_t K, const float* w, Py_ssize_t ldw, const float* a, const float* z,
                     float* c) noexcept nogil
        void (*outer)(int more, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const float* a, Py_ssize_t lda,
                      const float* d, Py_ssize_t ldd, float* c, Py_ssize_t ldc, float* work) noexcept nogil
        void (*add)(Py_ssize_t n, Py_ssize_t N, const float* src, const Py_ssize_t* at, Py_ssize_t ldsrc, float* dst,
                    Py_ssize_t lddst) noexcept nogil
        void (*copy)(Py_ssize_t n, Py_ssize_t N, const float* src, const Py_ssize_t* at, Py_ssize_t ldsrc, float* dst,
                     const Py_ssize_t* to, Py_ssize_t lddst) noexcept nogil
        void (*add_rows)(Py_ssize_t K, Py_ssize_t N, const float* d, Py_ssize_t ldd, float* sums) noexcept nogil
        void (*rnn_step)(int turn, Py_ssize_t n, Py_ssize_t U, int relu, const float* z, Py_ssize_t ldz,
                         const float* x, Py_ssize_t ldx, Py_ssize_t I, const float* h_prev, Py_ssize_t ldh_prev,
                         Py_ssize_t P, const float* w, float* h, Py_ssize_t ldh) noexcept nogil
        void (*lstm_step)(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const float* z, Py_ssize_t ldz,
                          const float* x, Py_ssize_t ldx, Py_ssize_t I, const float* h_prev, Py_ssize_t ldh_prev,
                          Py_ssize_t P, const float* w, float* c, float* h, Py_ssize_t ldh,
                          float* tape) noexcept nogil
        void (*gru_step)(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const float* z, Py_ssize_t ldz,
                         const float* b_hn, const float* x, Py_ssize_t ldx, Py_ssize_t I, const float* h_prev,
                         Py_ssize_t ldh_prev, Py_ssize_t u0, const float* w, float* h, Py_ssize_t ldh,
                         float* tape) noexcept nogil
        void (*rnn_cell)(Py_ssize_t n, Py_ssize_t H, int relu, float clip, const float* z, float* h,
                         Py_ssize_t ldh) noexcept nogil
        void (*lstm_cell)(Py_ssize_t n, Py_ssize_t H, float clip, const float* z, const float* p, float* c, float* h,
                          Py_ssize_t ldh) noexcept nogil
        void (*gru_gates)(Py_ssize_t n, Py_ssize_t H, float clip, float* z, const float* h_prev,
                          Py_ssize_t ldh_prev, float* rh, Py_ssize_t ldrh) noexcept nogil
        void (*gru_reset)(Py_ssize_t n, Py_ssize_t H, float clip, const float* z, const float* q,
                          const float* h_prev, Py_ssize_t ldh_prev, float* h, Py_ssize_t ldh,
                          float* tape) noexcept nogil
        void (*rnn_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, int relu, const float* h, Py_ssize_t ldh,
                         const float* dh, float* dz, Py_ssize_t lddz) noexcept nogil
        void (*lstm_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const float* tape, const float* c_prev,
                          Py_ssize_t ldc_prev, const float* dh, float* dc, float* dz, Py_ssize_t lddz,
                          float* h) noexcept nogil
        void (*gru_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const float* tape, const float* h_prev,
                         Py_ssize_t ldh_prev, float* dh, float* dz, Py_ssize_t lddz) noexcept nogil
        void (*gru_reset_back)(Py_ssize_t n, Py_ssize_t H, const float* tape, const float* h_prev,
                               Py_ssize_t ldh_prev, float* dh, float* dz, Py_ssize_t lddz) noexcept nogil
        void (*gru_gates_back)(Py_ssize_t n, Py_ssize_t H, const float* tape, const float* h_prev,
                               Py_ssize_t ldh_prev, const float* drh, float* dh, float* dz,
                               Py_ssize_t lddz) noexcept nogil
        void (*tanh)(Py_ssize_t n, const float* x, float* y) noexcept nogil
        void (*sigmoid)(Py_ssize_t n, const float* x, float* y) noexcept nogil

    ctypedef struct frnn_f64:
        Py_ssize_t lanes
        void (*pack_columns)(Py_ssize_t K, Py_ssize_t N, int transposed, const double* w, Py_ssize_t ldw, double* to,
                             Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil
        void (*pack_gates)(Py_ssize_t G, Py_ssize_t H, Py_ssize_t K, int first, const double* w, Py_ssize_t ldw,
                           double* to, Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil
        void (*gemm)(int turn, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const double* a, Py_ssize_t lda,
                     const double* w, const double* z, Py_ssize_t ldz, double* c, Py_ssize_t ldc) noexcept nogil
        void (*gemv)(Py_ssize_t N, Py_ssize_t K, const double* w, Py_ssize_t ldw, const double* a, const double* z,
                     double* c) noexcept nogil
        void (*outer)(int more, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const double* a, Py_ssize_t lda,
                      const double* d, Py_ssize_t ldd, double* c, Py_ssize_t ldc, double* work) noexcept nogil
        void (*add)(Py_ssize_t n, Py_ssize_t N, const double* src, const Py_ssize_t* at, Py_ssize_t ldsrc, double* dst,
                    Py_ssize_t lddst) noexcept nogil
        void (*copy)(Py_ssize_t n, Py_ssize_t N, const double* src, const Py_ssize_t* at, Py_ssize_t ldsrc, double* dst,
                     const Py_ssize_t* to, Py_ssize_t lddst) noexcept nogil
        void (*add_rows)(Py_ssize_t K, Py_ssize_t N, const double* d, Py_ssize_t ldd, double* sums) noexcept nogil
        void (*rnn_step)(int turn, Py_ssize_t n, Py_ssize_t U, int relu, const double* z, Py_ssize_t ldz,
                         const double* x, Py_ssize_t ldx, Py_ssize_t I, const double* h_prev, Py_ssize_t ldh_prev,
                         Py_ssize_t P, const double* w, double* h, Py_ssize_t ldh) noexcept nogil
        void (*lstm_step)(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const double* z, Py_ssize_t ldz,
                          const double* x, Py_ssize_t ldx, Py_ssize_t I, const double* h_prev, Py_ssize_t ldh_prev,
                          Py_ssize_t P, const double* w, double* c, double* h, Py_ssize_t ldh,
                          double* tape) noexcept nogil
        void (*gru_step)(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const double* z, Py_ssize_t ldz,
                         const double* b_hn, const double* x, Py_ssize_t ldx, Py_ssize_t I, const double* h_prev,
                         Py_ssize_t ldh_prev, Py_ssize_t u0, const double* w, double* h, Py_ssize_t ldh,
                         double* tape) noexcept nogil
        void (*rnn_cell)(Py_ssize_t n, Py_ssize_t H, int relu, double clip, const double* z, double* h,
                         Py_ssize_t ldh) noexcept nogil
        void (*lstm_cell)(Py_ssize_t n, Py_ssize_t H, double clip, const double* z, const double* p, double* c,
                          double* h, Py_ssize_t ldh) noexcept nogil
        void (*gru_gates)(Py_ssize_t n, Py_ssize_t H, double clip, double* z, const double* h_prev,
                          Py_ssize_t ldh_prev, double* rh, Py_ssize_t ldrh) noexcept nogil
        void (*gru_reset)(Py_ssize_t n, Py_ssize_t H, double clip, const double* z, const double* q,
                          const double* h_prev, Py_ssize_t ldh_prev, double* h, Py_ssize_t ldh,
                          double* tape) noexcept nogil
        void (*rnn_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, int relu, const double* h, Py_ssize_t ldh,
                         const double* dh, double* dz, Py_ssize_t lddz) noexcept nogil
        void (*lstm_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const double* tape, const double* c_prev,
                          Py_ssize_t ldc_prev, const double* dh, double* dc, double* dz, Py_ssize_t lddz,
                          double* h) noexcept nogil
        void (*gru_back)(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const double* tape, const double* h_prev,
                         Py_ssize_t ldh_prev, double* dh, double* dz, Py_ssize_t lddz) noexcept nogil
        void (*gru_reset_back)(Py_ssize_t n, Py_ssize_t H, const double* tape, const double* h_prev,
                               Py_ssize_t ldh_prev, double* dh, double* dz, Py_ssize_t lddz) noexcept nogil
        void (*gru_gates_back)(Py_ssize_t n, Py_ssize_t H, const double* tape, const double* h_prev,
                               Py_ssize_t ldh_prev, const double* drh, double* dh, double* dz,
                               Py_ssize_t lddz) noexcept nogil
        void (*tanh)(Py_ssize_t n, const double* x, double* y) noexcept nogil
        void (*sigmoid)(Py_ssize_t n, const double* x, double* y) noexcept nogil

    ctypedef struct frnn_isa:
        const char* name
        int usable
        const frnn_f32* f32
        const frnn_f64* f64

    const int FRNN_MOST_THREADS

    ctypedef void (*frnn_task)(void* job, int part, int parts) noexcept nogil

    ctypedef struct frnn_kind:
        unsigned long long key
        double work

    int frnn_isa_at(int i, frnn_isa* isa)
    const char* frnn_compiler()
    void frnn_run(frnn_task task, void* job, int want, frnn_kind kind)
    void frnn_barrier(int parts)
    int frnn_worth(frnn_kind kind)
    unsigned long frnn_flush()
    void frnn_unflush(unsigned long saved)


ctypedef fused real:
    float
    double

# The instruction set in use. `use` changes it, and with it the layout of packed weights.
cdef const frnn_f32* f32
cdef const frnn_f64* f64

# Weights from which on packing or a step lets other Python threads run meanwhile: some 20 us of work.
cdef Py_ssize_t LONG

# The C functions themselves are linked into _kernels alone; the other modules reach them through it.
cdef void run_task(frnn_task task, void* job, int want, frnn_kind kind) noexcept nogil
cdef void barrier(int parts) noexcept nogil
cdef bint worth(frnn_kind kind) noexcept nogil
cdef unsigned long flush() noexcept nogil
cdef void unflush(unsigned long saved) noexcept nogil

cdef Py_ssize_t lanes(Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil
cdef const Array* plain(object array, Py_ssize_t itemsize, int flags) noexcept
cdef bint is_plain(object array, Py_ssize_t itemsize, int nd, Py_ssize_t n, Py_ssize_t m) noexcept


cdef struct Block:
    void* start
    Py_ssize_t room


cdef class Memory:
    """A block of uninitialised memory, aligned to a cache line, to be used again by later calls. lasting: it may be
    held for long, so it is to be no larger than need be."""

    cdef Block block
    cdef char* at
    cdef readonly Py_ssize_t size


cdef object array_of(Py_ssize_t bytes, tuple shape, object dtype)
cdef Memory packed_columns(object w, Py_ssize_t K, Py_ssize_t N, bint transposed)
cdef void pack_parts(object w, Py_ssize_t K, Py_ssize_t N, Py_ssize_t deep, char* to)
cdef Memory packed_gates(object w, Py_ssize_t G, Py_ssize_t H, Py_ssize_t K)
cdef Memory joined(object w_ih, object w_hh, Py_ssize_t G, Py_ssize_t H, int first)
cdef Memory summed(object a, object b, Py_ssize_t first, Py_ssize_t both, Py_ssize_t n, Py_ssize_t itemsize)


cdef inline void pack_columns(Py_ssize_t K, Py_ssize_t N, int transposed, const real* w, Py_ssize_t ldw, real* to,
                              Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil:
    if real is float:
        f32.pack_columns(K, N, transposed, w, ldw, to, K_all, k0)
    else:
        f64.pack_columns(K, N, transposed, w, ldw, to, K_all, k0)


cdef inline void pack_gates(Py_ssize_t G, Py_ssize_t H, Py_ssize_t K, int first, const real* w, Py_ssize_t ldw,
                            real* to, Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil:
    if real is float:
        f32.pack_gates(G, H, K, first, w, ldw, to, K_all, k0)
    else:
        f64.pack_gates(G, H, K, first, w, ldw, to, K_all, k0)


cdef inline void gemm(int turn, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real* a, Py_ssize_t lda, const real* w,
                      const real* z, Py_ssize_t ldz, real* c, Py_ssize_t ldc) noexcept nogil:
    if real is float:
        f32.gemm(turn, M, N, K, a, lda, w, z, ldz, c, ldc)
    else:
        f64.gemm(turn, M, N, K, a, lda, w, z, ldz, c, ldc)


cdef inline void gemv(Py_ssize_t N, Py_ssize_t K, const real* w, Py_ssize_t ldw, const real* a, const real* z,
                      real* c) noexcept nogil:
    if real is float:
        f32.gemv(N, K, w, ldw, a, z, c)
    else:
        f64.gemv(N, K, w, ldw, a, z, c)


cdef inline void gemm_unpacked(Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real* a, Py_ssize_t lda, const real* w,
                               const real* z, Py_ssize_t ldz, real* c, Py_ssize_t ldc, real* panel) noexcept nogil:
    """c = z + a w^T, with w (N, K) as it was given: packed a panel at a time, and used where it is.
    panel: K * 4*VL elements."""
    cdef Py_ssize_t width = 4 * lanes(sizeof(real)), n = 0, cols
    if M == 1:
        gemv(N, K, w, K, a, z, c)
        return
    while n < N:
        cols = min(width, N - n)
        pack_columns(K, cols, 1, w + n * K, K, panel, K, 0)
        gemm(0, M, cols, K, a, lda, panel, z + n, ldz, c + n, ldc)
        n += width


cdef inline void outer(int more, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, Py_ssize_t lda, const real* d,
                       Py_ssize_t ldd, real* c, Py_ssize_t ldc, real* work) noexcept nogil:
    if real is float:
        f32.outer(more, K, M, N, a, lda, d, ldd, c, ldc, work)
    else:
        f64.outer(more, K, M, N, a, lda, d, ldd, c, ldc, work)


cdef inline void add(Py_ssize_t n, Py_ssize_t N, const real* src, const Py_ssize_t* at, Py_ssize_t ldsrc, real* dst,
                     Py_ssize_t lddst) noexcept nogil:
    if real is float:
        f32.add(n, N, src, at, ldsrc, dst, lddst)
    else:
        f64.add(n, N, src, at, ldsrc, dst, lddst)


cdef inline void copy(Py_ssize_t n, Py_ssize_t N, const real* src, const Py_ssize_t* at, Py_ssize_t ldsrc, real* dst,
                      const Py_ssize_t* to, Py_ssize_t lddst) noexcept nogil:
    if real is float:
        f32.copy(n, N, src, at, ldsrc, dst, to, lddst)
    else:
        f64.copy(n, N, src, at, ldsrc, dst, to, lddst)


cdef inline void add_rows(Py_ssize_t K, Py_ssize_t N, const real* d, Py_ssize_t ldd, real* sums) noexcept nogil:
    if real is float:
        f32.add_rows(K, N, d, ldd, sums)
    else:
        f64.add_rows(K, N, d, ldd, sums)


cdef inline void rnn_step(int turn, Py_ssize_t n, Py_ssize_t U, int relu, const real* z, Py_ssize_t ldz,
                          const real* x, Py_ssize_t ldx, Py_ssize_t I, const real* h_prev, Py_ssize_t ldh_prev,
                          Py_ssize_t P, const real* w, real* h, Py_ssize_t ldh) noexcept nogil:
    if real is float:
        f32.rnn_step(turn, n, U, relu, z, ldz, x, ldx, I, h_prev, ldh_prev, P, w, h, ldh)
    else:
        f64.rnn_step(turn, n, U, relu, z, ldz, x, ldx, I, h_prev, ldh_prev, P, w, h, ldh)


cdef inline void lstm_step(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const real* z, Py_ssize_t ldz,
                           const real* x, Py_ssize_t ldx, Py_ssize_t I, const real* h_prev, Py_ssize_t ldh_prev,
                           Py_ssize_t P, const real* w, real* c, real* h, Py_ssize_t ldh, real* tape) noexcept nogil:
    if real is float:
        f32.lstm_step(turn, n, U, H, z, ldz, x, ldx, I, h_prev, ldh_prev, P, w, c, h, ldh, tape)
    else:
        f64.lstm_step(turn, n, U, H, z, ldz, x, ldx, I, h_prev, ldh_prev, P, w, c, h, ldh, tape)


cdef inline void gru_step(int turn, Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const real* z, Py_ssize_t ldz,
                          const real* b_hn, const real* x, Py_ssize_t ldx, Py_ssize_t I, const real* h_prev,
                          Py_ssize_t ldh_prev, Py_ssize_t u0, const real* w, real* h, Py_ssize_t ldh,
                          real* tape) noexcept nogil:
    if real is float:
        f32.gru_step(turn, n, U, H, z, ldz, b_hn, x, ldx, I, h_prev, ldh_prev, u0, w, h, ldh, tape)
    else:
        f64.gru_step(turn, n, U, H, z, ldz, b_hn, x, ldx, I, h_prev, ldh_prev, u0, w, h, ldh, tape)


cdef inline void rnn_cell(Py_ssize_t n, Py_ssize_t H, int relu, real clip, const real* z, real* h,
                          Py_ssize_t ldh) noexcept nogil:
    if real is float:
        f32.rnn_cell(n, H, relu, clip, z, h, ldh)
    else:
        f64.rnn_cell(n, H, relu, clip, z, h, ldh)


cdef inline void lstm_cell(Py_ssize_t n, Py_ssize_t H, real clip, const real* z, const real* p, real* c, real* h,
                           Py_ssize_t ldh) noexcept nogil:
    if real is float:
        f32.lstm_cell(n, H, clip, z, p, c, h, ldh)
    else:
        f64.lstm_cell(n, H, clip, z, p, c, h, ldh)


cdef inline void gru_gates(Py_ssize_t n, Py_ssize_t H, real clip, real* z, const real* h_prev, Py_ssize_t ldh_prev,
                           real* rh, Py_ssize_t ldrh) noexcept nogil:
    if real is float:
        f32.gru_gates(n, H, clip, z, h_prev, ldh_prev, rh, ldrh)
    else:
        f64.gru_gates(n, H, clip, z, h_prev, ldh_prev, rh, ldrh)


cdef inline void gru_reset(Py_ssize_t n, Py_ssize_t H, real clip, const real* z, const real* q, const real* h_prev,
                           Py_ssize_t ldh_prev, real* h, Py_ssize_t ldh, real* tape) noexcept nogil:
    if real is float:
        f32.gru_reset(n, H, clip, z, q, h_prev, ldh_prev, h, ldh, tape)
    else:
        f64.gru_reset(n, H, clip, z, q, h_prev, ldh_prev, h, ldh, tape)


cdef inline void rnn_back(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, int relu, const real* h, Py_ssize_t ldh,
                          const real* dh, real* dz, Py_ssize_t lddz) noexcept nogil:
    if real is float:
        f32.rnn_back(n, U, H, relu, h, ldh, dh, dz, lddz)
    else:
        f64.rnn_back(n, U, H, relu, h, ldh, dh, dz, lddz)


cdef inline void lstm_back(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const real* tape, const real* c_prev,
                           Py_ssize_t ldc_prev, const real* dh, real* dc, real* dz, Py_ssize_t lddz,
                           real* h) noexcept nogil:
    if real is float:
        f32.lstm_back(n, U, H, tape, c_prev, ldc_prev, dh, dc, dz, lddz, h)
    else:
        f64.lstm_back(n, U, H, tape, c_prev, ldc_prev, dh, dc, dz, lddz, h)


cdef inline void gru_back(Py_ssize_t n, Py_ssize_t U, Py_ssize_t H, const real* tape, const real* h_prev,
                          Py_ssize_t ldh_prev, real* dh, real* dz, Py_ssize_t lddz) noexcept nogil:
    if real is float:
        f32.gru_back(n, U, H, tape, h_prev, ldh_prev, dh, dz, lddz)
    else:
        f64.gru_back(n, U, H, tape, h_prev, ldh_prev, dh, dz, lddz)


cdef inline void gru_reset_back(Py_ssize_t n, Py_ssize_t H, const real* tape, const real* h_prev, Py_ssize_t ldh_prev,
                                real* dh, real* dz, Py_ssize_t lddz) noexcept nogil:
    if real is float:
        f32.gru_reset_back(n, H, tape, h_prev, ldh_prev, dh, dz, lddz)
    else:
        f64.gru_reset_back(n, H, tape, h_prev, ldh_prev, dh, dz, lddz)


cdef inline void gru_gates_back(Py_ssize_t n, Py_ssize_t H, const real* tape, const real* h_prev, Py_ssize_t ldh_prev,
                                const real* drh, real* dh, real* dz, Py_ssize_t lddz) noexcept nogil:
    if real is float:
        f32.gru_gates_back(n, H, tape, h_prev, ldh_prev, drh, dh, dz, lddz)
    else:
        f64.gru_gates_back(n, H, tape, h_prev, ldh_prev, drh, dh, dz, lddz)
