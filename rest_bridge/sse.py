"""Server-sent events, as OpenAI's streams use them: only `data`, and comments, which clients ignore.

Source: the HTML standard, section 9.2. An error is an event of its own, and no `[DONE]` follows it.
"""

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

#: It shows proxies and clients that the connection is alive.
KEEP_ALIVE = b": keep-alive\n\n"


def event(data: bytes) -> bytes:
    """One event. `data` is one line: compact JSON, or a word such as [DONE]."""
    return b"data: %b\n\n" % data


def comment(text: bytes) -> bytes:
    """What clients ignore. `text` is one line."""
    return b": %b\n\n" % text
