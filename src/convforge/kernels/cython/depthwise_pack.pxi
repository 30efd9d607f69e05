# Depthwise weights, columns of taps one after the other; of those that are an outer product the factors too.
from libc.float cimport DBL_EPSILON, FLT_EPSILON
from libc.math cimport fabs

cdef inline int64_t packed_depthwise(int64_t c, int64_t kh, int64_t kw, bint factors) noexcept nogil:
    """Elements of one output channel: [c][kw][kh]; with factors also a flag that is not 0 if they exist, u and v."""
    return c * kh * kw + (1 + kh + kw if factors else 0)


cdef inline double common_measure(double a, double b) noexcept nogil:
    """The largest number of which two that are not negative are multiples: Euclid's algorithm, in exact steps."""
    cdef double times
    while b > 0:
        # a modulo b
        times = b
        while times <= a / 2:
            times *= 2
        while times >= b:
            if a >= times:
                a -= times
            times /= 2
        a, b = b, a
    return a


cdef inline bint depthwise_factors(const real *taps, int64_t kh, int64_t kw, real *u, real *v) noexcept nogil:
    """Whether taps[kw][kh] is the outer product of v[kw] and u[kh] but for roundings; sets them.

    u is the column of the largest tap over that column's measure, so that products of integers stay integers, and v
    that tap's row over its u: a tap may be off by its own rounding, by those of three others and by v's. They are
    scaled by a power of 2 to sum(abs(u)) <= 1, so that no sum over a column exceeds the inputs; where v is then large,
    sums of the tiniest inputs would lose digits: refused.
    """
    cdef double tolerance = 2.5 * (FLT_EPSILON if sizeof(real) == 4 else DBL_EPSILON)
    cdef double largest = 0, measure = 0, total = 0, scale = 1, product, reach = 0
    cdef int64_t i, j, pivot = 0, middle = 0
    # most weights are no outer product: a few taps tell
    for j in range(1, kw):
        for i in range(1, kh):
            product = <double>taps[i] * taps[j * kh]
            if not fabs(<double>taps[0] * taps[j * kh + i] - product) <= 4 * tolerance * fabs(product):
                return False
    for i in range(kh * kw):
        if fabs(taps[i]) > largest:
            largest = fabs(taps[i])
            pivot = i // kh
            middle = i % kh
    taps += pivot * kh
    for i in range(kh):
        measure = common_measure(fabs(taps[i]), measure)
    for i in range(kh):
        total += fabs(taps[i]) / measure
    while total * scale > 1:
        scale /= 2
    for i in range(kh):
        u[i] = <real>(taps[i] / measure * scale)
    taps -= pivot * kh
    for j in range(kw):
        v[j] = <real>(taps[j * kh + middle] / (taps[pivot * kh + middle] / measure) / scale)
        reach += fabs(v[j])
    for j in range(kw):
        for i in range(kh):
            if not fabs(<double>u[i] * v[j] - taps[j * kh + i]) <= tolerance * fabs(taps[j * kh + i]):
                return False
    return reach <= 4096


cdef void pack_depthwise(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const pack_depthwise_args *a = <const pack_depthwise_args *>args
    cdef int64_t taps = a.kh * a.kw, item, k, c, i, j
    cdef const real *w
    cdef real *packed = <real *>a.packed + begin * a.k * packed_depthwise(a.c, a.kh, a.kw, a.factors)
    for item in range(begin, end):
        for k in range(a.k):
            for c in range(a.c):
                w = <const real *>a.w + item * a.w_g + k * a.w_k + c * a.w_c
                for j in range(a.kw):
                    for i in range(a.kh):
                        packed[j * a.kh + i] = w[i * a.w_h + j * a.w_w]
                packed += taps
            if a.factors:
                packed[0] = depthwise_factors(packed - taps, a.kh, a.kw, packed + 1, packed + 1 + a.kh)
                packed += 1 + a.kh + a.kw
