"""The command line and the environment of an SGLang on this machine. Starts nothing."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from inferd.services.launch.accelerator import find_accelerator
from inferd.services.launch.child_environment import child_environment
from inferd.services.launch.generic_cpu import PIN_NOTHING

#: Arguments for a machine without an accelerator, where all operations run in plain torch (`generic_cpu`).
#: float32, because a CPU without AVX512 computes bfloat16 three times slower. The scheduler sleeps if idle,
#: so that it does not keep a core busy. The KV cache is small, because it takes the machine's main memory.
_CPU_ARGS = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
    *("--dtype", "float32"),
    *("--mem-fraction-static", "0.2"),
    *("--max-total-tokens", "16384"),
    "--disable-overlap-schedule",
    "--sleep-on-idle",
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run. `accelerator` is the maker of the accelerator that it runs on; None: the CPU."""

    args: Sequence[str]
    environment: Mapping[str, str]
    accelerator: str | None


def sglang_command(
    model: Path | str,
    args: Sequence[str],
    port: int,
    sidecar_port: int,
    environ: Mapping[str, str],
    adapters: Mapping[str, str] = MappingProxyType({}),
) -> Command:
    """The command for an SGLang that serves `model` at 127.0.0.1:`port`.

    SGLang serves the scheduler protocol, or HTTP if there are `adapters`: SGLang 0.5.23 cannot load adapters
    with the scheduler protocol. `adapters` are the folders or Hugging Face ids of LoRA adapters, by name.
    `args` are the user's arguments. They come last, because the last of two equal options counts. With an
    accelerator, or with a platform that `environ` chooses, SGLang's defaults are kept.
    """
    # -P, because the working directory may have a folder with the name of a module of SGLang or inferd.
    command = [sys.executable, "-P", "-m", "sglang.launch_server", "--model-path", str(model)]
    if not adapters:
        command.append("--smg-grpc-mode")
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if adapters:
        command += ["--incremental-streaming-output", "--enable-lora", "--lora-paths"]
        command += [f"{name}={path}" for name, path in adapters.items()]
    else:
        # The HTTP side-car (metrics, profiling) takes port + 1 by default, even if that port is in use.
        command += ["--smg-http-sidecar-port", str(sidecar_port)]
        # Not used in this mode. But the default is port + 10000, which SGLang refuses if it exceeds 65535.
        command += ["--grpc-port", str(port)]
    environment = {**child_environment(environ), "PYTHONUNBUFFERED": "1"}
    if isinstance(model, Path) and all(Path(path).is_dir() for path in adapters.values()):
        # All files are local. Without this, SGLang waits for the hub if the hub cannot be reached.
        environment["HF_HUB_OFFLINE"] = "1"
    chosen = bool(environ.get("SGLANG_PLATFORM") or environ.get("SGLANG_USE_CPU_ENGINE"))
    accelerator = find_accelerator(environ)
    if accelerator is None and not chosen:
        command += _CPU_ARGS
        environment["SGLANG_PLATFORM"] = "generic_cpu"
        # Warming up every batch size, as CUDA graphs need it, takes minutes on a CPU.
        environment.setdefault("SMG_SGLANG_SERVICER_WARMUP", "off")
        # Without it, a grammar that allows no token crashes the scheduler, and all requests fail: PyTorch
        # cannot sample if all probabilities are zero. CUDA's kernels can.
        environment.setdefault("SGLANG_SANITIZE_NAN_LOGITS", "1")
        if adapters:
            # The other backends are GPU kernels. This one pins memory, which is not possible on a CPU.
            command += ["--lora-backend", "torch_native"]
            environment[PIN_NOTHING] = "1"
    return Command([*command, *args], environment, accelerator)
