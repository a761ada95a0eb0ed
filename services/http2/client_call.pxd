cimport cython

cdef class ClientCall:
    cdef object _stream, _loop, _splitter, _waiter, _headers, _error
    cdef list _messages
    cdef Py_ssize_t _size
    cdef bint _is_cut, _ended
    cdef public object take

    @cython.locals(size=Py_ssize_t, message=bytes)
    cpdef data(self, bytes data)
