# SPDX-License-Identifier: MIT
"""The only door to csrc: owns the chosen table of primitives. See _kernels.pxd for the shims."""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uintptr_t


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
    raise ValueError(f"FRNN_ISA: needs an instruction set usable here, got {name!r}")


def compiler():
    """Name and version of the compiler that built the kernels."""
    return frnn_compiler().decode()


def tanh(x, y):
    """y = tanh(x) on contiguous float32 or float64 arrays, for tests and benchmarks."""
    if x.itemsize == 4:
        f32.tanh(x.size, <float*>address(x), <float*>address(y, True))
    else:
        f64.tanh(x.size, <double*>address(x), <double*>address(y, True))


def sigmoid(x, y):
    """y = sigmoid(x) on contiguous float32 or float64 arrays, for tests and benchmarks."""
    if x.itemsize == 4:
        f32.sigmoid(x.size, <float*>address(x), <float*>address(y, True))
    else:
        f64.sigmoid(x.size, <double*>address(x), <double*>address(y, True))


cdef void run(frnn_task task, void* job, int want) noexcept nogil:
    frnn_run(task, job, want)


cdef void barrier(int parts) noexcept nogil:
    frnn_barrier(parts)


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


cdef void* address(object array, bint writable=False) except? NULL:
    """Where an array's first element is, or NULL for None. The array must be kept alive by the caller."""
    cdef Py_buffer view
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    cdef void* at = view.buf
    PyBuffer_Release(&view)
    return at


cdef class Memory:
    def __cinit__(self, Py_ssize_t size):
        self.size = size
        self.block = PyMem_RawMalloc(size + 64)
        if self.block is NULL:
            raise MemoryError(f"no memory for a workspace of {size} bytes")
        self.at = <char*>((<uintptr_t>self.block + 63) // 64 * 64)

    def __dealloc__(self):
        PyMem_RawFree(self.block)
