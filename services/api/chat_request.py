"""Checks and prepares a chat request: its prompt, its tools, the form of its answer, its sampling.

Generates nothing.
"""

from inferd.services.api.chat_answer import ChatAnswer, ParserOptions
from inferd.services.api.choice_reader import ChoiceOptions
from inferd.services.constraints.output_constraint import output_constraint
from inferd.services.errors import invalid
from inferd.services.fleet.catalog import Catalog, ServedModel
from inferd.services.generation.generation import Generation
from inferd.services.generation.sampling import sampling_params
from inferd.services.prompt.prompt_tokens import chat_prompt
from inferd.services.prompt.tools import tools_of
from inferd.services.text.output.formats import OutputFormat
from inferd.v1 import chat_pb2 as pb


async def prepare_chat(
    catalog: Catalog, request: pb.CreateChatCompletionRequest, *, stream: bool, background: bool = False
) -> ChatAnswer:
    """The answer to a request, before it is generated. Raises ServiceError for an invalid request.

    Nobody waits for `background` work: see `Replicas.interactive`.
    """
    model = catalog.find(request.model, request.lora_path or None)
    _check(request)
    tools = tools_of(request)
    prompt = await chat_prompt(model.text, request, tools, model.media)
    constraint, tool_format = output_constraint(
        request,
        functions=tools.callable,
        choice=tools.choice,
        format=model.output,
        prompt_end=prompt.end,
    )
    separate = not request.HasField("separate_reasoning") or request.separate_reasoning
    format = OutputFormat(tool_format if tools.callable else None, model.output.reasoning)
    parser_options = None
    if format.tools or format.reasoning:
        parser_options = ParserOptions(format, tools.callable, prompt.end, keep_markers=not separate)
    generation = Generation(
        model=model,
        prompts=[prompt.token_ids],
        sampling=sampling_params(request, model, [prompt.token_ids], *_max_tokens(request), constraint),
        n=request.n or 1,
        stream=stream,
        background=background,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        token_ends=format.reasoning is not None,
        keep=_special_tokens_in_text(model, format),
        media=prompt.media,
        ignored=prompt.ignored,
    )
    options = ChoiceOptions(
        one_call=tools.legacy
        or (request.HasField("parallel_tool_calls") and not request.parallel_tool_calls),
        legacy=tools.legacy,
        custom=tools.custom,
        separate_reasoning=separate,
        stream_reasoning=not request.HasField("stream_reasoning") or request.stream_reasoning,
        end_token_ids=model.text.end_token_ids,
    )
    return ChatAnswer(request, generation, parser_options, options)


def _check(request: pb.CreateChatCompletionRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs to be true")
    for index, modality in enumerate(request.modalities[:]):
        if modality != "text":
            field = f"modalities[{index}]"
            raise invalid(field, f"{field}: only text is served, not {modality!r}", "UNSUPPORTED_PARAMETER")


def _special_tokens_in_text(model: ServedModel, format: OutputFormat) -> frozenset[int]:
    """Special tokens that stay in the text, because the parser reads them."""
    return model.text.tokenizer.ids_of(format.markers)


def _max_tokens(request: pb.CreateChatCompletionRequest) -> tuple[int | None, str]:
    """The greatest number of tokens to generate, and the name of the field that gives it."""
    if request.HasField("max_completion_tokens"):
        return request.max_completion_tokens, "max_completion_tokens"
    return request.max_tokens if request.HasField("max_tokens") else None, "max_tokens"
