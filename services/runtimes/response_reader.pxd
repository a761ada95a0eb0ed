from inferd.services.runtimes.chunk_wire cimport next_token

cdef class ResponseReader:
    cdef bint _logprobs, _prompt_logprobs, _scored
    cdef public long long received
    cdef object _cached_tokens
    cdef public object error

    cpdef long long next_token(self, bytes message)
