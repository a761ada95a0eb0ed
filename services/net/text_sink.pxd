cdef class TextSink:
    cpdef object push(self, str text)
