"""SGLang's platform for a plain CPU: its own CPU device methods, with torch-native operations.

SGLang's in-tree CPU platform needs the AVX512 or AMX build of `sgl_kernel`, which is not on PyPI. An
out-of-tree platform makes every fused operation take its torch-native form instead. Imported only in
SGLang's processes, by `generic_cpu.activate`.
"""

import os

import torch
from inferd.services.launch.generic_cpu import PIN_NOTHING
from inferd.services.launch.generic_cpu_memory import pin_nothing
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

if os.environ.get(PIN_NOTHING):
    pin_nothing()


class GenericCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU by its device methods, out-of-tree by its enum. Capabilities stay SGLang's conservative ones."""

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def is_pin_memory_available(self, device: "torch.device | None" = None) -> bool:
        return False
