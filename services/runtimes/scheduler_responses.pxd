cimport cython

from inferd.services.net.http2.client_call cimport MessageReceiver
from inferd.services.runtimes.chunk_wire cimport next_token
from inferd.services.runtimes.token_sink cimport TokenSink

cdef class SchedulerResponses(MessageReceiver):
    cdef TokenSink _sink
    cdef bint _logprobs, _prompt_logprobs, _is_scored
    cdef long long _received
    cdef public object last_message_at
    cdef public bint is_finished, is_over

    @cython.locals(token_id="long long")
    cpdef bint receive(self, bytes message) except *
    cpdef bint receive_all(self, object messages) except *
    cdef bint _push(self, object delta) except *
