"""A client of openapi-python-client, which is in the folder of the first argument. Prints what it saw.

Judges nothing: the tests do. The second argument is the server's URL.
"""

import importlib
import json
import sys
from collections.abc import Iterable
from typing import Any

sys.path.insert(0, sys.argv[1])
client_package: Any = importlib.import_module("generated")
models: Any = importlib.import_module("generated.models")
chat: Any = importlib.import_module("generated.api.chat_service.chat_service_create_chat_completion")
stream: Any = importlib.import_module("generated.api.chat_service.chat_service_stream_chat_completion")
listing: Any = importlib.import_module("generated.api.model_service.model_service_list_models")

client = client_package.Client(base_url=sys.argv[2])
hello = [models.Message(role=models.Role.ROLE_USER, content="Say hello.")]


def request(**members: Any) -> Any:
    return models.CreateChatCompletionRequest(model="small", **{"messages": hello, **members})


def ask(**members: Any) -> Any:
    return chat.sync(client=client, body=request(**members), x_request_timeout=30.0)


def text_of(lines: Iterable[str]) -> str:
    text = ""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            chunk = models.ChatCompletionChunk.from_dict(json.loads(line.removeprefix("data: ")))
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text


def whole() -> Any:
    answer = ask()
    return [answer.choices[0].message.content, answer.usage.completion_tokens]


def streamed() -> Any:
    return text_of(stream.sync(client=client, body=request(stream=True)).split("\n"))


def arriving() -> Any:
    """The events as they arrive, by the client's HTTP client."""
    call = {"method": "post", "url": "/v1/chat/completions", "json": request(stream=True).to_dict()}
    with client.get_httpx_client().stream(**call) as response:
        return text_of(response.iter_lines())


def called() -> Any:
    tools = [models.ToolFunction(function=models.FunctionTool(name="get_weather"))]
    question = models.Message(role=models.Role.ROLE_USER, content="Weather in Paris?")
    call = ask(messages=[question], tools=tools).choices[0].message.tool_calls[0]
    return [call.type_, call.function.name]


def refused() -> Any:
    response = chat.sync_detailed(client=client, body=request(temperature=3))
    return [int(response.status_code), response.parsed.error.code, response.parsed.error.param]


seen = {"whole": whole(), "streamed": streamed(), "arriving": arriving()}
seen |= {"called": called(), "refused": refused()}
seen["models"] = [model.id for model in listing.sync(client=client).data]
print(json.dumps(seen))
