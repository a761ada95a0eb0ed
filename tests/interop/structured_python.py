"""The official OpenAI SDK for Python where a real engine holds the model to a form. Prints what it saw."""

from typing import Literal

import openai
import pydantic
from topics import run


class Wheel(pydantic.BaseModel):
    inches: int = pydantic.Field(ge=1, le=9)


class Car(pydantic.BaseModel):
    """A car to be had."""

    color: Literal["red", "dark blue"]
    name: str = pydantic.Field(pattern="^[a-z]{1,3}$")
    owner: Literal["ada"] | None
    wheels: list[Wheel] = pydantic.Field(min_length=1, max_length=1)


class Sell(pydantic.BaseModel):
    """Sell a car."""

    color: Literal["red", "dark blue"]
    price: Literal[10, 20]


TOOLS = {
    "tools": [openai.pydantic_function_tool(Car), openai.pydantic_function_tool(Sell)],
    "parallel_tool_calls": False,
}
ASK = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Which car is it?"}],
    "temperature": 0,
    "max_tokens": 120,
}


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def streamed(url: str, **fields):
    with client_of(url).chat.completions.stream(**ASK, **fields) as events:
        return events.get_final_completion().choices[0]


def parsed_of(choice) -> list:
    return [type(choice.message.parsed).__name__, choice.finish_reason]


def call_of(choice) -> list:
    """The SDK has read the arguments into the class of the function that was called."""
    [call] = choice.message.tool_calls
    told = type(call.function.parsed_arguments).__name__
    return [told == call.function.name, told, choice.message.content or "", choice.finish_reason]


def parse(url):
    return parsed_of(client_of(url).chat.completions.parse(**ASK, response_format=Car).choices[0])


def parse_several(url):
    answer = client_of(url).chat.completions.parse(**ASK, n=2, response_format=Sell)
    return [parsed_of(choice) for choice in answer.choices]


def parse_streamed(url):
    return parsed_of(streamed(url, response_format=Car))


def required(url):
    return call_of(client_of(url).chat.completions.parse(**ASK, **TOOLS, tool_choice="required").choices[0])


def named(url):
    choice = {"type": "function", "function": {"name": "Sell"}}
    return call_of(streamed(url, **TOOLS, tool_choice=choice))


def forms(url):
    """SGLang's own kinds of form, as the SDK's extra fields."""
    create = client_of(url).chat.completions.create
    return {
        name: create(**ASK, extra_body={name: form}).choices[0].message.content
        for name, form in {
            "regex": "(red|green) [0-9]{2}",
            "ebnf": 'root ::= "yes " [ab]',
            "choice": ["up", "down and away"],
        }.items()
    }


def refused(url):
    """What the engine cannot hold to is the request's fault, named."""
    schema = {"type": "object", "properties": {"a": {"type": "nope"}}}
    told = []
    for change in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
            "tool_choice": "required",
        },
    ):
        for stream in (False, True):
            try:
                client_of(url).chat.completions.create(**ASK, **change, stream=stream)
            except openai.BadRequestError as error:
                told.append([error.code, error.param])
    return told


run(parse, parse_several, parse_streamed, required, named, forms, refused, at_once=8)
