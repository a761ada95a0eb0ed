cimport cython

from inferd.services.net.batched_writes cimport BatchedTransport

cdef list _CHUNK_HEADS

cdef class Exchange:
    cdef object _cycle
    cdef BatchedTransport _transport
    cdef bint _is_open
    cdef public bint is_paused
    cdef public object on_disconnect

    cpdef bint write(self, bytes data) except *
    @cython.locals(size=Py_ssize_t, head=bytes)
    cpdef bint write_parts(self, bytes before, bytes data, bytes after) except *
