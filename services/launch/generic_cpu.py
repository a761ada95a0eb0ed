"""SGLang's entry point to run on a machine without an accelerator; found by SGLang in its own process.

Imports nothing: SGLang loads every installed platform plug-in at start, also where inferd is merely
installed beside somebody's CUDA or ROCm SGLang, and there this must cost and change nothing.
"""

import os

#: Set in SGLang's environment where it is to do without pinned memory: see `generic_cpu_memory`.
PIN_NOTHING = "INFERD_SGLANG_PIN_NOTHING"


def activate() -> str | None:
    """The platform class's import path where SGLANG_PLATFORM names this plug-in; else None: not active.

    Called by `sglang.srt.platforms._resolve_platform`. Selecting by name is what keeps the plug-in out of
    SGLang's auto-discovery: with None, SGLang uses the platform it finds itself.
    """
    if os.environ.get("SGLANG_PLATFORM") != "generic_cpu":
        return None
    return "inferd.services.launch.generic_cpu_platform:GenericCpuPlatform"
