cdef class Flow:
    cdef public bint is_paused
    cdef list _waiters
