from rest_bridge.exchange cimport Exchange

cdef class TextEvents:
    cdef Exchange _exchange
    cdef bytes _before, _after
    cdef public bint sent
