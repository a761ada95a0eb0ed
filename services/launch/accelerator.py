"""Whether this machine has an accelerator that the installed SGLang can use, told without importing torch.

A wrong "no" makes a GPU idle and a wrong "yes" makes SGLang fail at start with a clear message, so what
is unsure counts as yes.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

#: Device files by maker. SGLang 0.5.23 finds its own platform for each.
_DEVICES = {
    "NVIDIA": ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "usr/lib/wsl/lib/libcuda.so.1"),
    "AMD": ("dev/kfd",),
    "Ascend": ("dev/davinci[0-9]*",),
    "Moore Threads": ("dev/mtgpu[0-9]*",),
    "Intel Gaudi": ("dev/accel/accel[0-9]*",),
}


def find_accelerator(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The maker of an accelerator that SGLang can use here; None where there is none.

    A CUDA_VISIBLE_DEVICES that hides all of NVIDIA's is heeded.
    """
    hidden = {"NVIDIA"} if environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles") else set()
    for maker, patterns in _DEVICES.items():
        if maker not in hidden and any(any(root.glob(pattern)) for pattern in patterns):
            return maker
    # Every laptop has an Intel GPU; only torch's XPU build makes it one for SGLang.
    if any(root.glob("dev/dri/renderD*")) and _torch_version().endswith("+xpu"):
        return "Intel"
    return None


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
