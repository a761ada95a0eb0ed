"""Pinned memory where there is none: what asks torch for it gets ordinary memory. In SGLang's processes only.

SGLang's LoRA pins memory without asking its platform whether it can; torch raises without an accelerator.
"""

import functools
from collections.abc import Callable

import torch


def pin_nothing() -> None:
    """Let torch's functions that SGLang's LoRA calls with `pin_memory` ignore it. Of this process."""
    for name in ("empty", "tensor", "zeros"):
        setattr(torch, name, _unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda tensor, *_: tensor


def _unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def made(*args: object, pin_memory: bool = False, **kwargs: object) -> torch.Tensor:
        return make(*args, **kwargs)

    return made
