"""LangChain's ChatOpenAI and OpenAI against an inferd over the scripted model. Prints what it saw."""

import asyncio

import openai
import pydantic
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from topics import run


@tool
def get_weather(city: str, days: int) -> str:
    """The weather of the coming days."""
    return f"{days * 9} degrees"


class Person(pydantic.BaseModel):
    """Who it is."""

    name: str
    age: int


def chat_of(url: str, **fields) -> ChatOpenAI:
    return ChatOpenAI(model="small", base_url=f"{url}/v1", api_key="none", max_retries=0, **fields)


def invoke(url):
    answer = chat_of(url, max_tokens=60, seed=1, stop=["never"]).invoke("Say hello.")
    usage = answer.usage_metadata
    return {
        "content": answer.content,
        "model": answer.response_metadata["model_name"],
        "finish": answer.response_metadata["finish_reason"],
        "usage": usage["total_tokens"] - usage["input_tokens"] - usage["output_tokens"],
    }


def stream(url):
    chunks = list(chat_of(url, stream_usage=True).stream("Say hello."))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {
        "several": len(chunks) > 3,
        "content": whole.content,
        "finish": whole.response_metadata["finish_reason"],
        "usage": whole.usage_metadata["output_tokens"] > 3,
    }


def asynchronous(url):
    async def several():
        chat = chat_of(url)
        pieces = [chunk.content async for chunk in chat.astream("Say hello.")]
        answers = await chat.abatch(["Say hello.", "Who is it?"])
        return "".join(pieces), [answer.content for answer in answers]

    return asyncio.run(several())


def chain(url):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{asked}")])
    return (prompt | chat_of(url)).invoke({"asked": "Say hello."}).content


def tool_calls(url):
    chat = chat_of(url).bind_tools([get_weather])
    whole = chat.invoke("Weather in Paris and Rome?")
    streamed = None
    for chunk in chat.stream("Weather in Paris and Rome?"):
        streamed = chunk if streamed is None else streamed + chunk
    return {
        "whole": [[call["name"], call["args"]] for call in whole.tool_calls],
        "streamed": [[call["name"], call["args"]] for call in streamed.tool_calls],
        "invalid": [whole.invalid_tool_calls, streamed.invalid_tool_calls],
        "ids": len({call["id"] for call in whole.tool_calls + streamed.tool_calls}),
        "finish": streamed.response_metadata["finish_reason"],
    }


def agent(url):
    """Calls the tool until the model answers, the messages of both being the history."""
    chat = chat_of(url).bind_tools([get_weather], tool_choice="auto", parallel_tool_calls=False)
    messages = [SystemMessage("Be brief."), HumanMessage("Weather in Paris?")]
    while True:
        answer = chat.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return [[message.type, message.content] for message in messages]
        messages += [get_weather.invoke(call) for call in answer.tool_calls]


def structured(url):
    chat = chat_of(url)
    schema = chat.with_structured_output(Person, method="json_schema")
    json_mode = chat.with_structured_output(Person, method="json_mode", include_raw=True).invoke("Who is it?")
    return {
        "json_schema": schema.invoke("Who is it?").model_dump(),
        "streamed": [part.model_dump() for part in schema.stream("Who is it?")][-1],
        "strict": chat.with_structured_output(Person.model_json_schema(), strict=True).invoke("Who is it?"),
        "json_mode": [json_mode["parsed"].model_dump(), json_mode["parsing_error"]],
    }


def logprobs(url):
    answer = chat_of(url, logprobs=True, top_logprobs=2).invoke("Say hello.")
    content = answer.response_metadata["logprobs"]["content"]
    return [
        len(content) == answer.usage_metadata["output_tokens"],
        {len(t["top_logprobs"]) for t in content} == {2},
    ]


def reasoning(url):
    return (
        chat_of(url, extra_body={"chat_template_kwargs": {"enable_thinking": True}}).invoke("Think.").content
    )


def completion(url):
    model = OpenAI(model="small", base_url=f"{url}/v1", api_key="none", max_retries=0, max_tokens=20)
    prompt = "The capital of France is"
    several = model.generate([prompt, "Rome?"], stop=["never"])
    return [
        model.invoke(prompt),
        "".join(model.stream(prompt)),
        [generation[0].text for generation in several.generations],
        several.llm_output["token_usage"]["completion_tokens"] > 2,
    ]


def errors(url):
    try:
        chat_of(url, temperature=3).invoke("Say hello.")
    except openai.BadRequestError as error:
        return [error.code, error.param]


run(
    invoke,
    stream,
    asynchronous,
    chain,
    tool_calls,
    agent,
    structured,
    logprobs,
    reasoning,
    completion,
    errors,
)
