cimport cython

from inferd.services.net.http2.client_call cimport Taker
from inferd.services.runtimes.relay cimport Relay
from inferd.services.runtimes.response_reader cimport ResponseReader

cdef class Call:
    cdef public object rpc, heard, dropped

cdef class ShortWay(Taker):
    cdef object _refused
    cdef Relay _relay
    cdef ResponseReader _reader
    cdef Call _call

    @cython.locals(reader=ResponseReader, token_id="long long")
    cpdef bint take(self, bytes message) except *
