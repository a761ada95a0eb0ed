"""The gRPC services: the contract over text and runtimes. Knows nothing of HTTP."""
