"""Makes torch ignore requests for pinned memory, in a process of SGLang on a machine without an accelerator.

SGLang's LoRA code pins memory without asking its platform whether that is possible, and torch raises an error
without an accelerator. Is not imported in inferd's own process.
"""

import functools
from collections.abc import Callable

import torch


def pin_nothing() -> None:
    """Patch the functions of torch that SGLang's LoRA code calls with `pin_memory`, in this process."""
    for name in ("empty", "tensor", "zeros"):
        setattr(torch, name, _unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda tensor, *_: tensor


def _unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def made(*args: object, pin_memory: bool = False, **kwargs: object) -> torch.Tensor:
        return make(*args, **kwargs)

    return made
