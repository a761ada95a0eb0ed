"""The RPCs of the contract: one servicer for each service, and the form of answers, whole and as a stream.

Knows nothing of HTTP, and computes no tokens.
"""

#: What other packages may import, by module.
FACE = {
    "chat": ("ChatServicer",),
    "chat_replay": ("replay_chunks",),
    "chat_request": ("prepare_chat",),
    "completion": ("CompletionServicer",),
    "models": ("ModelServicer",),
    "tokenize": ("TokenizeServicer",),
}
