"""The official OpenAI SDK for Python against an inferd over the scripted model. Prints what it saw."""

import asyncio
import itertools
import json

import openai
import pydantic
from topics import run

MODEL = "small"


class GetWeather(pydantic.BaseModel):
    """The weather of the coming days."""

    city: str
    days: int = pydantic.Field(ge=1, le=7)


class Person(pydantic.BaseModel):
    name: str
    age: int


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")


def client_of(url: str, *, strict: bool = True) -> openai.OpenAI:
    """Where it is strict, it raises for a response that does not fit the SDK's types."""
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=strict
    )


def ask(text: str, **fields):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def calls_of(message) -> list:
    return [[call.type, call.function.name, call.function.arguments] for call in message.tool_calls]


def create(url):
    answer = client_of(url).chat.completions.create(**ask("Say hello."))
    [choice] = answer.choices
    usage = answer.usage
    return {
        "id": answer.id.partition("-")[0],
        "request id": bool(answer._request_id),
        "object": answer.object,
        "model": answer.model,
        "role": choice.message.role,
        "content": choice.message.content,
        "refusal": choice.message.refusal,
        "tool_calls": choice.message.tool_calls,
        "finish_reason": choice.finish_reason,
        "sum": usage.total_tokens - usage.prompt_tokens - usage.completion_tokens,
        "cached": usage.prompt_tokens_details.cached_tokens,
        "reasoning": usage.completion_tokens_details.reasoning_tokens,
    }


def stream(url):
    answer = client_of(url).chat.completions.create(
        **ask("Say hello."), stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = answer
    deltas = [chunk.choices[0].delta for chunk in chunks]
    return {
        "ids": len({chunk.id for chunk in chunks}),
        "roles": [delta.role for delta in deltas if delta.role],
        "content": "".join(delta.content or "" for delta in deltas),
        "finish": [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason],
        "usage": [last.choices, last.usage.completion_tokens > 3],
    }


def stream_helper(url):
    request = ask("Say hello.", logprobs=True, top_logprobs=2)
    with client_of(url).chat.completions.stream(**request) as events:
        seen = list(events)
        final = events.get_final_completion()
    kinds = [event.type for event in seen]
    deltas = [event for event in seen if event.type == "content.delta"]
    logprobs = final.choices[0].logprobs.content
    done = next(event for event in seen if event.type == "logprobs.content.done")
    return {
        "kinds": sorted(set(kinds)),
        "last": kinds[-1],
        "text": "".join(event.delta for event in deltas),
        "snapshot": deltas[-1].snapshot,
        "final": final.choices[0].message.content,
        "bytes": bytes(itertools.chain.from_iterable(token.bytes for token in logprobs)).decode(),
        "top": {len(token.top_logprobs) for token in logprobs} == {2},
        "done": done.content == logprobs,
    }


def stream_helper_tools(url):
    request = ask("Weather in Paris and Rome?", tools=[WEATHER])
    with client_of(url).chat.completions.stream(**request) as events:
        seen = list(events)
        message = events.get_final_completion().choices[0].message
        finish = events.get_final_completion().choices[0].finish_reason
    pieces = ["", ""]
    for event in seen:
        if event.type == "tool_calls.function.arguments.delta":
            pieces[event.index] += event.arguments_delta
    done = [event for event in seen if event.type == "tool_calls.function.arguments.done"]
    return {
        "text": "".join(event.delta for event in seen if event.type == "content.delta"),
        "pieces": [json.loads(piece) for piece in pieces],
        "done": [[event.index, event.name, event.parsed_arguments.model_dump()] for event in done],
        "final": [call.function.parsed_arguments.model_dump() for call in message.tool_calls],
        "ids": len({call.id for call in message.tool_calls}),
        "finish": finish,
    }


def stream_helper_parsed(url):
    with client_of(url).chat.completions.stream(**ask("Who is it?"), response_format=Person) as events:
        seen = list(events)
        final = events.get_final_completion().choices[0].message.parsed
    partial = [event.parsed for event in seen if event.type == "content.delta"]
    [done] = [event for event in seen if event.type == "content.done"]
    return {
        "partial": {"name": "Ada é"} in partial,
        "done": done.parsed.model_dump(),
        "final": final.model_dump(),
    }


def parse(url):
    completions = client_of(url).chat.completions
    person = completions.parse(**ask("Who is it?"), response_format=Person).choices[0].message
    called = completions.parse(**ask("Weather in Paris?"), tools=[WEATHER]).choices[0].message
    seen = {"parsed": person.parsed.model_dump(), "content": called.content}
    seen["arguments"] = [call.function.parsed_arguments.model_dump() for call in called.tool_calls]
    try:
        completions.parse(**ask("Say hello.", max_tokens=2), response_format=Person)
    except openai.LengthFinishReasonError as error:
        seen["cut"] = error.completion.choices[0].finish_reason
    return seen


def tool_loop(url):
    """Calls a function until the model answers; the SDK's own message objects are the history."""
    client = client_of(url)
    request = ask("Weather in Paris?", tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False)
    asked = client.chat.completions.parse(**request).choices[0]
    [call] = asked.message.tool_calls
    told = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    request["messages"] += [asked.message, told]
    answer = client.chat.completions.create(**request).choices[0]
    # Many dump the message, with all that is null in it.
    request["messages"][-2:] = [asked.message.model_dump(), {**told, "content": "9 degrees"}]
    other = client.chat.completions.create(**request).choices[0]
    return {
        "calls": calls_of(asked.message),
        "finish": [asked.finish_reason, answer.finish_reason],
        "content": [asked.message.content, answer.message.content, other.message.content],
    }


def several(url):
    """Streams of several answers."""
    with client_of(url).chat.completions.stream(**ask("Weather in Paris?", n=2, tools=[WEATHER])) as events:
        choices = events.get_final_completion().choices
    client = client_of(url, strict=False)
    pair = {
        "model": MODEL,
        "prompt": ["The capital of France is", "Rome?"],
        "n": 2,
        "echo": True,
        "logprobs": 1,
    }
    texts = ["", "", "", ""]
    tokens = 0
    for chunk in client.completions.create(**pair, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens += len(choice.logprobs.tokens)
    whole = client.completions.create(**pair)
    return {
        "chat": [[choice.index, calls_of(choice.message)] for choice in choices],
        "text": texts == [choice.text for choice in whole.choices],
        "tokens": tokens == sum(len(choice.logprobs.tokens) for choice in whole.choices),
    }


def functions(url):
    """OpenAI's older name of tools."""
    client = client_of(url)
    request = ask("Weather in Paris?", functions=[WEATHER["function"]], function_call="auto")
    choice = client.chat.completions.create(**request).choices[0]
    call = choice.message.function_call
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**request, stream=True):
        delta = chunk.choices[0].delta.function_call
        if delta:
            name += delta.name or ""
            arguments += delta.arguments or ""
    request["messages"] += [choice.message, {"role": "function", "name": call.name, "content": "9 degrees"}]
    return {
        "whole": [call.name, call.arguments, choice.finish_reason],
        "streamed": [name, arguments],
        "answer": client.chat.completions.create(**request).choices[0].message.content,
    }


def reasoning(url):
    client = client_of(url)
    answer = client.chat.completions.create(**ask("Think.", reasoning_effort="low"))
    deltas = [
        chunk.choices[0].delta for chunk in client.chat.completions.create(**ask("Think."), stream=True)
    ]
    together = client.chat.completions.create(**ask("Think."), extra_body={"separate_reasoning": False})
    return {
        "whole": [answer.choices[0].message.reasoning_content, answer.choices[0].message.content],
        "streamed": [
            "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
            "".join(delta.content or "" for delta in deltas),
        ],
        "together": together.choices[0].message.content,
        "tokens": answer.usage.completion_tokens_details.reasoning_tokens > 2,
    }


def raw(url):
    completions = client_of(url).chat.completions
    response = completions.with_raw_response.create(**ask("Say hello."))
    seen = {
        "status": [response.status_code, response.headers["content-type"]],
        "id": response.headers["x-request-id"] == response.request_id,
        "retries": response.retries_taken,
        "parsed": response.parse().choices[0].message.content,
        "text": json.loads(response.text)["object"],
    }
    with completions.with_streaming_response.create(**ask("Say hello.")) as response:
        seen["streamed body"] = json.loads(b"".join(response.iter_bytes()))["object"]
    with completions.with_streaming_response.create(**ask("Say hello."), stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
        seen["lines"] = [response.headers["content-type"].partition(";")[0], lines[-1]]
    parsed = completions.with_raw_response.parse(**ask("Who is it?"), response_format=Person).parse()
    seen["raw parse"] = parsed.choices[0].message.parsed.model_dump()
    raw_stream = completions.with_raw_response.create(**ask("Say hello."), stream=True)
    seen["raw stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in raw_stream.parse())
    return seen


def asynchronous(url):
    async def several():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            completions = client.chat.completions
            answers = await asyncio.gather(
                *(completions.create(**ask(text)) for text in ("Say hello.", "Who is it?"))
            )
            streamed = await completions.create(**ask("Say hello."), stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])
            async with completions.stream(**ask("Who is it?"), response_format=Person) as events:
                person = (await events.get_final_completion()).choices[0].message.parsed
            models = [model.id async for model in client.models.list()]
        return [answer.choices[0].message.content for answer in answers], text, person.model_dump(), models

    return asyncio.run(several())


def azure(url):
    client = openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="none", max_retries=0)
    answer = client.chat.completions.create(**ask("Say hello."))
    chunks = client.chat.completions.create(**{**ask("Say hello."), "model": "org/small"}, stream=True)
    completion = client.completions.create(model=MODEL, prompt="The capital of France is")
    named = openai.AzureOpenAI(
        azure_endpoint=url, azure_deployment=MODEL, api_version="2024-10-21", api_key="none"
    )
    # The deployment's name is in the URL, and not in the body's model.
    other = named.chat.completions.create(**{**ask("Say hello."), "model": "gpt-4o"})
    return {
        "content": answer.choices[0].message.content,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "completion": completion.choices[0].text,
        "deployment": [other.model, other.choices[0].message.content],
    }


def completions(url):
    # OpenAI's own streams of text have nulls that the SDK's types have not.
    client = client_of(url, strict=False)
    base = {"model": MODEL, "prompt": "The capital of France is"}
    whole = client.completions.create(**base)
    streamed = client.completions.create(**base, stream=True, stream_options={"include_usage": True})
    *chunks, last = streamed
    echoed = client.completions.create(**base, echo=True, logprobs=2)
    logprobs = echoed.choices[0].logprobs
    scored = client.completions.create(**base, echo=True, logprobs=1, max_tokens=0)
    several = client.completions.create(model=MODEL, prompt=["a cat", "the dog"], n=2, best_of=3)
    ids = client.completions.create(model=MODEL, prompt=[[5, 6, 7], [8, 9]])
    cut = client.completions.create(**base, stop=["ris"], max_tokens=20)
    return {
        "whole": [whole.object, whole.choices[0].text, whole.choices[0].finish_reason],
        "streamed": "".join(chunk.choices[0].text for chunk in chunks),
        "usage": last.usage.model_dump() == whole.usage.model_dump(),
        "echo": echoed.choices[0].text,
        "tokens": "".join(logprobs.tokens),
        "first": logprobs.token_logprobs[0],
        "lengths": len({len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.text_offset)}),
        "offsets": logprobs.text_offset
        == [len("".join(logprobs.tokens[:count])) for count in range(len(logprobs.tokens))],
        "scored": [scored.choices[0].text, scored.usage.completion_tokens],
        "several": [choice.index for choice in several.choices],
        "ids": [[choice.index, choice.text] for choice in ids.choices],
        "prompt tokens": ids.usage.prompt_tokens,
        "cut": [cut.choices[0].text, cut.choices[0].finish_reason],
    }


def models(url):
    client = client_of(url)
    listed = list(client.models.list())
    found = client.models.retrieve("org/small")
    seen = {
        "listed": [model.id for model in listed],
        "found": [found.id, found.object, found.owned_by, found.created > 1_600_000_000],
    }
    try:
        client.models.retrieve("none/such")
    except openai.NotFoundError as error:
        seen["missing"] = [error.code, error.param]
    return seen


def errors(url):
    completions = client_of(url).chat.completions
    tool = {"type": "function", "function": {"name": "f"}}
    wrong = {
        "temperature": {"temperature": 3},
        "model": {"model": "none"},
        "messages": {"messages": []},
        "role": {"messages": [{"role": "nobody", "content": "x"}]},
        "type": {"max_tokens": "many"},
        "top_logprobs": {"top_logprobs": 2},
        "tool_choice": {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "no tools": {"tool_choice": "required"},
        "context": {"messages": [{"role": "user", "content": "word " * 40000}]},
        "schema": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nope"}},
            }
        },
        "audio": {"modalities": ["text", "audio"]},
        "image": {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                }
            ]
        },
    }
    seen = {}
    for name, change in wrong.items():
        told = []
        for streamed in (False, True):
            try:
                completions.create(**{**ask("Say hello."), **change, "stream": streamed})
            except openai.APIStatusError as error:
                told.append([type(error).__name__, error.status_code, error.code, error.param])
                assert error.message and error.body["message"] and error.request_id
        assert told[0] == told[1], told
        seen[name] = told[0]
    return seen


def broken_stream(url):
    text = ""
    try:
        for chunk in client_of(url).chat.completions.create(**ask("Break off."), stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        return [bool(text), type(error).__name__, error.code, bool(error.message)]


def retries(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2)
    response = client.chat.completions.with_raw_response.create(**ask("Fail at first."))
    return [response.retries_taken, response.parse().choices[0].message.content]


def timeouts(url):
    try:
        client_of(url).with_options(timeout=0.5).chat.completions.create(**ask("Wait."))
    except openai.APITimeoutError as error:
        return type(error).__name__


def closed_stream(url):
    with client_of(url).chat.completions.create(**ask("Go on."), stream=True) as chunks:
        for _, chunk in zip(range(3), chunks, strict=False):
            assert chunk.choices
    return "closed"


def fields(url):
    """Everything that may be asked, at once."""
    answer = client_of(url).chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Say hello."}]},
        ],
        frequency_penalty=0.25,
        logit_bias={"5": -3},
        logprobs=True,
        top_logprobs=3,
        max_completion_tokens=9,
        metadata={"team": "a"},
        modalities=["text"],
        n=2,
        parallel_tool_calls=True,
        prediction={"type": "content", "content": "Hello"},
        presence_penalty=0.5,
        prompt_cache_key="k",
        reasoning_effort="low",
        response_format={"type": "text"},
        safety_identifier="s",
        seed=7,
        service_tier="auto",
        stop=["never said", "neither"],
        store=False,
        temperature=0.5,
        top_p=0.75,
        tools=[WEATHER],
        tool_choice="none",
        user="ada",
        verbosity="low",
        extra_headers={"x-request-id": "fields-1"},
        extra_query={"api-version": "1"},
        extra_body={
            "chat_template_kwargs": {"enable_thinking": False},
            "top_k": 11,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "min_tokens": 2,
            "return_token_ids": True,
            "unknown_field": {"is": "ignored"},
        },
    )
    first = answer.choices[0]
    return {
        "request id": answer._request_id,
        "indices": [choice.index for choice in answer.choices],
        "finish": first.finish_reason,
        "tokens": [len(first.logprobs.content), len(first.token_ids), answer.usage.completion_tokens],
        "alternatives": len(first.logprobs.content[0].top_logprobs),
        "prompt": len(answer.prompt_token_ids) == answer.usage.prompt_tokens,
    }


run(
    create,
    stream,
    stream_helper,
    stream_helper_tools,
    stream_helper_parsed,
    parse,
    tool_loop,
    several,
    functions,
    reasoning,
    raw,
    asynchronous,
    azure,
    completions,
    models,
    errors,
    broken_stream,
    retries,
    timeouts,
    closed_stream,
    fields,
)
