cimport cython

cdef int _REQUEST_ID, _CHUNK, _TOKEN_IDS, _COMPLETION_TOKENS
cdef int _PROMPT_TOKENS, _CACHED_TOKENS, _INDEX, _REASONING_TOKENS

@cython.locals(end=Py_ssize_t, at=Py_ssize_t, size=Py_ssize_t, start=Py_ssize_t, key=int, byte="long long", shift=int, token="long long", completed="long long", value="long long")
cpdef long long next_token(bytes message, long long received)
