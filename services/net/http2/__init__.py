"""gRPC over HTTP/2, on sockets of the event loop: a server for servicers, and a client for runtimes.

Knows nothing of what the calls do.
"""

#: What other packages may import, by module.
FACE = {
    "channel": ("Channel",),
    "client_call": ("CallFailed", "ClientCall", "MessageReceiver"),
    "framing": ("Metadata",),
    "grpc_server": ("GrpcServer",),
    "method": ("coroutine_of",),
}
