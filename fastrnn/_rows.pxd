# SPDX-License-Identifier: MIT
"""Rows and steps: which row works in which step, and where the caller keeps it. All inline, so there is no _rows.pyx.

Rows are counted by rank (the longest sequence first) and steps in the order of work: step s of rank r is time s, or, in
reverse, s steps before the row's last. So rows only ever leave: the ranks at work in step s are 0..alive-1.
The caller's own arrays are Views; all others are laid out row after row, step after step, in this order ("packed").
So may be the caller's, whose rank is then row: what PyTorch calls a PackedSequence, with times for steps.

T time steps, B batch, R rows of all steps.
"""

from fastrnn._kernels cimport add, copy, real


cdef struct View:  # a caller's array (T, B, width): strides in elements, the last one 1
    char* data
    Py_ssize_t step, row
    const Py_ssize_t* start    # if it is packed, (R, width), its rows before each time; NULL: t * step


cdef struct Sequence:
    Py_ssize_t T, B, R
    const Py_ssize_t* order    # the row at each rank; NULL: rank is row
    const Py_ssize_t* lengths  # by rank; NULL: all T
    const Py_ssize_t* alive    # ranks at work in each step; NULL: all B
    const Py_ssize_t* start    # packed rows before each step, T + 1 of them; NULL: s * B
    bint reverse
    bint direct                # the ranks of a step stand one row apart in the caller's arrays


cdef inline Py_ssize_t before(const Sequence* q, Py_ssize_t s) noexcept nogil:
    """Packed rows before step s."""
    return q.start[s] if q.start != NULL else s * q.B


cdef inline Py_ssize_t at_work(const Sequence* q, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """How many of the ranks r0..r1-1 step s still has; they are the first ones."""
    cdef Py_ssize_t n = q.alive[s] if q.alive != NULL else q.B
    return max(min(n, r1) - r0, 0)


cdef inline Py_ssize_t offset(const View* v, const Sequence* q, Py_ssize_t s, Py_ssize_t r) noexcept nogil:
    """Where the caller keeps rank r's row of step s, in elements."""
    cdef Py_ssize_t t = s, row = q.order[r] if q.order != NULL else r
    if q.reverse:
        t = (q.lengths[r] if q.lengths != NULL else q.T) - 1 - s
    if v.start != NULL:
        return (v.start[t] + row) * v.row
    return t * v.step + row * v.row


cdef inline View from_column(const View* v, Py_ssize_t column, Py_ssize_t itemsize) noexcept nogil:
    """The view without its columns before this one."""
    cdef View part = v[0]
    if part.data != NULL:
        part.data += column * itemsize
    return part


cdef inline bint consecutive(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t n) noexcept nogil:
    """Whether n ranks' rows follow each other in the caller's array as they do when packed, over all steps."""
    if not q.direct or q.reverse:
        return False
    if v.start != NULL:
        return n == q.B and v.row == width
    return q.alive == NULL and v.step == n * width and (n == 1 or v.row == width)


cdef enum Move:
    BRING
    ADD
    GIVE


cdef inline void move(Move how, const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0,
                      Py_ssize_t n, real* rows, Py_ssize_t ld) noexcept nogil:
    """What gather, add_gathered and scatter do where ranks stand anywhere in the caller's array."""
    cdef Py_ssize_t at[64]
    cdef Py_ssize_t r = 0, most = sizeof(at) // sizeof(at[0]), m, i
    cdef real* data = <real*>v.data
    while r < n:
        m = min(n - r, most)
        for i in range(m):
            at[i] = offset(v, q, s, r0 + r + i)
        if how == BRING:
            copy(m, width, <const real*>data, at, 0, rows + r * ld, NULL, ld)
        elif how == ADD:
            add(m, width, <const real*>data, at, 0, rows + r * ld, ld)
        else:
            copy(m, width, <const real*>rows + r * ld, NULL, ld, data, at, 0)
        r += m


cdef inline void gather(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                        real* to, Py_ssize_t ldto) noexcept nogil:
    """n rows of step s, from rank r0 on, out of the caller's array."""
    if q.direct:
        copy(n, width, <const real*>v.data + offset(v, q, s, r0), NULL, v.row, to, NULL, ldto)
    else:
        move(BRING, v, q, width, s, r0, n, to, ldto)


cdef inline void add_gathered(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0,
                              Py_ssize_t n, real* to, Py_ssize_t ldto) noexcept nogil:
    """to += the rows that gather would bring; v.data may be NULL for zeros."""
    if v.data == NULL:
        return
    if q.direct:
        add(n, width, <const real*>v.data + offset(v, q, s, r0), NULL, v.row, to, ldto)
    else:
        move(ADD, v, q, width, s, r0, n, to, ldto)


cdef inline void scatter(const View* v, const Sequence* q, Py_ssize_t width, Py_ssize_t s, Py_ssize_t r0, Py_ssize_t n,
                         const real* rows, Py_ssize_t ld) noexcept nogil:
    """The reverse of gather."""
    if q.direct:
        copy(n, width, rows, NULL, ld, <real*>v.data + offset(v, q, s, r0), NULL, v.row)
    else:
        move(GIVE, v, q, width, s, r0, n, <real*>rows, ld)


cdef inline void clear_padding(const View* v, const Sequence* q, Py_ssize_t width, real* data) noexcept nogil:
    """Zeros past the rows' lengths; data: the view's."""
    cdef Py_ssize_t r, row
    cdef const real* zeros = NULL
    if q.lengths == NULL or v.start != NULL:
        return
    for r in range(q.B):
        row = q.order[r] if q.order != NULL else r
        copy(q.T - q.lengths[r], width, zeros, NULL, 0, data + q.lengths[r] * v.step + row * v.row, NULL, v.step)
