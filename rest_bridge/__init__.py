"""The REST bridge: HTTP and JSON to RPCs, compiled from the protos. Knows nothing of models."""
