"""A platform of SGLang for any CPU: SGLang's device methods for CPUs, with operations in plain torch.

SGLang's own CPU platform needs the AVX512 or AMX build of `sgl_kernel`, which is not on PyPI. On a platform
from a plug-in, SGLang runs every fused operation in plain torch instead. Is imported only in SGLang's
processes, by `generic_cpu.activate`.
"""

import os

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from inferd.services.launch.generic_cpu import PIN_NOTHING
from inferd.services.launch.generic_cpu_memory import pin_nothing

if os.environ.get(PIN_NOTHING):
    pin_nothing()


class GenericCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU for SGLang's device methods, and OOT (out of tree) for SGLang's choice of operations.

    Capabilities that are not overridden are SGLang's conservative defaults.
    """

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def is_pin_memory_available(self, device: "torch.device | None" = None) -> bool:
        return False
