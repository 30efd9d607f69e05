# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Binds arrays to argument slots and runs stages on a pool of threads: the compiled half of the executor."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp
from cpython.tuple cimport PyTuple_GET_ITEM

cnp.import_array()

cdef extern from "runner.h":
    ctypedef void (*cf_kernel)(const int64_t *, char *, int64_t, int64_t) noexcept nogil
    ctypedef struct cf_stage:
        cf_kernel kernel
        int64_t first_arg
        int64_t items
        int64_t grain
    void cf_run(const cf_stage *, int64_t, const int64_t *, char *, int64_t, int) noexcept nogil
    int cf_affinity() noexcept nogil
    int omp_get_max_threads() noexcept nogil

cdef enum:
    COEFFICIENTS = 5
    ARRAYS = 8
    BIAS = 2
    OUT = 3
    WORKSPACE = 6

ctypedef struct slot:
    int64_t array  # -1: a constant
    int64_t address
    int64_t constant
    int64_t coefficients[COEFFICIENTS]

ctypedef struct expected_array:
    int64_t layout  # 0: any strides, 1: the last axis has unit stride, 2: C-contiguous, -1: not an operand
    int64_t type_number
    int64_t ndim
    int64_t shape[COEFFICIENTS]


def thread_limit():
    """The least of OpenMP's own maximum and the cores that the calling thread may run on."""
    return min(omp_get_max_threads(), cf_affinity())


cdef bint is_plain(cnp.ndarray array, const expected_array *expected) noexcept:
    """Whether the kernels can take the array as it is: shape, dtype, byte order, alignment and layout."""
    cdef int64_t axis, ndim = cnp.PyArray_NDIM(array), itemsize = cnp.PyArray_ITEMSIZE(array)
    if expected.layout < 0 or ndim != expected.ndim or cnp.PyArray_TYPE(array) != expected.type_number:
        return False
    if not cnp.PyArray_ISALIGNED(array) or not cnp.PyArray_ISNOTSWAPPED(array):
        return False
    for axis in range(ndim):
        if cnp.PyArray_DIM(array, <int>axis) != expected.shape[axis]:
            return False
        if cnp.PyArray_STRIDE(array, <int>axis) % itemsize:
            return False
    if expected.layout == 2:
        return cnp.PyArray_IS_C_CONTIGUOUS(array)
    return (
        expected.layout == 0 or ndim == 0 or expected.shape[ndim - 1] == 1
        or cnp.PyArray_STRIDE(array, <int>ndim - 1) == itemsize
    )


cdef void extent(cnp.ndarray array, int64_t *first, int64_t *last) noexcept:
    """Addresses of the first byte of an array's memory and of the first one behind it."""
    cdef int64_t axis, reach
    first[0] = <int64_t>cnp.PyArray_DATA(array)
    last[0] = first[0] + cnp.PyArray_ITEMSIZE(array)
    for axis in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIM(array, <int>axis) - 1) * cnp.PyArray_STRIDE(array, <int>axis)
        if reach < 0:
            first[0] += reach
        else:
            last[0] += reach


cdef class Runner:
    """Stages as C tables.

    ``slots`` is int64[n, 8] (array, address, constant, coefficients), ``stages`` int64[m, 4] (kernel address, first
    slot, items, grain), ``expected`` int64[8, 8] (layout, NumPy's type number, ndim, shape) for each of
    ``program.ARRAYS``.
    """

    cdef slot *slots
    cdef cf_stage *stages
    cdef int64_t slot_count
    cdef int64_t stage_count
    cdef expected_array expected[ARRAYS]

    def __cinit__(
        self, const int64_t[:, ::1] slots, const int64_t[:, ::1] stages, const int64_t[:, ::1] expected
    ):
        cdef int64_t i, j
        self.slot_count = slots.shape[0]
        self.stage_count = stages.shape[0]
        self.slots = <slot *>malloc(max(1, self.slot_count) * sizeof(slot))
        self.stages = <cf_stage *>malloc(max(1, self.stage_count) * sizeof(cf_stage))
        if self.slots == NULL or self.stages == NULL:
            raise MemoryError("no memory for a program's tables")
        for i in range(self.slot_count):
            self.slots[i].array = slots[i, 0]
            self.slots[i].address = slots[i, 1]
            self.slots[i].constant = slots[i, 2]
            for j in range(COEFFICIENTS):
                self.slots[i].coefficients[j] = slots[i, 3 + j]
        for i in range(self.stage_count):
            self.stages[i].kernel = <cf_kernel><void *>stages[i, 0]
            self.stages[i].first_arg = stages[i, 1]
            self.stages[i].items = stages[i, 2]
            self.stages[i].grain = stages[i, 3]
        for i in range(ARRAYS):
            self.expected[i].layout = expected[i, 0]
            self.expected[i].type_number = expected[i, 1]
            self.expected[i].ndim = expected[i, 2]
            for j in range(COEFFICIENTS):
                self.expected[i].shape[j] = expected[i, 3 + j]

    def __dealloc__(self):
        free(self.slots)
        free(self.stages)

    def plain(self, tuple arrays):
        """Whether the kernels can take the operands as they are.

        Each but an optional bias must be there, of the program's shape, dtype and layout, and ``out`` must be
        writeable and apart from the others.
        """
        cdef int64_t i, first, last
        cdef int64_t out_first = 0, out_last = 0
        out = <object>PyTuple_GET_ITEM(arrays, OUT)
        if type(out) is not cnp.ndarray or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
            return False
        extent(<cnp.ndarray>out, &out_first, &out_last)
        for i in range(WORKSPACE):
            item = <object>PyTuple_GET_ITEM(arrays, i)
            if item is None:
                if self.expected[i].layout >= 0 and i != BIAS:
                    return False
                continue
            if type(item) is not cnp.ndarray or not is_plain(<cnp.ndarray>item, &self.expected[i]):
                return False
            if i != OUT:
                extent(<cnp.ndarray>item, &first, &last)
                if first < out_last and out_first < last:
                    return False
        return True

    def run(self, tuple arrays, int64_t first, int64_t end, int64_t scratch, int64_t scratch_bytes, int threads):
        """Run the stages ``first`` to ``end``.

        ``arrays`` follows ``program.ARRAYS`` (None: absent); ``scratch`` is the offset in the workspace of ``threads``
        buffers of ``scratch_bytes``.
        """
        cdef int64_t address[ARRAYS]
        cdef int64_t itemsize[ARRAYS]
        cdef int64_t strides[ARRAYS][COEFFICIENTS]
        cdef int64_t i, j, value
        cdef cnp.ndarray array
        cdef const slot *s
        for i in range(ARRAYS):
            item = <object>PyTuple_GET_ITEM(arrays, i)
            address[i] = 0
            if item is None:
                continue
            array = item
            address[i] = <int64_t>cnp.PyArray_DATA(array)
            itemsize[i] = cnp.PyArray_ITEMSIZE(array)
            for j in range(cnp.PyArray_NDIM(array)):
                strides[i][j] = cnp.PyArray_STRIDE(array, <int>j) // itemsize[i]
            for j in range(cnp.PyArray_NDIM(array), COEFFICIENTS):
                strides[i][j] = 0
        cdef int64_t *memory = <int64_t *>malloc(max(1, self.slot_count) * sizeof(int64_t))
        if memory == NULL:
            raise MemoryError("no memory for a call's arguments")
        for i in range(self.slot_count):
            s = &self.slots[i]
            value = s.constant
            if s.array >= 0:
                if address[s.array] == 0:
                    value = 0
                else:
                    for j in range(COEFFICIENTS):
                        value += s.coefficients[j] * strides[s.array][j]
                    if s.address:
                        value = address[s.array] + itemsize[s.array] * value
            memory[i] = value
        with nogil:
            cf_run(
                self.stages + first, end - first, memory, <char *>(address[WORKSPACE] + scratch), scratch_bytes,
                threads,
            )
        free(memory)
