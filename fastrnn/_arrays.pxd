# SPDX-License-Identifier: MIT
"""NumPy's arrays as C sees them. All inline, so there is no _arrays.pyx.

The buffer protocol says the same, but takes 60 ns for an array: two of them would double a small step of a stream.
A subclass's array is read as what it stands on.
"""

from cpython.ref cimport PyObject

cdef extern from *:
    """
    /* How PyArray_Descr and PyArrayObject_fields begin, in numpy/ndarraytypes.h: part of NumPy's ABI, the same in 1.x
     * and 2.x. Mirrored, so that the build needs no NumPy; _kernels makes sure, when it is imported, that it holds for
     * the NumPy at hand. */
    typedef struct {
        PyObject_HEAD
        PyTypeObject *typeobj;
        char kind, type, byteorder;
    } frnn_dtype;
    typedef struct {
        PyObject_HEAD
        char *data;
        int nd;
        Py_ssize_t *dimensions, *strides;
        PyObject *base;
        frnn_dtype *descr;
        int flags;
    } frnn_array;
    """
    ctypedef struct DType "frnn_dtype":
        char type                  # as dtype.char
        char byteorder             # as dtype.byteorder
    ctypedef struct Array "frnn_array":
        char* data
        int nd
        Py_ssize_t* dimensions
        Py_ssize_t* strides
        DType* descr
        int flags

cdef enum:
    C_CONTIGUOUS = 0x1
    ALIGNED = 0x100
    WRITEABLE = 0x400


cdef inline Array* fields(object array) noexcept:
    return <Array*><PyObject*>array


cdef inline void* address(object array, bint writable=False) except? NULL:
    """Where an array's first element is, or NULL for None. The array must be kept alive by the caller."""
    if array is None:
        return NULL
    if writable and not fields(array).flags & WRITEABLE:
        raise ValueError("array: needs one that may be written to")
    return fields(array).data
