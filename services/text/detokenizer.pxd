cdef class Detokenizer:
    cdef object _tokenizer, _keep, _context, _plain, _stream
    cdef bint _skip
    cdef list _pending

    cpdef str text_of(self, object token_id)
    cpdef passed(self)
