"""LangChain's ChatOpenAI where a real engine holds the model to a form. Prints what it saw."""

from typing import Literal

import pydantic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from topics import run


class Car(pydantic.BaseModel):
    """A car to be had."""

    color: Literal["red", "green", "dark blue"]
    doors: int = pydantic.Field(ge=2, le=5)


@tool
def sell(color: Literal["red", "green"], price: Literal[10, 20]) -> str:
    """Sell a car."""
    return f"{color} for {price}"


@tool
def wash(times: Literal[1, 2]) -> str:
    """Wash a car."""
    return f"washed {times} times"


TOOLS = {"sell": sell, "wash": wash}


def chat_of(url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model="smollm2", base_url=f"{url}/v1", api_key="none", max_retries=0, temperature=0, max_tokens=120
    )


def chosen(url: str, choice: str):
    """A chat that must call tools."""
    return chat_of(url).bind_tools([sell, wash], tool_choice=choice, parallel_tool_calls=False)


def called(answer) -> list:
    """Runs what is called, with the arguments that it is called with: the tool checks them."""
    [call] = answer.tool_calls
    return [call["name"], TOOLS[call["name"]].invoke(call).type]


def required(url):
    return called(chosen(url, "any").invoke("What is to be done?"))


def named(url):
    chunks = chosen(url, "wash").stream("What is to be done?")
    whole = next(chunks)
    for chunk in chunks:
        whole += chunk
    return called(whole)


def parsed(url: str, method: str, **options) -> list:
    chain = chat_of(url).with_structured_output(Car, method=method, include_raw=True, **options)
    answer = chain.invoke("Which car is it?")
    return [type(answer["parsed"]).__name__, answer["parsing_error"]]


def function_calling(url):
    return parsed(url, "function_calling")


def json_schema(url):
    return parsed(url, "json_schema", strict=True)


def json_mode(url):
    """Which members there are, and whether it ends, is the model's affair; that it is JSON is ours."""
    chain = chat_of(url).with_structured_output(None, method="json_mode", include_raw=True)
    answer = chain.invoke('Write {"color": "red"}.')
    return [type(answer["parsed"]).__name__, answer["parsing_error"]]


def streamed(url):
    chain = chat_of(url).with_structured_output(Car.model_json_schema(), method="json_schema")
    *_, last = chain.stream("Which car is it?")
    return Car.model_validate(last).model_dump() == last


run(required, named, function_calling, json_schema, json_mode, streamed, at_once=8)
