# SPDX-License-Identifier: MIT
"""The only door to csrc: owns the chosen table of primitives. See _kernels.pxd for the shims."""

from fastrnn._arrays cimport ALIGNED, C_CONTIGUOUS, Array, address, fields

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uintptr_t
from libc.string cimport memmove

from numpy import empty, ndarray, zeros

cdef double MOST_BYTES = 2.0**50  # _check.MAX_BYTES
cdef Py_ssize_t LONG = 1 << 18


def instruction_sets():
    """The instruction sets of this build, weakest first: name -> usable on this machine."""
    cdef frnn_isa isa
    found = {}
    while frnn_isa_at(<int>len(found), &isa):
        found[isa.name.decode()] = bool(isa.usable)
    return found


def use(str name):
    """Switch to an instruction set. Weights packed before are of no use after."""
    global f32, f64
    cdef frnn_isa isa
    cdef int i = 0
    while frnn_isa_at(i, &isa):
        if isa.name.decode() == name and isa.usable:
            f32, f64 = isa.f32, isa.f64
            return
        i += 1
    raise ValueError(f"name: needs an instruction set usable here, got {name!r}")


use("portable")  # until config has chosen: without a table every call would crash


def compiler():
    """Name and version of the compiler that built the kernels."""
    return frnn_compiler().decode()


cdef void run_task(frnn_task task, void* job, int want, frnn_kind kind) noexcept nogil:
    frnn_run(task, job, want, kind)


cdef void barrier(int parts) noexcept nogil:
    frnn_barrier(parts)


cdef bint worth(frnn_kind kind) noexcept nogil:
    return frnn_worth(kind)


cdef unsigned long flush() noexcept nogil:
    return frnn_flush()


cdef void unflush(unsigned long saved) noexcept nogil:
    frnn_unflush(saved)


cdef Py_ssize_t lanes(Py_ssize_t itemsize) noexcept nogil:
    return f32.lanes if itemsize == 4 else f64.lanes


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """n rounded up to whole vectors."""
    cdef Py_ssize_t VL = lanes(itemsize)
    return (n + VL - 1) // VL * VL


cdef const Array* plain(object array, Py_ssize_t itemsize, int flags) noexcept:
    """The fields of a C-contiguous array of floats of this size with these flags; NULL for anything else."""
    if type(array) is not ndarray:
        return NULL
    cdef const Array* found = fields(array)
    if found.descr.type != (c"f" if itemsize == 4 else c"d") or found.descr.byteorder != c"=":
        return NULL
    flags |= C_CONTIGUOUS | ALIGNED
    return found if found.flags & flags == flags else NULL


def check_layout():
    """Whether arrays are what _arrays.pxd says they are: asked for before any is read."""
    if sizeof(Py_ssize_t) < 8:
        raise ImportError("fastrnn: sizes of its workspaces need 64 bits")
    array = zeros((2, 3, 4), "float32")[:, 1:]
    cdef const Array* found = fields(array)
    known = {"data": (<uintptr_t>found.data, False), "flags": found.flags, "nd": found.nd}
    if known == {"data": array.__array_interface__["data"], "flags": array.flags.num, "nd": array.ndim}:
        axes = [(found.dimensions[i], found.strides[i]) for i in range(3)]
        if axes == list(zip(array.shape, array.strides, strict=True)):
            if found.descr.type == ord(array.dtype.char) and found.descr.byteorder == ord(array.dtype.byteorder):
                return
    raise ImportError("fastrnn: NumPy's arrays are not laid out as in NumPy 1 and 2")


check_layout()


cdef bint is_plain(object array, Py_ssize_t itemsize, int nd, Py_ssize_t n, Py_ssize_t m) noexcept:
    """Whether it is a plain array (n,) or (n, m), or None."""
    cdef const Array* a
    if array is None:
        return True
    a = plain(array, itemsize, 0)
    return a != NULL and a.nd == nd and a.dimensions[0] == n and (nd == 1 or a.dimensions[1] == m)


def dimensions(int G, x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0):
    """The sizes T, B, I, H, P of a function's arguments that are plain arrays and fit each other, as most are; None of
    any others: `_check` will say whether they can be made to."""
    cdef Py_ssize_t size = 4 if type(x) is ndarray and fields(x).descr.type == c"f" else 8, T, B, I, H, P
    cdef const Array* a = plain(x, size, 0)
    cdef const Array* w = plain(w_hh if w_hr is None else w_hr, size, 0)
    if a == NULL or a.nd != 3 or w == NULL or w.nd != 2 or w_ih is None or w_hh is None:
        return None
    T, B, I, H = a.dimensions[0], a.dimensions[1], a.dimensions[2], w.dimensions[1]
    P = H if w_hr is None else w.dimensions[0]
    if min(I, H, P) < 1 or <double>T * B * max(G * H, I, P) * size > MOST_BYTES:
        return None
    if not (is_plain(w_ih, size, 2, G * H, I) and is_plain(w_hh, size, 2, G * H, P)):
        return None
    if not (is_plain(b_ih, size, 1, G * H, 0) and is_plain(b_hh, size, 1, G * H, 0)):
        return None
    return (T, B, I, H, P) if is_plain(h0, size, 2, B, P) and is_plain(c0, size, 2, B, H) else None


# ---- workspaces and results -----------------------------------------------------------------------------------------

# The system takes microseconds for a page, and, where a hypervisor has to find it first, milliseconds for a huge one: a
# pass that allocated its workspaces and results afresh would spend up to half of its time there. Some blocks are kept
# instead, the oldest going first.
cdef enum:
    LEAST_BYTES = 32 << 10  # of a result: less, the C library has at hand
    SPARES = 32
    SPARE_BYTES = 256 << 20  # a block of half of it at most: the tape of a large training batch
    HUGE_BYTES = 8 << 20  # from here on pages of 2 MiB are worth having: less to look up, fewer to be handed out

cdef Block spares[SPARES]
cdef int n_spares = 0
cdef Py_ssize_t spare_bytes = 0


cdef extern from *:
    """
    /* Without the interpreter's lock the list of spares has one of its own, for which nobody waits: whom it is taken
     * from does without the list. */
    #ifdef Py_GIL_DISABLED
    static char frnn_spares_taken;
    #define frnn_take_spares() (!__atomic_test_and_set(&frnn_spares_taken, __ATOMIC_ACQUIRE))
    #define frnn_give_spares() __atomic_clear(&frnn_spares_taken, __ATOMIC_RELEASE)
    #else
    #define frnn_take_spares() 1
    #define frnn_give_spares() ((void)0)
    #endif

    #if defined(__linux__)
    #include <sys/mman.h>
    static void frnn_want_huge_pages(void *start, Py_ssize_t size)
    {
        const uintptr_t page = (uintptr_t)1 << 21;
        uintptr_t first = ((uintptr_t)start + page - 1) / page * page, end = ((uintptr_t)start + size) / page * page;
        if (first < end)
            madvise((void *)first, end - first, MADV_HUGEPAGE);
    }
    #else
    #define frnn_want_huge_pages(start, size)
    #endif
    """
    bint take_spares "frnn_take_spares"() noexcept
    void give_spares "frnn_give_spares"() noexcept
    void want_huge_pages "frnn_want_huge_pages"(void* start, Py_ssize_t size)


cdef Block pop_spare(int i) noexcept:
    global n_spares, spare_bytes
    cdef Block found = spares[i]
    n_spares -= 1
    spare_bytes -= found.room
    memmove(&spares[i], &spares[i + 1], (n_spares - i) * sizeof(Block))
    return found


cdef Block spare_block(Py_ssize_t size, Py_ssize_t slack) noexcept:
    """The smallest spare block at least this large, by no more than the slack; none if there is no such one."""
    cdef int i, best = -1
    cdef Block found
    found.start, found.room = NULL, 0
    if not take_spares():
        return found
    for i in range(n_spares):
        if size <= spares[i].room <= size + slack and (best < 0 or spares[i].room < spares[best].room):
            best = i
    if best >= 0:
        found = pop_spare(best)
    give_spares()
    return found


cdef void free_spares() noexcept:
    if take_spares():
        while n_spares:
            PyMem_RawFree(pop_spare(0).start)
        give_spares()


cdef Block new_block(Py_ssize_t size, Py_ssize_t slack) except *:
    """A spare one, or a new one."""
    cdef Block block = spare_block(size, slack)
    if block.start is not NULL:
        return block
    block.start, block.room = PyMem_RawMalloc(size + 64), size
    if block.start is NULL:
        free_spares()
        block.start = PyMem_RawMalloc(size + 64)
    if block.start is NULL:
        raise MemoryError(f"no memory for a block of {size} bytes")
    if size >= HUGE_BYTES:
        want_huge_pages(block.start, size)
    return block


cdef void drop_block(Block block) noexcept:
    global n_spares, spare_bytes
    if block.room > SPARE_BYTES // 2 or not take_spares():
        PyMem_RawFree(block.start)
        return
    while n_spares == SPARES or (n_spares and spare_bytes + block.room > SPARE_BYTES):
        PyMem_RawFree(pop_spare(0).start)
    spares[n_spares] = block
    n_spares += 1
    spare_bytes += block.room
    give_spares()


cdef class Memory:
    def __cinit__(self, Py_ssize_t size, bint lasting=False):
        self.size = size
        self.block = new_block(size, size // 4 if lasting else size + 4096)
        self.at = <char*>((<uintptr_t>self.block.start + 63) // 64 * 64)

    def __dealloc__(self):
        if self.block.start is not NULL:
            drop_block(self.block)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.size, False, flags)


cdef object array_of(Py_ssize_t bytes, tuple shape, object dtype):
    """A new array of so many bytes; if these are many, in a block that is kept when nobody needs it any more."""
    return ndarray(shape, dtype, Memory(bytes, True)) if bytes >= LEAST_BYTES else empty(shape, dtype)


def new_array(tuple shape, dtype):
    """The same, for Python."""
    cdef Py_ssize_t bytes = dtype.itemsize, n
    for n in shape:
        bytes *= n
    return array_of(bytes, shape, dtype)


# ---- packed weights -------------------------------------------------------------------------------------------------


cdef void pack(Py_ssize_t G, Py_ssize_t N, Py_ssize_t K, bint transposed, int first, Py_ssize_t size, const void* w,
               void* to, Py_ssize_t K_all, Py_ssize_t k0) noexcept nogil:
    cdef Py_ssize_t ldw = K if transposed else N
    if G > 0 and size == 4:
        pack_gates(G, N, K, first, <const float*>w, K, <float*>to, K_all, k0)
    elif G > 0:
        pack_gates(G, N, K, first, <const double*>w, K, <double*>to, K_all, k0)
    elif size == 4:
        pack_columns(K, N, transposed, <const float*>w, ldw, <float*>to, K_all, k0)
    else:
        pack_columns(K, N, transposed, <const double*>w, ldw, <double*>to, K_all, k0)


cdef void pack_matrix(const char* w, Py_ssize_t size, Py_ssize_t G, Py_ssize_t N, Py_ssize_t K, bint transposed,
                      int first, char* to, Py_ssize_t K_all, Py_ssize_t k0):
    """Into rows k0..k0+K-1 of K_all: G gates of N units from (G*N, K) in gates layout, or, with G = 0, (K, N), or
    (N, K) if transposed, in columns layout."""
    if K * N * max(G, 1) > LONG:
        with nogil:
            pack(G, N, K, transposed, first, size, w, to, K_all, k0)
    else:
        pack(G, N, K, transposed, first, size, w, to, K_all, k0)


cdef Memory packed_columns(object w, Py_ssize_t K, Py_ssize_t N, bint transposed):
    """A matrix (K, N), or (N, K) if transposed, in columns layout."""
    cdef Py_ssize_t size = w.itemsize
    cdef Memory to = Memory(K * padded(N, size) * size)
    pack_matrix(<char*>address(w), size, 0, N, K, transposed, 0, to.at, K, 0)
    return to


cdef void pack_parts(object w, Py_ssize_t K, Py_ssize_t N, Py_ssize_t deep, char* to):
    """The first K rows of a matrix (., N), every `deep` of them in columns layout by themselves."""
    cdef Py_ssize_t size = w.itemsize, row = padded(N, size) * size, k = 0
    while k < K:
        deep = min(deep, K - k)
        pack_matrix(<char*>address(w) + k * N * size, size, 0, N, deep, False, 0, to + k * row, deep, 0)
        k += deep


cdef Memory packed_gates(object w, Py_ssize_t G, Py_ssize_t H, Py_ssize_t K):
    """The first G*H rows of a matrix (., K) in gates layout."""
    cdef Py_ssize_t size = w.itemsize
    cdef Memory to = Memory(G * K * padded(H, size) * size)
    pack_matrix(<char*>address(w), size, G, H, K, True, 0, to.at, K, 0)
    return to


cdef Memory joined(object w_ih, object w_hh, Py_ssize_t G, Py_ssize_t H, int first):
    """Both, in gates layout, or, with G = 0, columns layout, W_hh after W_ih, whose first gate is `first`."""
    cdef Py_ssize_t I = w_ih.shape[1], P = w_hh.shape[1], size = w_ih.itemsize
    cdef Memory to = Memory((I + P) * max(G, 1) * padded(H, size) * size)
    pack_matrix(<char*>address(w_ih), size, G, H, I, True, first, to.at, I + P, 0)
    pack_matrix(<char*>address(w_hh), size, G, H, P, True, 0, to.at, I + P, I)
    return to


cdef void sum_rows(Py_ssize_t n, Py_ssize_t both, const real* a, const real* b, real* to) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = (a[i] if a != NULL else 0) + (b[i] if b != NULL and i < both else 0)


cdef Memory summed(object a, object b, Py_ssize_t first, Py_ssize_t both, Py_ssize_t n, Py_ssize_t itemsize):
    """n elements of a + b from `first` on, b only in the first `both` of them; None stands for zeros."""
    cdef Memory to = Memory(n * itemsize)
    cdef char* pa = <char*>address(a)
    cdef char* pb = <char*>address(b)
    pa = pa + first * itemsize if pa != NULL else NULL
    pb = pb + first * itemsize if pb != NULL else NULL
    cdef unsigned long saved = flush()  # rounds as the kernels do, too
    if itemsize == 4:
        sum_rows(n, both, <const float*>pa, <const float*>pb, <float*>to.at)
    else:
        sum_rows(n, both, <const double*>pa, <const double*>pb, <double*>to.at)
    unflush(saved)
    return to
