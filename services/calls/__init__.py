"""The chain around every call, the same for gRPC and REST, and how a call is made in this process.

`chain` has the order of the links. Knows nothing of what the calls do.
"""

#: What other packages may import, by module.
FACE = {
    "call": ("Call",),
    "chain": ("Chain", "call_links", "standard_links"),
    "context": ("CallContext",),
    "in_process": ("InProcessContext",),
    "methods": ("Methods",),
}
