"""`Kernel.map`: call a C function for every row of arrays, on several threads.

Each argument becomes a column: a constant slot, a pointer that moves by the array's
stride, or numbers that are read from memory. A chunk of rows then needs no GIL and no
Python object; results are written into ``out`` as they come.

Thread safety: the GIL is held while columns are made; then they only are read.
"""

from operator import index

from cpython.buffer cimport Py_buffer, PyBuffer_Release, PyObject_CheckBuffer
from cpython.ref cimport PyObject
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uintptr_t

from cypar.core._native_call cimport (
    Loop, Native, NativeKernel, check, has_failed, reraise,
)
from cypar.core._packing cimport (
    MAX_ARGUMENTS, POINTER, Argument, Slot, as_int64, check_format, get_buffer,
    pack_number,
)
from cypar.core._port cimport port_exception_place
from cypar.core._range_engine cimport range_body, run_range
from cypar.core._thread_limits cimport (
    MAX_OPENMP, OpenMP, find_openmp, limit_openmp, restore_openmp,
)

from cypar.core._thread_limits import limits_for
from cypar.core.cpu import effective_n_jobs

cdef enum Source:
    CONSTANT        # the slot is the same for every row
    ROWS            # the slot is a pointer that moves
    NUMBERS         # the slot is read from memory

cdef struct Column:
    Source source
    char code
    int view                # number of the array's buffer
    char* first
    Py_ssize_t stride       # bytes from one row to the next
    Slot slot

ctypedef int (*plain_body)(
    void* context, Py_ssize_t begin, Py_ssize_t end
) noexcept nogil

cdef struct Job:
    Native* native
    void* kernel            # borrowed NativeKernel: the caller of `map` has it
    int n_columns
    Column[MAX_ARGUMENTS] columns
    char* out               # NULL if there is no result to keep
    Py_ssize_t out_stride
    char out_code
    # not for every row, so it comes after what is
    plain_body body         # a chunk; after a failure -1, with an exception set
    OpenMP openmp


cdef class Views:
    """The buffers of one map, held until it ends."""

    cdef Py_buffer[MAX_ARGUMENTS + 1] views
    cdef int n
    cdef Py_ssize_t n_rows      # -1: no array so far

    def __cinit__(self):
        self.n = 0
        self.n_rows = -1

    def __dealloc__(self):
        while self.n > 0:
            self.n -= 1
            PyBuffer_Release(&self.views[self.n])

    cdef Py_buffer* take(self, object value, int at, object kernel) except NULL:
        """Get a buffer and check the length of its first axis."""
        cdef Py_buffer* view = &self.views[self.n]
        get_buffer(value, view, at, kernel)
        self.n += 1
        what = kernel.describe(at)
        if view.itemsize == 0:
            raise ValueError(f"{what} has items of 0 bytes")
        if view.ndim == 0:
            raise ValueError(f"{what} has no axis to map over: it has no dimension")
        if view.strides[0] % view.itemsize != 0:
            raise ValueError(f"the rows of {what} are not aligned: pass a copy")
        if self.n_rows < 0:
            self.n_rows = view.shape[0]
        if view.shape[0] != self.n_rows:
            raise ValueError(
                f"{what} has {view.shape[0]} rows, but the arrays before it have "
                f"{self.n_rows}"
            )
        return view


cdef Py_ssize_t least_rows(object grain) except -1:
    """Rows of a chunk at least; 0 leaves it to the engine."""
    if grain is None:
        return 0
    try:
        n = index(grain)
    except TypeError:
        raise TypeError(
            "grain, the fewest rows of a chunk, must be a positive integer or None, "
            f"got {grain!r}"
        ) from None
    if n < 1:
        raise ValueError(f"grain must be a positive integer or None, got {grain!r}")
    return min(n, <Py_ssize_t>(<size_t>-1 >> 1))


cdef object map_rows(
    NativeKernel kernel, tuple values, object out, object n_jobs, object grain
):
    """Run a `Kernel.map`."""
    cdef Job job
    cdef Views views = Views()
    cdef int workers = min(effective_n_jobs(n_jobs), 1 << 20)
    cdef Py_ssize_t n_least = least_rows(grain)
    cdef int i
    if len(values) != kernel.n_arguments:
        raise kernel.wrong_number(len(values))
    job.native = &kernel.native
    job.kernel = <void*>kernel
    job.n_columns = kernel.n_arguments + kernel.n_hidden
    for i in range(kernel.n_arguments):
        make_column(&job.columns[i], kernel, i, values[i], views)
    if kernel.n_hidden:
        job.columns[kernel.n_arguments].source = CONSTANT
        job.columns[kernel.n_arguments].slot = kernel.hidden
    if views.n_rows < 0:
        raise TypeError(
            f"no argument of {kernel.describe()} is an array to map over: give one, or "
            "call the kernel itself"
        )
    check_row_lengths(kernel, &job, views)
    out = set_out(kernel, &job, views, out)
    cdef range_body body = run_calls if kernel.loop.function == NULL else run_loop
    limits = limits_for(<int>min(<Py_ssize_t>workers, views.n_rows))
    if limits is not None:
        limits.begin()
    try:
        if limits is not None:
            find_openmp(limits, &job.openmp)
            if job.openmp.n:
                job.body = <plain_body>body
                body = run_limited
        if run_range(
            body, &job, views.n_rows, n_least, workers, kernel.native.function
        ) == -1:
            reraise()
    finally:
        if limits is not None:
            limits.end()
    return out


# ---- columns -----------------------------------------------------------------------


cdef int make_column(
    Column* column, NativeKernel kernel, int at, object value, Views views
) except -1:
    cdef Argument* argument = &kernel.arguments[at]
    cdef Py_buffer* view
    column.code = argument.code
    column.source = CONSTANT
    column.stride = 0
    if argument.kind != POINTER and not is_array(value):
        return pack_number(argument, at, value, &column.slot, kernel)
    if not PyObject_CheckBuffer(value):
        raise TypeError(
            f"{kernel.describe(at)} must be an array to map over, got "
            f"{type(value).__name__}"
        )
    view = views.take(value, at, kernel)
    column.view = views.n - 1
    column.first = <char*>view.buf
    column.stride = view.strides[0]
    if argument.kind == POINTER:
        column.source = ROWS
        check_format(argument, at, view, kernel)
        check_rows(view, at, kernel)
        return 0
    column.source = NUMBERS
    if view.ndim != 1:
        raise ValueError(
            f"{kernel.describe(at)} is a number, so an array for it must have one "
            f"dimension, got {view.ndim}"
        )
    # as for a pointer that only is read
    cdef Argument as_pointer = argument[0]
    as_pointer.is_const = True
    check_format(&as_pointer, at, view, kernel)
    return 0


cdef bint is_array(object value):
    """Whether a number's argument is an array, not a NumPy scalar or 0-d array."""
    return PyObject_CheckBuffer(value) and getattr(value, "ndim", 1) != 0


cdef int check_rows(Py_buffer* view, int at, object kernel) except -1:
    """Each row must be contiguous."""
    cdef Py_ssize_t step = view.itemsize
    cdef int axis
    for axis in range(view.ndim - 1, 0, -1):
        if view.shape[axis] != 1 and view.strides[axis] != step:
            raise ValueError(
                f"the rows of {kernel.describe(at)} must be contiguous: pass "
                "numpy.ascontiguousarray(x)"
            )
        step *= view.shape[axis]
    return 0


cdef int check_row_lengths(NativeKernel kernel, Job* job, Views views) except -1:
    """Refuse rows that are shorter than the arguments say."""
    cdef int i, at, axis
    cdef Py_ssize_t n_items, row
    cdef Slot slot
    cdef Column* lengths
    cdef Py_buffer* view
    for i in range(kernel.n_arguments):
        at = kernel.arguments[i].length_at
        if at < 0:
            continue
        view = &views.views[job.columns[i].view]
        n_items = 1
        for axis in range(1, view.ndim):
            n_items *= view.shape[axis]
        lengths = &job.columns[at]
        for row in range(1 if lengths.source == CONSTANT else views.n_rows):
            load(lengths, row, &slot)
            if as_int64(lengths.code, &slot) > n_items:
                raise ValueError(
                    f"the rows of {kernel.describe(i)} have {n_items} items, but "
                    f"argument {at} is {as_int64(lengths.code, &slot)}. If that is no "
                    "number of items, say so: Kernel(..., lengths={})"
                )
    return 0


cdef object set_out(NativeKernel kernel, Job* job, Views views, object out):
    """Find out where results go; returns the array."""
    cdef Argument result
    cdef Py_buffer* view
    cdef int i
    job.out = NULL
    job.out_stride = 0
    job.out_code = kernel.native.result
    if job.out_code == c"v":
        if out is not None:
            raise TypeError(f"{kernel.describe()} has no result, so no out=")
        return None
    if out is None:
        import numpy  # loaded with NumPy arrays anyway, and slow to import

        out = numpy.empty(views.n_rows, numpy.dtype(letter_of(job.out_code)))
    result.kind = POINTER
    result.code = job.out_code
    result.size = numpy_size(job.out_code)
    result.is_const = False
    if not PyObject_CheckBuffer(out):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    view = views.take(out, -1, _out)
    if view.readonly:
        raise ValueError("out is read-only, but the results are written to it")
    if view.ndim != 1:
        raise ValueError(f"out must have one dimension, got {view.ndim}")
    check_format(&result, -1, view, _out)
    job.out = <char*>view.buf
    job.out_stride = view.strides[0]
    for i in range(kernel.n_arguments):
        if job.columns[i].source != CONSTANT:
            if mixes_rows(&views.views[job.columns[i].view], view):
                raise ValueError(
                    f"out overlaps {kernel.describe(i)}, so rows would be read after "
                    "others have been written: pass an array of its own, or one with "
                    "exactly the same elements"
                )
    return out


cdef bint mixes_rows(const Py_buffer* rows, const Py_buffer* out) noexcept:
    """Whether results may be written where other rows are read.

    Exactly the same elements are fine, and so are two columns of one array.
    """
    cdef Py_ssize_t stride = rows.strides[0], last = rows.shape[0] - 1
    cdef Py_ssize_t width = rows.itemsize, gap
    cdef int axis
    for axis in range(1, rows.ndim):
        width *= rows.shape[axis]  # rows are contiguous
    if last < 0 or width == 0:
        return False
    cdef char* begin = <char*>rows.buf + min(stride * last, 0)
    cdef char* end = <char*>rows.buf + max(stride * last, 0) + width
    cdef char* out_begin = <char*>out.buf + min(out.strides[0] * last, 0)
    cdef char* out_end = <char*>out.buf + max(out.strides[0] * last, 0) + out.itemsize
    if end <= out_begin or out_end <= begin:
        return False
    if last > 0 and stride != out.strides[0]:
        return True
    if rows.buf == out.buf and width == out.itemsize:
        return False
    stride = abs(stride)
    if stride < width:  # such as one row that is repeated
        return True
    gap = (out_begin - begin) % stride
    if gap < 0:  # as in C
        gap += stride
    return gap < width or gap + out.itemsize > stride


class _Out:
    """Names `out` in messages."""

    def describe(self, at=None):
        return "out"


cdef object _out = _Out()


cdef str letter_of(char code):
    return {"q": "i8", "Q": "u8", "i": "i4", "I": "u4"}.get(chr(code), chr(code))


cdef Py_ssize_t numpy_size(char code) noexcept:
    if code == c"d" or code == c"q" or code == c"Q":
        return 8
    if code == c"f" or code == c"i" or code == c"I":
        return 4
    return 2 if code == c"h" or code == c"H" else 1


# ---- without the GIL -----------------------------------------------------------------


cdef int run_calls(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    """Rows begin..end of a function that is called for each."""
    cdef Job* job = <Job*>context
    cdef PyObject* const* exception = port_exception_place()
    cdef Slot[MAX_ARGUMENTS] slots
    cdef Slot result
    cdef Py_ssize_t row
    cdef int i
    for i in range(job.n_columns):
        slots[i] = job.columns[i].slot
    for row in range(begin, end):
        for i in range(job.n_columns):
            if job.columns[i].source == ROWS:
                slots[i].w = <int64_t><uintptr_t>(
                    job.columns[i].first + row * job.columns[i].stride
                )
            elif job.columns[i].source == NUMBERS:
                load(&job.columns[i], row, &slots[i])
        job.native.call(job.native.function, slots, &result)
        if has_failed(job.native, &result, exception):
            with gil:
                check(<NativeKernel>job.kernel, &result, row)
        if job.out != NULL:
            store(job.out_code, &result, job.out + row * job.out_stride)
    return 0


cdef int run_loop(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    """Rows begin..end of a ufunc: one call of its inner loop."""
    cdef Job* job = <Job*>context
    cdef Loop* loop = <Loop*>job.native.function
    cdef char* pointers[MAX_ARGUMENTS + 1]
    cdef Py_ssize_t[MAX_ARGUMENTS + 1] steps
    cdef Py_ssize_t n = end - begin
    cdef Column* column
    cdef int i
    for i in range(job.n_columns):
        column = &job.columns[i]
        if column.source == CONSTANT:
            pointers[i] = <char*>&column.slot
            steps[i] = 0
        else:
            pointers[i] = column.first + begin * column.stride
            steps[i] = column.stride
    pointers[job.n_columns] = job.out + begin * job.out_stride
    steps[job.n_columns] = job.out_stride
    loop.function(pointers, &n, steps, loop.data)
    if port_exception_place()[0] != NULL:
        with gil:
            check(<NativeKernel>job.kernel, NULL, begin)
    return 0


cdef int run_limited(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    """Rows begin..end with this worker's share of OpenMP's threads."""
    cdef Job* job = <Job*>context
    cdef int[MAX_OPENMP] before
    limit_openmp(&job.openmp, before)
    cdef int status = job.body(context, begin, end)
    restore_openmp(&job.openmp, before)
    return status


cdef void load(
    const Column* column, Py_ssize_t row, Slot* slot
) noexcept nogil:
    """Read a number of a column."""
    cdef const char* at = column.first + row * column.stride
    cdef char code = column.code
    if column.source == CONSTANT:
        slot[0] = column.slot
    elif code == c"d" or code == c"q" or code == c"Q":
        slot.w = (<const int64_t*>at)[0]
    elif code == c"f" or code == c"i" or code == c"I":
        slot.i = (<const int32_t*>at)[0]
    elif code == c"h" or code == c"H":
        slot.h = (<const int16_t*>at)[0]
    else:
        slot.b = (<const int8_t*>at)[0]


cdef void store(char code, const Slot* slot, char* at) noexcept nogil:
    if code == c"d" or code == c"q" or code == c"Q":
        (<int64_t*>at)[0] = slot.w
    elif code == c"f" or code == c"i" or code == c"I":
        (<int32_t*>at)[0] = slot.i
    elif code == c"h" or code == c"H":
        (<int16_t*>at)[0] = slot.h
    else:
        (<int8_t*>at)[0] = slot.b
