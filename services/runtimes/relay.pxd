cdef class Relay:
    cpdef bint push(self, object delta) except *
    cpdef bint push_token(self, object token_id) except *
