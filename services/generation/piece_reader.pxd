from inferd.services.text.detokenizer cimport Detokenizer

cdef class PieceReader:
    cdef Detokenizer _detokenizer
    cdef object _stops, _end_ids, _held, _logprobs, _unseen, _ends, _decoded
    cdef bint _trim, _plain

    cpdef str text_of(self, object token_id)
    cpdef passed(self)
