"""Decompresses requests, up to a size limit. Does not compress: responses are sent as they are."""

import zlib

from inferd.services.net.http2.framing import FramingError, MessageTooLarge

#: Values that a request's `grpc-encoding` may have. `grpc-accept-encoding` lists them in this order.
ENCODINGS = (b"identity", b"deflate", b"gzip")

#: zlib's `wbits`, which says what container is around the compressed bytes.
_CONTAINERS = {b"deflate": zlib.MAX_WBITS, b"gzip": zlib.MAX_WBITS + 16}


def decompress(message: bytes, encoding: bytes, limit: int) -> bytes:
    """The decompressed message. Raises FramingError, or MessageTooLarge if it has over `limit` bytes."""
    container = _CONTAINERS.get(encoding)
    if container is None:
        raise FramingError(f"a message is compressed, though its encoding is {encoding.decode('latin-1')!r}")
    stream = zlib.decompressobj(container)
    try:
        data = stream.decompress(message, limit + 1)
    except zlib.error as error:
        raise FramingError(f"a message is not {encoding.decode()}") from error
    if len(data) > limit:
        raise MessageTooLarge(None, limit)
    if not stream.eof or stream.unused_data:
        raise FramingError(f"a message is not {encoding.decode()}")
    return data
