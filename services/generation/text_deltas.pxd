cimport cython

from inferd.services.generation.delta_sink cimport DeltaSink
from inferd.services.generation.token_usage cimport TokenUsage
from inferd.services.runtimes.token_sink cimport TokenSink
from inferd.services.text.detokenizer cimport Detokenizer

cdef class TextDeltas(TokenSink):
    cdef DeltaSink _sink
    cdef TokenUsage _usage
    cdef object _index
    cdef Detokenizer _detokenizer
    cdef object _stops, _end_ids, _held, _logprobs, _unsent, _ends, _decoded
    cdef bint _trim, _has_text_only

    cpdef bint push(self, object delta) except *
    @cython.locals(text=str)
    cpdef bint push_token(self, object token_id) except *
