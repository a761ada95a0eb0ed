"""SGLang's platform plug-in for machines without an accelerator: the entry point that SGLang finds and calls.

Imports no other module. SGLang loads every installed plug-in at start, and this one must not slow or change
an SGLang for CUDA or ROCm that is installed beside inferd.
"""

import os

#: An environment variable of SGLang: if set, SGLang does without pinned memory. See `generic_cpu_memory`.
PIN_NOTHING = "INFERD_SGLANG_PIN_NOTHING"


def activate() -> str | None:
    """The import path of the platform class if SGLANG_PLATFORM names this plug-in, else None.

    Called by `sglang.srt.platforms._resolve_platform`. After None, SGLang uses the platform that it detects,
    so the plug-in is active only if it is chosen by name.
    """
    if os.environ.get("SGLANG_PLATFORM") != "generic_cpu":
        return None
    return "inferd.services.launch.generic_cpu_platform:GenericCpuPlatform"
