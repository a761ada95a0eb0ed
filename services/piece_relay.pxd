from services.piece_reader cimport PieceReader

cdef class PieceRelay:
    cdef public long long completion_tokens
    cdef public object send, send_text

cdef class TokenRelay:
    cdef object _push_text
    cdef PieceReader _reader
    cdef readonly object push
