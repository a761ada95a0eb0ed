"""Keeps compiled modules for the programs that we start: SGLang imports thousands, in each process anew."""

from collections.abc import Mapping

import platformdirs


def with_bytecode(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment, with compiled modules kept in our cache where it forbids them beside the sources.

    uv does not compile what it installs, and PYTHONDONTWRITEBYTECODE is usual in containers: together
    they compile SGLang, torch and transformers anew in each of its processes, at each start.
    """
    environment = dict(environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = platformdirs.user_cache_path("inferd") / "bytecode"
        environment.setdefault("PYTHONPYCACHEPREFIX", str(folder))
    return environment
