"""gRPC over HTTP/2 (RFC 9113), on sockets of the event loop: a server for servicers, a client for runtimes.

Knows no methods and no messages.
"""

#: What other packages may import, by module.
FACE = {
    "call_errors": ("deadline_exceeded", "malformed_message", "unexpected"),
    "channel": ("Channel",),
    "client_call": ("CallFailed", "ClientCall", "MessageReceiver"),
    "framing": ("Metadata",),
    "grpc_server": ("GrpcServer",),
    "method": ("coroutine_of",),
}
