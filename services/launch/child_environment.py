"""The environment of the Python programs that inferd starts: SGLang, pip and the GGUF conversion.

Their command lines are made where they are started.
"""

from collections.abc import Mapping

import platformdirs


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, with two changes for a Python program and all processes that it starts.

    Nothing is imported from the working directory (PYTHONSAFEPATH), where a folder may have the name of a
    module. Compiled modules are kept in inferd's cache if PYTHONDONTWRITEBYTECODE forbids them beside their
    sources: uv does not compile the packages that it installs, and containers often set that variable, so
    each process of SGLang would compile SGLang, torch and transformers at each start.
    """
    environment = {**environ, "PYTHONSAFEPATH": "1"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = platformdirs.user_cache_path("inferd") / "bytecode"
        environment.setdefault("PYTHONPYCACHEPREFIX", str(folder))
    return environment
