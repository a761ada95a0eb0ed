cimport cython

from services.runtimes.response_reader cimport ResponseReader

cdef class Call:
    cdef public object rpc, heard, dropped

cdef class ShortWay:
    cdef object _push, _push_token, _refused
    cdef ResponseReader _reader
    cdef Call _call

    @cython.locals(reader=ResponseReader, token_id="long long")
    cpdef bint take(self, bytes message) except *
