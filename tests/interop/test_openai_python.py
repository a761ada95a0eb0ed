"""The official OpenAI SDK for Python, newest version, unchanged, against an inferd."""

import json

import pytest

from tests.interop.scripted_model import ANSWERS, PROMPT, REST

HELLO = ANSWERS["Say hello."]
PERSON = {"name": "Ada é", "age": 36}
PARIS, ROME = {"city": "Paris", "days": 2}, {"city": "Rome", "days": 1}
#: The token that ends an answer: it has a log probability, though it is no part of the text.
END = "<|im_end|>"
#: A call in the form that the SDK's program prints it.
CALL = ["function", "get_weather", json.dumps(PARIS)]


@pytest.fixture(params=[False, True], ids=["in process", "over a channel"])
def seen(request, seen_by):
    return seen_by("openai_python.py", bridge_alone=request.param)


def test_chat(seen):
    assert seen["create"] == {
        "id": "chatcmpl",
        "request id": True,
        "object": "chat.completion",
        "model": "small",
        "role": "assistant",
        "content": HELLO,
        "refusal": None,
        "tool_calls": None,
        "finish_reason": "stop",
        "sum": 0,
        "cached": 0,
        "reasoning": 0,
    }
    assert seen["stream"] == {
        "ids": 1,
        "roles": ["assistant"],
        "content": HELLO,
        "finish": ["stop"],
        "usage": [[], True],
    }


def test_stream_helper(seen):
    assert seen["stream_helper"] == {
        "kinds": [
            "chunk",
            "content.delta",
            "content.done",
            "logprobs.content.delta",
            "logprobs.content.done",
        ],
        "last": "logprobs.content.done",
        "text": HELLO,
        "snapshot": HELLO,
        "final": HELLO,
        "bytes": HELLO + END,
        "top": True,
        "done": True,
    }


def test_stream_helper_with_tools(seen):
    assert seen["stream_helper_tools"] == {
        "text": "",
        "pieces": [PARIS, ROME],
        "done": [[0, "get_weather", PARIS], [1, "get_weather", ROME]],
        "final": [PARIS, ROME],
        "ids": 2,
        "finish": "tool_calls",
    }


def test_parse(seen):
    assert seen["stream_helper_parsed"] == {"partial": True, "done": PERSON, "final": PERSON}
    assert seen["parse"] == {
        "parsed": PERSON,
        "content": "I look.\n",
        "arguments": [PARIS],
        "cut": "length",
    }


def test_tools_are_called_until_there_is_an_answer(seen):
    assert seen["tool_loop"] == {
        "calls": [CALL],
        "finish": ["tool_calls", "stop"],
        "content": ["I look.\n", "It is 18 degrees.", "It is 9 degrees."],
    }
    assert seen["functions"] == {
        "whole": [*CALL[1:], "function_call"],
        "streamed": CALL[1:],
        "answer": "It is 9 degrees.",
    }


def test_several_answers_in_one_stream(seen):
    assert seen["several"] == {"chat": [[0, [CALL]], [1, [CALL]]], "text": True, "tokens": True}


def test_reasoning(seen):
    assert seen["reasoning"] == {
        "whole": ["Two and two.", "Four."],
        "streamed": ["Two and two.", "Four."],
        "together": ANSWERS["Think."],
        "tokens": True,
    }


def test_raw_responses(seen):
    assert seen["raw"] == {
        "status": [200, "application/json"],
        "id": True,
        "retries": 0,
        "parsed": HELLO,
        "text": "chat.completion",
        "streamed body": "chat.completion",
        "lines": ["text/event-stream", "data: [DONE]"],
        "raw parse": PERSON,
        "raw stream": HELLO,
    }


def test_asynchronous_client(seen):
    assert seen["asynchronous"] == [[HELLO, ANSWERS["Who is it?"]], HELLO, PERSON, ["small"]]


def test_azure_client(seen):
    assert seen["azure"] == {
        "content": HELLO,
        "streamed": HELLO,
        "completion": REST,
        "deployment": ["small", HELLO],
    }


def test_text_completion(seen):
    assert seen["completions"] == {
        "whole": ["text_completion", REST, "stop"],
        "streamed": REST,
        "usage": True,
        "echo": PROMPT + REST,
        "tokens": PROMPT + REST + END,
        "first": None,
        "lengths": 1,
        "offsets": True,
        "scored": [PROMPT, 0],
        "several": [0, 1, 2, 3],
        "ids": [[0, REST], [1, REST]],
        "prompt tokens": 5,
        "cut": [" Pa", "stop"],
    }


def test_models(seen):
    assert seen["models"] == {
        "listed": ["small"],
        "found": ["small", "model", "tests", True],
        "missing": ["model_not_found", "model"],
    }


def test_errors_are_typed_and_name_the_field(seen):
    bad = ["BadRequestError", 400]
    assert seen["errors"] == {
        "temperature": [*bad, "out_of_range", "temperature"],
        "model": ["NotFoundError", 404, "model_not_found", "model"],
        "messages": [*bad, "required_field_missing", "messages"],
        "role": [*bad, "invalid_argument", "messages[0].role"],
        "type": [*bad, "invalid_argument", "max_tokens"],
        "top_logprobs": [*bad, "invalid_argument", "top_logprobs"],
        "tool_choice": [*bad, "invalid_argument", "tool_choice.function.name"],
        "no tools": [*bad, "invalid_argument", "tool_choice"],
        "context": [*bad, "context_length_exceeded", "messages"],
        "schema": [*bad, "invalid_constraint", "response_format.json_schema.schema.type"],
        "audio": [*bad, "unsupported_parameter", "modalities[1]"],
        "image": [*bad, "unsupported_content", "messages[0].content[0].image_url"],
    }


def test_failures(seen):
    assert seen["broken_stream"] == [True, "APIError", "runtime_error", True]
    assert seen["retries"] == [1, "Better now."]
    assert seen["timeouts"] == "APITimeoutError"


def test_what_is_left_is_cancelled(seen):
    assert seen["closed_stream"] == "closed"
    # That stream, and the call that timed out if it reached the runtime before.
    assert seen.cancelled >= 1
    assert seen.left == 0


def test_all_fields_reach_the_runtime(seen):
    assert seen["fields"] == {
        "request id": "fields-1",
        "indices": [0, 1],
        "finish": "length",
        "tokens": [9, 9, 18],
        "alternatives": 3,
        "prompt": True,
    }
    one, other = seen.requests[-2:]
    assert one.tokenized == other.tokenized
    sampling = one.sampling_params
    assert sampling == other.sampling_params
    for name, value in {
        "frequency_penalty": 0.25,
        "presence_penalty": 0.5,
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 11,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "max_new_tokens": 9,
        "min_new_tokens": 2,
    }.items():
        assert getattr(sampling, name) == value, name
    assert list(sampling.stop) == ["never said", "neither"]
    assert dict(sampling.logit_bias) == {"5": -3}
    assert one.top_logprobs_num == 3
