"""Detects an accelerator that the installed SGLang can use, without importing torch.

An unsure case counts as an accelerator: a wrong "no" leaves a GPU idle, but a wrong "yes" makes SGLang fail
at start with a clear message. Does not check memory or drivers.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

#: Device files by maker. SGLang 0.5.23 has a platform for each maker, and finds it itself.
_DEVICES = {
    "NVIDIA": ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "usr/lib/wsl/lib/libcuda.so.1"),
    "AMD": ("dev/kfd",),
    "Ascend": ("dev/davinci[0-9]*",),
    "Moore Threads": ("dev/mtgpu[0-9]*",),
    "Intel Gaudi": ("dev/accel/accel[0-9]*",),
}


def find_accelerator(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The maker of an accelerator that SGLang can use on this machine; None: there is no accelerator.

    NVIDIA does not count if CUDA_VISIBLE_DEVICES in `environ` hides all devices. `root` is the root folder of
    the file system; tests use another one.
    """
    hidden = {"NVIDIA"} if environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles") else set()
    for maker, patterns in _DEVICES.items():
        if maker not in hidden and any(any(root.glob(pattern)) for pattern in patterns):
            return maker
    # Most laptops have an Intel GPU, but SGLang can use it only with torch's XPU build.
    if any(root.glob("dev/dri/renderD*")) and _torch_version().endswith("+xpu"):
        return "Intel"
    return None


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
