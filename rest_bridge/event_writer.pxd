from inferd.rest_bridge.exchange cimport Exchange
from inferd.services.net.flow cimport Flow
from inferd.services.net.text_sink cimport TextSink

cdef class TextEventSink(TextSink):
    cdef object _writer
    cdef Flow _flow
    cdef Exchange _exchange
    cdef bytes _before, _after
    cdef public bint was_used

    cpdef object push(self, str text)
