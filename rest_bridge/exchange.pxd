cimport cython

cdef class Exchange:
    cdef object _cycle, _transport
    cdef bint _is_open
    cdef public bint is_paused
    cdef public object on_gone

    @cython.locals(size=Py_ssize_t, head=bytes)
    cpdef bint write(self, bytes data) except *
