cdef class WriteBatch:
    cdef object _loop
    cdef bint _is_held
    cdef list _waiting

    cpdef add(self, BatchedTransport transport)

cdef class BatchedTransport:
    cdef object _transport
    cdef WriteBatch _batch
    cdef list _parts
    cdef Py_ssize_t _size

    cpdef write(self, bytes data)
    cpdef flush(self)
