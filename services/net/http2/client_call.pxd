cimport cython

cdef Py_ssize_t _PREFIX, _ACKNOWLEDGE

from inferd.services.net.flow cimport Flow

cdef class MessageReceiver:
    cpdef bint receive(self, bytes message) except *
    cpdef bint receive_all(self, object messages) except *

cdef class ClientCall:
    cdef object _stream, _loop, _splitter, _waiter, _headers, _error
    cdef list _messages
    cdef Py_ssize_t _size
    cdef bint _has_partial_message, _ended, _is_satisfied
    cdef MessageReceiver _receiver
    cdef Flow _flow

    @cython.locals(size=Py_ssize_t, is_whole=bint, message=bytes, receiver=MessageReceiver)
    cpdef receive_data(self, bytes data)
    cdef bint _is_paused(self)
    cdef object _push(self, MessageReceiver receiver, bytes message)
