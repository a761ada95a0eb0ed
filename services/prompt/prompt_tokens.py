"""Requests to prompt tokens. The one place that makes them: completions, their usage, the context check
and the token counter all call it, so that their numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from inferd.services.errors import invalid, missing
from inferd.services.prompt.media import MediaReader, refuse_media
from inferd.services.prompt.template_variables import template_variables
from inferd.services.prompt.tools import NO_TOOLS, Tools
from inferd.services.runtimes.base import Medium
from inferd.services.text.model_text import ModelText, check_token_ids
from inferd.services.text.template import Conversation
from inferd.v1 import chat_pb2, message_pb2, prompt_pb2, tokenize_pb2

#: Characters of a prompt given as tokens that are looked at for what it has of the answer already.
_END = 200


@dataclass(slots=True)
class Prompt:
    """A prompt: its tokens; `end`, the text at its end that belongs to the answer already, such as what opens
    its reasoning; and its media, in order."""

    token_ids: Sequence[int]
    end: str
    media: tuple[Medium, ...] = ()


async def chat_prompt(
    text: ModelText,
    request: chat_pb2.CreateChatCompletionRequest | tokenize_pb2.CountTokensRequest,
    tools: Tools,
    media: MediaReader | None = None,
) -> Prompt:
    """The prompt of a conversation, rendered through the model's template, or as its input_ids give it.

    `tools` are the request's. Without `media`, messages of text are taken only. Raises ServiceError
    INVALID_ARGUMENT naming what cannot be rendered, or fetched.
    """
    if request.input_ids:
        ids = list(request.input_ids)
        check_token_ids(ids, text, "input_ids")
        return Prompt(ids, text.tokenizer.decode(ids[-_END:], skip_special_tokens=False)[-_END:])
    messages = _messages(request)
    if media is None:
        refuse_media(messages)
    found = media.check(messages) if media else []
    conversation = Conversation(
        messages=messages,
        functions=tools.shown,
        variables=template_variables(request),
        continue_final=request.continue_final_message,
        generation_prompt=_generation_prompt(request),
    )
    rendered, ids = await text.encode_chat(conversation)
    if not ids:
        raise invalid("messages", "the messages render to a prompt without tokens", "EMPTY_PROMPT")
    return Prompt(ids, rendered.end, await media.fetch(found) if media else ())


async def completion_tokens(
    text: ModelText, prompts: Sequence[prompt_pb2.Prompt], messages: Sequence[message_pb2.Message]
) -> list[list[int]]:
    """The prompts of a text completion; where there are none, its messages, rendered: text alone."""
    if not prompts:
        prompt = await chat_prompt(text, tokenize_pb2.CountTokensRequest(messages=messages), NO_TOOLS)
        return [list(prompt.token_ids)]
    return [await _tokens(text, prompt, index) for index, prompt in enumerate(prompts[:])]


async def _tokens(text: ModelText, prompt: prompt_pb2.Prompt, index: int) -> list[int]:
    field = f"prompt[{index}]"
    if prompt.WhichOneof("prompt") == "token_ids":
        ids = list(prompt.token_ids.ids)
        check_token_ids(ids, text, field)
    else:
        ids = await text.encode(prompt.text, add_special_tokens=True)
    if not ids:
        raise invalid(field, f"{field} has no tokens: it must have at least one", "EMPTY_PROMPT")
    return ids


def _messages(
    request: chat_pb2.CreateChatCompletionRequest | tokenize_pb2.CountTokensRequest,
) -> Sequence[message_pb2.Message]:
    if request.messages:
        return request.messages
    if isinstance(request, tokenize_pb2.CountTokensRequest) or not request.HasField("prompt"):
        raise missing("messages", "prompt")
    content = [message_pb2.ContentPart(text=request.prompt)]
    return [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]


def _generation_prompt(
    request: chat_pb2.CreateChatCompletionRequest | tokenize_pb2.CountTokensRequest,
) -> bool:
    if not request.HasField("add_generation_prompt"):
        return not request.continue_final_message
    if request.add_generation_prompt and request.continue_final_message:
        raise invalid(
            "add_generation_prompt",
            "add_generation_prompt opens a new message, and continue_final_message goes on with the last one:"
            " only one of the two may be set",
        )
    return request.add_generation_prompt
