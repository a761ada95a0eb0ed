"""gRPC over HTTP/2 for streams of small messages: h2 is the protocol, here are its sockets and its calls.

grpc.aio costs 40 to 100 µs of CPU a message, most of it in handing the message from its own poller thread to
the event loop. Here a message costs what its frame does.
"""
