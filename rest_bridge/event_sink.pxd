from inferd.rest_bridge.exchange cimport Exchange
from inferd.services.net.text_sender cimport TextSender

cdef class TextEvents(TextSender):
    cdef Exchange _exchange
    cdef bytes _before, _after
    cdef public bint sent

    cpdef bint send(self, str text) except *
