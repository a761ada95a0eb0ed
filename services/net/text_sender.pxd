cdef class TextSender:
    cpdef bint send(self, str text) except *
