"""Requests to prompt tokens. The one place that makes them: completions, their usage, the context check
and the token counter all call it, so that their numbers are the same.
"""

from collections.abc import Iterable, Mapping, Sequence

from inferd.v1 import chat_pb2, message_pb2, prompt_pb2

from services.errors import ServiceError, invalid
from services.text.model_text import ModelText


async def chat_tokens(
    text: ModelText,
    messages: Sequence[message_pb2.Message],
    tools: Iterable[message_pb2.Tool],
    choice: chat_pb2.ToolChoice,
) -> list[int]:
    """The prompt of a conversation, rendered through the model's template."""
    hidden = choice.mode == chat_pb2.TOOL_CHOICE_MODE_NONE
    return await text.encode_chat(messages, () if hidden else tools)


async def completion_tokens(
    text: ModelText, prompts: Sequence[prompt_pb2.Prompt], messages: Sequence[message_pb2.Message]
) -> list[list[int]]:
    """The prompts of a text completion; where there are none, its messages as one rendered prompt."""
    if not prompts:
        return [await text.encode_chat(messages, ())]
    return [await _tokens(text, prompt, index) for index, prompt in enumerate(prompts)]


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


def check_token_ids(ids: Iterable[int], text: ModelText, field: str) -> None:
    """Raise INVALID_ARGUMENT for an id that the model has no token for: an engine may die of one.

    `field` is the path of a list of ids, or of a map whose keys are ids.
    """
    for index, token_id in enumerate(ids):
        if token_id >= text.vocabulary:
            path = f'{field}["{token_id}"]' if isinstance(ids, Mapping) else f"{field}[{index}]"
            last = text.vocabulary - 1
            raise invalid(
                path, f"{path}: the model's token ids are 0 to {last}, not {token_id}", "OUT_OF_RANGE"
            )


def missing(*fields: str) -> ServiceError:
    """INVALID_ARGUMENT for a request that has none of these fields; the first is named."""
    return invalid(fields[0], f"{' or '.join(fields)} is required", "REQUIRED_FIELD_MISSING")
