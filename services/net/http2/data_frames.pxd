cimport cython

from inferd.services.net.http2.client_call cimport ClientCall

@cython.locals(end=Py_ssize_t, received=Py_ssize_t, begin=Py_ssize_t, stop=Py_ssize_t, length=Py_ssize_t, stream_id=long, call=ClientCall)
cpdef tuple deliver_data_frames(bytes data, Py_ssize_t start, dict calls)
