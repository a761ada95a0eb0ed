cdef class Detokenizer:
    cdef object _tokenizer, _keep, _context, _plain_texts, _stream
    cdef bint _skip
    cdef list _pending

    cpdef str plain_text(self, object token_id)
    cpdef forget_context(self)
