cimport cython

from inferd.services.generation.piece_reader cimport PieceReader
from inferd.services.runtimes.relay cimport Relay
from inferd.services.net.text_sender cimport TextSender

cdef class PieceRelay:
    cdef public long long completion_tokens
    cdef public object send
    cdef public TextSender send_text

    @cython.locals(sender=TextSender)
    cpdef bint push_text(self, str text) except *

cdef class TokenRelay(Relay):
    cdef object _push
    cdef PieceReader _reader
    cdef PieceRelay _relay

    cpdef bint push(self, object delta) except *
    @cython.locals(text=str)
    cpdef bint push_token(self, object token_id) except *
