"""Measures the JSON codec of the REST bridge beside google.protobuf.json_format.

    python benchmarks/codec.py

Prints the best CPU time of several repeats, in µs, for bytes to message and for message to bytes.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.json_body import parse
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, prompt_pb2, sampling_pb2

TEXT = "Tell me, in a sentence or two, what a token is and why a model reads tokens and not letters. " * 2

#: Six messages, 1.4 KB: a short conversation.
REQUEST = {
    "model": "smollm2",
    "messages": [{"role": "system", "content": TEXT}]
    + [{"role": ("user", "assistant")[turn % 2], "content": TEXT} for turn in range(5)],
    "max_tokens": 64,
    "temperature": 0.7,
    "top_p": 0.9,
    "stop": ["\n\n"],
    "stream": True,
}


def chunk(**choice: Any) -> chat_pb2.ChatCompletionChunk:
    """A chunk of a streamed chat, with one choice."""
    return chat_pb2.ChatCompletionChunk(
        id="chatcmpl-0123456789abcdef0123456789abcdef",
        create_time={"seconds": 1_760_000_000},
        model="smollm2",
        choices=[chat_pb2.ChatChunkChoice(**choice)],
    )


def measure(call: Callable[[], object], repeats: int = 9) -> float:
    """The best CPU time of one call, in µs."""
    calls = 1
    while _seconds(call, calls) < 0.02:
        calls *= 2
    return min(_seconds(call, calls) for _ in range(repeats)) / calls * 1e6


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - start


def decoding(name: str, message: type[Message], document: dict[str, Any]) -> None:
    """Print the cost of decoding OpenAI's JSON, and of json_format for the same message's proto3 JSON."""
    body = orjson.dumps(document)
    descriptor: Any = message.DESCRIPTOR
    decoder = Decoder(descriptor)
    ours = measure(lambda: decoder.decode(parse(body)))
    text = json_format.MessageToJson(decoder.decode(parse(body)))
    theirs = measure(lambda: json_format.Parse(text, message()), repeats=3)
    _print(f"decode {name} ({len(body)} bytes)", ours, theirs)


def encoding(name: str, message: Message) -> None:
    """Print the cost of encoding a message, and that of json_format."""
    descriptor: Any = message.DESCRIPTOR
    encoder = Encoder(descriptor)
    ours = measure(lambda: encoder.encode(message))
    theirs = measure(lambda: json_format.MessageToJson(message, indent=None), repeats=3)
    _print(f"encode {name} ({len(encoder.encode(message))} bytes)", ours, theirs)


def _print(name: str, ours: float, theirs: float) -> None:
    print(f"{name:<58}{ours:9.2f}{theirs:13.2f}")


def main() -> None:
    print(f"{'µs of CPU':<58}{'inferd':>9}{'json_format':>13}")
    decoding("chat request, 6 messages", chat_pb2.CreateChatCompletionRequest, REQUEST)
    decoding(
        "completion request, 4000 token ids",
        completion_pb2.CreateCompletionRequest,
        {"model": "smollm2", "prompt": list(range(4000))},
    )
    encoding("chat chunk", chunk(delta=chat_pb2.ChatDelta(content=" token")))
    logprob = chat_pb2.TokenLogprob(token=" token", logprob=-0.25, bytes=b" token")
    logprob.top_logprobs.extend(
        chat_pb2.TopLogprob(token=f" t{rank}", logprob=-float(rank), bytes=b" t") for rank in range(5)
    )
    encoding(
        "chat chunk, 5 top logprobs",
        chunk(delta=chat_pb2.ChatDelta(content=" token"), logprobs=chat_pb2.ChatLogprobs(content=[logprob])),
    )
    encoding(
        "completion chunk",
        completion_pb2.CompletionChunk(
            id="cmpl-0123456789abcdef0123456789abcdef",
            create_time={"seconds": 1_760_000_000},
            model="smollm2",
            choices=[completion_pb2.CompletionChunkChoice(text=" token")],
        ),
    )
    encoding(
        "chat completion",
        chat_pb2.ChatCompletion(
            id="chatcmpl-0123456789abcdef0123456789abcdef",
            create_time={"seconds": 1_760_000_000},
            model="smollm2",
            choices=[
                chat_pb2.ChatChoice(
                    message=chat_pb2.AssistantMessage(role=message_pb2.ROLE_ASSISTANT, content=TEXT),
                    finish_reason=sampling_pb2.FINISH_REASON_STOP,
                )
            ],
            usage=sampling_pb2.Usage(prompt_tokens=31, completion_tokens=40, total_tokens=71),
        ),
    )
    encoding("prompt of 4000 token ids", prompt_pb2.Prompt(token_ids={"ids": range(4000)}))


if __name__ == "__main__":
    main()
