cdef class TokenUsage:
    cdef object _prompts, _n
    cdef dict _cached, _reported
    cdef public long long completion_tokens
