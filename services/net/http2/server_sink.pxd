from inferd.services.net.text_sender cimport TextSender

cdef class ServerTexts(TextSender):
    cdef object _send, _message, _place
    cdef str _field

    cpdef bint send(self, str text) except *
