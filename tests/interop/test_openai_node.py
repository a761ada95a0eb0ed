"""The official OpenAI SDK for Node, newest version, unchanged, against an inferd."""

import pytest

from tests.interop.scripted_model import ANSWERS, PROMPT, REST

HELLO = ANSWERS["Say hello."]
PERSON = {"name": "Ada é", "age": 36}
PARIS, ROME = {"city": "Paris", "days": 2}, {"city": "Rome", "days": 1}


@pytest.fixture(params=[False, True], ids=["in process", "over a channel"])
def seen(request, seen_by):
    return seen_by("openai_node.mjs", bridge_alone=request.param)


def test_chat(seen):
    assert seen["create"] == {
        "object": "chat.completion",
        "message": ["assistant", HELLO],
        "finish": "stop",
        "requestId": True,
    }
    assert seen["streams"] == [HELLO, HELLO, HELLO]
    assert seen["raw"] == [HELLO, True, "chat.completion"]
    assert seen["reasoning"] == ["Two and two.", "Four."]


def test_stream_runner(seen):
    assert seen["runnerEvents"] == {
        "kinds": [
            "chatCompletion",
            "chunk",
            "connect",
            "content.delta",
            "content.done",
            "end",
            "finalContent",
            "logprobs.content.delta",
            "logprobs.content.done",
            "message",
            "totalUsage",
        ],
        "text": HELLO,
        "final": HELLO,
        "usage": True,
    }
    assert seen["runnerTools"] == {
        "pieces": [PARIS, ROME],
        "done": [["get_weather", PARIS], ["get_weather", ROME]],
        "final": [PARIS, ROME],
        "finish": "tool_calls",
    }


def test_parse(seen):
    assert seen["parse"] == [PERSON, PERSON]


def test_run_tools(seen):
    told = {
        "answer": "It is 18 degrees.",
        "called": [PARIS],
        "roles": ["user", "assistant", "tool", "assistant"],
    }
    assert seen["runTools"] == {"whole": told, "streamed": told}


def test_abort(seen):
    assert seen["abort"] == [True, True, 1, True]
    # The streams, and the call if it reached the runtime before.
    assert seen.cancelled >= 2
    assert seen.left == 0


def test_errors(seen):
    bad = [True, 400, "out_of_range", "temperature"]
    assert seen["errors"] == [bad, bad, [True, 404, "model_not_found", "model"], [True, "runtime_error"]]
    assert seen["retries"] == "Better now."


def test_the_rest(seen):
    assert seen["completions"] == [PROMPT + REST, PROMPT + REST + "<|im_end|>", REST]
    assert seen["models"] == [["small"], "small"]
    assert seen["azure"] == ["small", HELLO]
