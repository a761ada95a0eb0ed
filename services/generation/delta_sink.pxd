from inferd.services.net.text_sink cimport TextSink

cdef class DeltaSink:
    cdef public TextSink texts

    cpdef object push(self, object delta)
    cpdef object push_text(self, object token_id, str text)

cdef class Collector(DeltaSink):
    cdef public list deltas

    cpdef object push(self, object delta)
