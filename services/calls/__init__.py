"""The chain around every call, the same for gRPC and REST."""
