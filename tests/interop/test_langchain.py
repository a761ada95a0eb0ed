"""LangChain's OpenAI classes, unchanged, against an inferd."""

import pytest

from tests.interop.scripted_model import ANSWERS, REST

HELLO = ANSWERS["Say hello."]
PERSON = {"name": "Ada é", "age": 36}
PARIS, ROME = {"city": "Paris", "days": 2}, {"city": "Rome", "days": 1}


@pytest.fixture
def seen(seen_by):
    return seen_by("langchain_scripted.py")


def test_chat(seen):
    assert seen["invoke"] == {"content": HELLO, "model": "small", "finish": "stop", "usage": 0}
    assert seen["stream"] == {"several": True, "content": HELLO, "finish": "stop", "usage": True}
    assert seen["asynchronous"] == [HELLO, [HELLO, ANSWERS["Who is it?"]]]
    assert seen["chain"] == HELLO
    assert seen["reasoning"] == "Four."


def test_tool_calls(seen):
    calls = [["get_weather", PARIS], ["get_weather", ROME]]
    assert seen["tool_calls"] == {
        "whole": calls,
        "streamed": calls,
        "invalid": [[], []],
        "ids": 4,
        "finish": "tool_calls",
    }


def test_agent(seen):
    assert seen["agent"] == [
        ["system", "Be brief."],
        ["human", "Weather in Paris?"],
        ["ai", "I look.\n"],
        ["tool", "18 degrees"],
        ["ai", "It is 18 degrees."],
    ]


def test_structured_output(seen):
    assert seen["structured"] == {
        "json_schema": PERSON,
        "streamed": PERSON,
        "strict": PERSON,
        "json_mode": [PERSON, None],
    }


def test_logprobs(seen):
    assert seen["logprobs"] == [True, True]


def test_text_completion(seen):
    assert seen["completion"] == [REST, REST, [REST, REST], True]


def test_errors(seen):
    assert seen["errors"] == ["out_of_range", "temperature"]
