"""Token ids in, token ids out: one adapter for each of SGLang's interfaces.

Knows nothing of text, of chat, or of how a runtime is started.
"""

#: What other packages may import, by module.
FACE = {
    "base": (
        "Constraint",
        "Delta",
        "Finish",
        "GenerateRequest",
        "Logprobs",
        "Medium",
        "Runtime",
        "SamplingParams",
    ),
    "http": ("HttpRuntime",),
    "scheduler": ("SchedulerRuntime",),
    "token_sink": ("TokenSink",),
}
