"""Converts requests to prompt tokens, for chat completions, text completions and the token counter alike, so
that all of them count the same tokens.

Checks no context length, and generates nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from inferd.services.errors import invalid, missing
from inferd.services.prompt.custom_tools import with_function_calls
from inferd.services.prompt.media import MediaReader, refuse_media
from inferd.services.prompt.template_variables import ignored_variables, template_variables
from inferd.services.prompt.tools import NO_TOOLS, Tools
from inferd.services.runtimes.base import Medium
from inferd.services.text.model_text import ModelText, check_token_ids
from inferd.services.text.template import Conversation
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, prompt_pb2

#: How many tokens and characters at the end of a prompt of token ids may belong to the answer.
_END_TOKENS = 200
#: Fields that only the chat template reads.
_TEMPLATE_FIELDS = (
    "reasoning_effort",
    "thinking",
    "verbosity",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)


@dataclass(slots=True)
class Prompt:
    """A prompt: its token ids, and its media in order.

    `end` is the text at the end of the prompt that belongs to the answer, such as a marker that opens the
    reasoning. `ignored` are names of the request's fields that the prompt does not depend on, although such
    fields are meant for it.
    """

    token_ids: Sequence[int]
    end: str
    media: tuple[Medium, ...] = ()
    ignored: tuple[str, ...] = ()


async def chat_prompt(
    text: ModelText,
    request: chat_pb2.CreateChatCompletionRequest,
    tools: Tools,
    media: MediaReader | None = None,
) -> Prompt:
    """The prompt of a chat request: its messages, rendered with the model's template, or its input_ids.

    `tools` are the tools of the request. Without `media`, only messages of text are accepted. Raises
    ServiceError INVALID_ARGUMENT that names the field that cannot be rendered or fetched.
    """
    if request.input_ids:
        ids = list(request.input_ids)
        check_token_ids(ids, text, "input_ids")
        end = text.tokenizer.decode(ids[-_END_TOKENS:], skip_special_tokens=False)[-_END_TOKENS:]
        return Prompt(ids, end, ignored=_set_fields(request, ("messages", "prompt", *_TEMPLATE_FIELDS)))
    messages = _messages(request)
    if media is None:
        refuse_media(messages)
    found = media.check(messages) if media else []
    variables = template_variables(request)
    conversation = Conversation(
        messages=with_function_calls(messages),
        functions=tools.shown,
        variables=variables,
        continue_final=request.continue_final_message,
        generation_prompt=_generation_prompt(request),
    )
    rendered, ids = await text.encode_chat(conversation)
    if not ids:
        raise invalid("messages", "the messages render to a prompt without tokens", "EMPTY_PROMPT")
    ignored = ignored_variables(request, text.template) if variables else []
    if request.messages and request.prompt:
        ignored.append("prompt")
    # The engine enforces a call that must be made, whether the model was shown the function or not.
    if not rendered.shows_functions and tools.choice.mode != "required":
        ignored.append("functions" if tools.legacy else "tools")
    return Prompt(ids, rendered.end, await media.fetch(found) if media else (), tuple(ignored))


async def completion_tokens(
    text: ModelText,
    prompts: Sequence[prompt_pb2.Prompt],
    messages: Sequence[message_pb2.Message],
    *,
    add_special_tokens: bool = True,
) -> list[list[int]]:
    """The token ids of each prompt of a text completion.

    If there are no prompts, `messages` are rendered to one prompt; they may have text only. With
    `add_special_tokens`, the tokens of texts have the special tokens that the model expects. Raises
    ServiceError INVALID_ARGUMENT.
    """
    if not prompts and not messages:
        raise missing("prompt", "messages")
    if not prompts:
        prompt = await chat_prompt(text, chat_pb2.CreateChatCompletionRequest(messages=messages), NO_TOOLS)
        return [list(prompt.token_ids)]
    tokens = []
    for index, given in enumerate(prompts[:]):
        tokens.append(await _tokens(text, given, index, add_special_tokens=add_special_tokens))
        if len(prompts) > 1:
            # Short prompts are encoded on the event loop. Other calls go on between them.
            await asyncio.sleep(0)
    return tokens


def ignored_by_completion(request: completion_pb2.CreateCompletionRequest) -> tuple[str, ...]:
    """Names of the fields that the prompts of a text completion leave out, although the request sets them."""
    return ("messages",) if request.prompt and request.messages else ()


async def _tokens(
    text: ModelText, prompt: prompt_pb2.Prompt, index: int, *, add_special_tokens: bool
) -> list[int]:
    field = f"prompt[{index}]"
    if prompt.WhichOneof("prompt") == "token_ids":
        ids = list(prompt.token_ids.ids)
        check_token_ids(ids, text, field)
    else:
        ids = await text.encode(prompt.text, add_special_tokens=add_special_tokens)
    if not ids:
        raise invalid(field, f"{field} has no tokens: it must have at least one", "EMPTY_PROMPT")
    return ids


def _set_fields(request: chat_pb2.CreateChatCompletionRequest, names: Sequence[str]) -> tuple[str, ...]:
    present = {field.name for field, _ in request.ListFields()}
    return tuple(name for name in names if name in present)


def _messages(request: chat_pb2.CreateChatCompletionRequest) -> Sequence[message_pb2.Message]:
    if request.messages:
        return request.messages
    if not request.HasField("prompt"):
        raise missing("messages", "prompt")
    content = [message_pb2.ContentPart(text=request.prompt)]
    return [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]


def _generation_prompt(request: chat_pb2.CreateChatCompletionRequest) -> bool:
    if not request.HasField("add_generation_prompt"):
        return not request.continue_final_message
    if request.add_generation_prompt and request.continue_final_message:
        raise invalid(
            "add_generation_prompt",
            "add_generation_prompt opens a new message, and continue_final_message goes on with the last one:"
            " only one of the two may be set",
        )
    return request.add_generation_prompt
