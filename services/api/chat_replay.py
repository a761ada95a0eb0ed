"""Makes the chunks of a stream from a chat completion that is complete. Generates nothing."""

from inferd.v1 import chat_pb2 as pb


def replay_chunks(
    completion: pb.ChatCompletion, request: pb.CreateChatCompletionRequest
) -> list[pb.ChatCompletionChunk]:
    """The chunks of a complete answer: one a choice, and one for the usage if it was asked for."""
    chunks = [pb.ChatCompletionChunk(choices=[_choice(choice)]) for choice in completion.choices]
    first = chunks[0]
    first.id, first.model = completion.id, completion.model
    first.create_time.CopyFrom(completion.create_time)
    first.prompt_token_ids.extend(completion.prompt_token_ids)
    if request.stream_options.continuous_usage_stats:
        for chunk in chunks:
            chunk.usage.CopyFrom(completion.usage)
    if request.stream_options.include_usage:
        chunks.append(pb.ChatCompletionChunk(usage=completion.usage))
    return chunks


def _choice(choice: pb.ChatChoice) -> pb.ChatChunkChoice:
    message = choice.message
    delta = pb.ChatDelta(role=message.role)
    if message.HasField("content"):
        delta.content = message.content
    if message.HasField("reasoning_content"):
        delta.reasoning_content = message.reasoning_content
    if message.HasField("function_call"):
        call = message.function_call
        delta.function_call.CopyFrom(pb.FunctionCallDelta(name=call.name, arguments=call.arguments))
    for index, made in enumerate(message.tool_calls):
        new = delta.tool_calls.add(index=index, id=made.id)
        if made.HasField("custom"):
            new.custom.name, new.custom.input = made.custom.name, made.custom.input
        else:
            new.function.name, new.function.arguments = made.function.name, made.function.arguments
    return pb.ChatChunkChoice(
        index=choice.index,
        delta=delta,
        logprobs=choice.logprobs if choice.HasField("logprobs") else None,
        finish_reason=choice.finish_reason,
        matched_stop=choice.matched_stop if choice.HasField("matched_stop") else None,
        token_ids=choice.token_ids,
        error=choice.error if choice.HasField("error") else None,
    )
