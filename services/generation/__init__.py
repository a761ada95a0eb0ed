"""From a prepared prompt to text deltas: sampling, a runtime's tokens, and the end of the text.

Knows nothing of messages, chunks or protocols.
"""

#: What other packages may import, by module.
FACE = {
    "delta_sink": ("DeltaSink", "TextDelta"),
    "generation": ("Generation",),
    "sampling": ("ignored_metadata", "sampling_params"),
}
