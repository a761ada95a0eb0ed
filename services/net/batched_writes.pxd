cdef class Writes:
    cdef object _loop
    cdef bint _is_held
    cdef list _waiting

    cpdef add(self, JoinedTransport transport)

cdef class JoinedTransport:
    cdef object _transport
    cdef Writes _writes
    cdef list _parts
    cdef Py_ssize_t _size

    cpdef write(self, bytes data)
    cpdef flush(self)
