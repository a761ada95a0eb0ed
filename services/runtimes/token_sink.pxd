from inferd.services.net.flow cimport Flow

cdef class TokenSink:
    cdef public Flow flow
    cdef public bint has_begun
    cdef public object on_begin

    cpdef bint push(self, object delta) except *
    cpdef bint push_token(self, object token_id) except *
    cpdef begin(self)
