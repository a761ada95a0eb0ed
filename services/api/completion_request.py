"""Checks and prepares a text completion request: its prompts, its sampling, its form. Generates nothing."""

from inferd.services.api.completion_answer import CompletionAnswer
from inferd.services.constraints.output_constraint import text_constraint
from inferd.services.errors import invalid
from inferd.services.fleet.catalog import Catalog
from inferd.services.generation.generation import Generation
from inferd.services.generation.sampling import sampling_params
from inferd.services.prompt.prompt_tokens import completion_tokens, ignored_by_completion
from inferd.v1 import completion_pb2 as pb

_DEFAULT_MAX_TOKENS = 16
#: Continuations of one request: prompts times n, or times best_of.
_MAX_CONTINUATIONS = 1024


async def prepare_completion(
    catalog: Catalog, request: pb.CreateCompletionRequest, *, stream: bool
) -> CompletionAnswer:
    """The answer to a request, before it is generated. Raises ServiceError for an invalid request."""
    model = catalog.find(request.model, request.lora_path or None)
    count, field = _continuations(request, stream=stream)
    if max(1, len(request.prompt)) * count > _MAX_CONTINUATIONS:
        raise invalid(
            field,
            f"prompts times {field} must be at most {_MAX_CONTINUATIONS},"
            f" not {len(request.prompt)} times {count}",
            "OUT_OF_RANGE",
        )
    prompts = await completion_tokens(model.text, request.prompt, request.messages)
    max_tokens = request.max_tokens if request.HasField("max_tokens") else _DEFAULT_MAX_TOKENS
    logprobs = request.HasField("logprobs")
    generation = Generation(
        model=model,
        prompts=prompts,
        sampling=sampling_params(request, model, prompts, max_tokens, constraint=text_constraint(request)),
        n=count,
        stream=stream,
        # The best continuations are found by their log probabilities.
        logprobs=logprobs or count > (request.n or 1),
        top_logprobs=request.logprobs,
        prompt_logprobs=logprobs and request.echo,
        ignored=ignored_by_completion(request),
    )
    return CompletionAnswer(request, generation)


def _continuations(request: pb.CreateCompletionRequest, *, stream: bool) -> tuple[int, str]:
    """The number of continuations to generate of each prompt, and the name of the field that gives it."""
    n = request.n or 1
    if not request.HasField("best_of"):
        return n, "n"
    if request.best_of < n:
        raise invalid(
            "best_of", f"best_of must be at least n, which is {n}, not {request.best_of}", "OUT_OF_RANGE"
        )
    if stream and request.best_of > n:
        raise invalid(
            "best_of",
            f"best_of must be n, which is {n}, where the answer is streamed: which are the best is known at"
            " their end",
        )
    return request.best_of, "best_of"
