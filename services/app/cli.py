"""The command line: `inferd serve`, `inferd bridge`, `inferd models` and `inferd queue`.

It parses options and prints results. `serve` runs the server, and `queue_commands` has the commands of the
queue.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import grpc
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from inferd.services.app import queue_commands
from inferd.services.config import Config, ConfigError, default_models, load_config, parse_config

app = typer.Typer(
    help="Typed gRPC, and OpenAI-compatible REST, in front of SGLang runtimes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(queue_commands.app, name="queue")
_out = Console(stderr=True, highlight=False)

_Rest = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address of REST. Default: 127.0.0.1:8000")
]


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="YAML file; see examples/config.yaml.")] = None,
    model: Annotated[str | None, typer.Option(help="Serve only this: a folder or a Hugging Face id.")] = None,
    grpc_address: Annotated[
        str | None,
        typer.Option("--grpc", metavar="HOST:PORT", help="Address of gRPC. Default: 127.0.0.1:50051"),
    ] = None,
    rest: _Rest = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the ports. Default: 1")] = None,
) -> None:
    """Serve models over gRPC and REST. With no options: the default model, launched on this machine."""
    settings = _configuration(config, model, {"grpc": grpc_address, "rest": rest, "workers": workers})
    _set_up_logging()
    # These take seconds to import. A wrong configuration is reported before.
    from inferd.services.app.serve import resolve_models
    from inferd.services.app.serve import serve as run
    from inferd.services.launch.local_sglang import LaunchError
    from inferd.services.launch.model_store import ModelUnavailable
    from inferd.services.text.tokenizer import TokenizerError

    try:
        resolved = resolve_models(settings, _report)
        uvloop.run(run(resolved, _report, lambda: _print_ready(resolved)))
    except OSError as error:
        _fail(error.strerror or str(error))
    except (ModelUnavailable, LaunchError, TokenizerError) as error:
        _fail(str(error))


@app.command()
def bridge(
    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of an inferd gRPC server.")],
    rest: _Rest = None,
) -> None:
    """Run the REST bridge alone, in front of a gRPC server elsewhere."""
    settings = _configuration(None, None, {"rest": rest}).server
    _set_up_logging()
    from inferd.rest_bridge.standalone import run_bridge
    from inferd.services.app.serve import stop_signal
    from inferd.services.app.service_descriptors import SERVICES

    async def run() -> None:
        await run_bridge(
            SERVICES,
            target,
            settings.rest_address,
            stop_signal(),
            max_body_bytes=settings.max_body_bytes,
            keep_alive_seconds=settings.keep_alive,
            grace_seconds=settings.grace,
            on_listening=lambda port: _report(f"REST on port {port}, in front of {target}"),
        )

    try:
        uvloop.run(run())
    except OSError as error:
        _fail(error.strerror or str(error))


@app.command()
def models(
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the gRPC server.")
    ] = "127.0.0.1:50051",
) -> None:
    """List the models that a running server serves."""
    from inferd.v1 import models_pb2, models_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        try:
            answer = models_pb2_grpc.ModelServiceStub(channel).ListModels(
                models_pb2.ListModelsRequest(), timeout=10
            )
        except grpc.RpcError as error:
            _fail(f"{target} does not answer: {error.details()}. Is `inferd serve` running there?")
    table = Table("model", "aliases", "owned by", "context")
    for found in answer.models:
        table.add_row(found.id, ", ".join(found.aliases), found.owned_by, f"{found.max_model_len} tokens")
    Console().print(table)


def _configuration(path: Path | None, model: str | None, server: dict[str, Any]) -> Config:
    """The configuration of the file, or the default one, overridden by the options of the command line."""
    given = {key: value for key, value in server.items() if value is not None}
    try:
        if path is None:
            return parse_config({"models": [default_models(model)], "server": given}, "command line")
        document = load_config(path).model_dump(exclude_unset=True)
        if model is not None:
            document["models"] = [default_models(model)]
        document["server"] = {**document.get("server", {}), **given}
        return parse_config(document, str(path))
    except ConfigError as error:
        _fail(str(error))


def _set_up_logging() -> None:
    level = os.environ.get("INFERD_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _report(text: str) -> None:
    _out.print(f"[dim]inferd[/dim] {text}", markup=True, soft_wrap=True)


def _fail(text: str) -> NoReturn:
    _out.print(f"[bold red]inferd[/bold red] {text}", soft_wrap=True)
    raise typer.Exit(1)


def _print_ready(config: Config) -> None:
    address, rest = config.server.grpc, config.server.rest
    name = config.models[0].id
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello!"}}], "max_tokens": 32}}'
    typed = (
        f'{{"model": "{name}", "messages": [{{"role": "ROLE_USER", "content": [{{"text": "Hello!"}}]}}],'
        ' "max_tokens": 32}'
    )
    print(
        f"\ninferd is ready: gRPC on {address}, REST on http://{rest}, Swagger on http://{rest}/docs\n"
        f"Models: {', '.join(model.id for model in config.models)}\n\n"
        f"  curl http://{rest}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"    -d '{body}'\n\n"
        f"  grpcurl -plaintext -d '{typed}' \\\n    {address} inferd.v1.ChatService/CreateChatCompletion\n",
        flush=True,
    )


if __name__ == "__main__":
    app()
