"""Reads the scheduler's most frequent message from its bytes: a chunk with one token.

Reads no other message: protobuf does, which takes ten times as long.
"""

#: Tags of protobuf's wire format (field number and wire type) of a GenerateResponse.
_REQUEST_ID, _CHUNK = 0x0A, 0x12
#: Tags of a GenerateStreamChunk: its packed list of tokens, and its numbers.
_TOKEN_IDS, _COMPLETION_TOKENS = 0x0A, 0x18
_PROMPT_TOKENS, _CACHED_TOKENS, _INDEX, _REASONING_TOKENS = 0x10, 0x20, 0x40, 0x48


def next_token(message: bytes, received: int) -> int:
    """The token of a GenerateResponse that is a chunk with one token, the next after `received` tokens.

    Returns -1 for any other message, and for bytes that are no message.
    """
    end = len(message)
    if end < 4 or message[0] != _REQUEST_ID or message[1] > 0x7F:
        return -1
    at = 2 + message[1]
    if at + 2 > end or message[at] != _CHUNK:
        return -1
    # The chunk must be the rest of the message.
    size = message[at + 1]
    at += 2
    if size > 0x7F:
        if at == end or message[at] > 0x7F:
            return -1
        size = (size & 0x7F) | message[at] << 7
        at += 1
    if size != end - at:
        return -1
    token, completed = -1, 0
    while at < end:
        key = message[at]
        at += 1
        if key == _TOKEN_IDS:
            if token >= 0 or at == end:
                return -1
            # The size of the packed list. If it is longer than the first varint, there are several tokens.
            size = message[at]
            at += 1
        elif key not in (_COMPLETION_TOKENS, _PROMPT_TOKENS, _CACHED_TOKENS, _INDEX, _REASONING_TOKENS):
            return -1
        value, shift, start = 0, 0, at
        while True:
            if at == end or shift > 28:
                return -1
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if value > 0xFFFFFFFF:
            return -1
        if key == _TOKEN_IDS:
            if at - start != size:
                return -1
            token = value
        elif key == _COMPLETION_TOKENS:
            completed = value
    return token if completed == received + 1 else -1
