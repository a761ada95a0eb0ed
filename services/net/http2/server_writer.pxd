from inferd.services.net.flow cimport Flow
from inferd.services.net.text_sink cimport TextSink

cdef class ServerWriter:
    cdef public Flow flow
    cdef object _stream, _buffer, _sending

    cpdef object push(self, object message)

cdef class ServerTextSink(TextSink):
    cdef object _push, _message, _part
    cdef str _field

    cpdef object push(self, str text)
