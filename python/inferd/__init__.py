"""inferd: typed gRPC, and OpenAI-compatible REST, in front of SGLang runtimes.

All that is installed is below this name. `v1` and `options` are generated from the protos; `services` and
`rest_bridge` are links to the folders of that name.
"""
