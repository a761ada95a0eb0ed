"""How SGLang is started on this machine: its command line and environment."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from inferd.services.launch.accelerator import find_accelerator
from inferd.services.launch.bytecode import with_bytecode
from inferd.services.launch.generic_cpu import PIN_NOTHING

#: For a machine without an accelerator, with `generic_cpu`: everything in its torch-native form.
#: float32 because a CPU without AVX512 computes bfloat16 three times slower. On an idle machine the
#: scheduler sleeps instead of spinning. Memory is the machine's own, so the KV cache takes little.
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
    """What to run. `accelerator` is the maker of what it runs on, None for the CPU."""

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
    """SGLang serving `model` by the scheduler protocol at 127.0.0.1:`port`; with `adapters`, by HTTP.

    `adapters` are LoRA adapters, a local folder or a Hugging Face id by the adapter's name. SGLang 0.5.23
    cannot start with any where it speaks the scheduler protocol. `args` are the user's and come last: of an
    option given twice, the last counts. With an accelerator SGLang's defaults are left alone, and so is a
    platform that the environment chose.
    """
    # -P: where inferd was started there may be a folder named like a module of SGLang's, or of ours.
    command = [sys.executable, "-P", "-m", "sglang.launch_server", "--model-path", str(model)]
    if not adapters:
        command.append("--smg-grpc-mode")
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if adapters:
        command += ["--incremental-streaming-output", "--enable-lora", "--lora-paths"]
        command += [f"{name}={path}" for name, path in adapters.items()]
    else:
        # Its HTTP side-car (metrics, profiling) would else take port + 1, be it free or not.
        command += ["--smg-http-sidecar-port", str(sidecar_port)]
        # Unused in this mode, but by default port + 10000, which is refused where that is over 65535.
        command += ["--grpc-port", str(port)]
    environment = {**with_bytecode(environ), "PYTHONUNBUFFERED": "1"}
    if isinstance(model, Path) and all(Path(path).is_dir() for path in adapters.values()):
        # Nothing is to be fetched, and nobody waited for where nothing can be.
        environment["HF_HUB_OFFLINE"] = "1"
    chosen = bool(environ.get("SGLANG_PLATFORM") or environ.get("SGLANG_USE_CPU_ENGINE"))
    accelerator = find_accelerator(environ)
    if accelerator is None and not chosen:
        command += _CPU_ARGS
        environment["SGLANG_PLATFORM"] = "generic_cpu"
        # Warming up every batch size, as for CUDA graphs, takes minutes here.
        environment.setdefault("SMG_SGLANG_SERVICER_WARMUP", "off")
        # Without it a grammar that no token can follow ends the scheduler, and all requests with it: PyTorch
        # draws from no probabilities. CUDA's kernels do.
        environment.setdefault("SGLANG_SANITIZE_NAN_LOGITS", "1")
        if adapters:
            # The other backends are kernels of GPUs; this one pins memory, which there is none of.
            command += ["--lora-backend", "torch_native"]
            environment[PIN_NOTHING] = "1"
    return Command([*command, *args], environment, accelerator)
