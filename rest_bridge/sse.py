"""Server-sent events in the form of OpenAI's streams: `data` fields and comments. Does not write to sockets.

Source: the HTML standard, section 9.2. An error is an event of its own. No `[DONE]` follows the error of a
call.
"""

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

#: A comment that shows proxies and clients that the connection is alive.
KEEP_ALIVE = b": keep-alive\n\n"


def event(data: bytes, name: bytes = b"") -> bytes:
    """One event, which may have a name. `data` is one line: compact JSON, or a word such as [DONE]."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data


def comment(text: bytes) -> bytes:
    """A comment, which clients ignore. `text` is one line."""
    return b": %b\n\n" % text
