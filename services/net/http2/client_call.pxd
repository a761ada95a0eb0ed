cimport cython

cdef Py_ssize_t _PREFIX, _ACKNOWLEDGE

cdef class Taker:
    cpdef bint take(self, bytes message) except *

cdef class ClientCall:
    cdef object _stream, _loop, _splitter, _waiter, _headers, _error
    cdef list _messages
    cdef Py_ssize_t _size
    cdef bint _is_cut, _ended
    cdef public Taker taker

    @cython.locals(size=Py_ssize_t, is_whole=bint, message=bytes, taker=Taker)
    cpdef data(self, bytes data)
