"""Server-sent events, as OpenAI's streams use them: only `data`, and comments to keep a connection alive.

Source: the HTML standard, section 9.2. An error is an event of its own, and no `[DONE]` follows it.
"""

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

#: A line that clients ignore: it shows proxies and clients that the connection is alive.
KEEP_ALIVE = b": keep-alive\n\n"


def event(data: bytes) -> bytes:
    """One event. `data` is one line: compact JSON, or a word such as [DONE]."""
    return b"data: %b\n\n" % data
