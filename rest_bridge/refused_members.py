"""JSON members that other servers with the same JSON know, and inferd does not serve.

A request with one of them is refused, unless the value is null, false, 0 or empty: otherwise the answer would
lack the requested effect. Only the REST bridge knows these members, because gRPC requests have no such
fields.
"""

from collections.abc import Mapping

#: Members of chat and text completions, with the reason for which they are refused.
_COMPLETIONS: Mapping[str, str] = {
    "custom_logit_processor": "it is code that the engine would run: not taken from requests",
    "custom_params": "only custom logit processors read them, which are not taken from requests",
    "watermark": "watermarks are not served",
    "session_params": (
        "engine sessions are not served: send the whole prompt, the prefix cache finds what is known"
    ),
    "session_id": (
        "engine sessions are not served: send the whole prompt, the prefix cache finds what is known"
    ),
    "rid": "the server names requests: send x-request-id to find one again",
    "return_hidden_states": "hidden states are not served",
    "return_routed_experts": "routed experts are not served",
    "routed_experts_start_len": "routed experts are not served",
    "bootstrap_host": "disaggregated prefill is not served",
    "bootstrap_port": "disaggregated prefill is not served",
    "bootstrap_room": "disaggregated prefill is not served",
    "routed_dp_rank": "the runtime picks the rank by itself",
    "disagg_prefill_dp_rank": "disaggregated prefill is not served",
    "data_parallel_rank": "the runtime picks the rank by itself",
    "return_cached_tokens_details": (
        "usage.prompt_tokens_details has the cached tokens; where they were cached is not told"
    ),
    "return_spec_tokens_details": "speculation is not told",
    "images_config": "images are taken as the model's processor takes them",
    "mm_processor_kwargs": "media are taken as the model's processor takes them",
    "guided_json": "use response_format",
    "guided_regex": "use regex",
    "guided_choice": "use choice",
    "guided_grammar": "use ebnf",
    "structured_outputs": "use response_format, regex, ebnf or choice",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias, or a grammar",
    "include_stop_str_in_output": "use no_stop_trim",
    "truncate_prompt_tokens": "prompts are never cut: shorten it",
    "length_penalty": "beam search is not served",
    "use_beam_search": "beam search is not served",
}
_CHAT: Mapping[str, str] = {
    "return_prompt_token_ids": "use return_token_ids",
    "return_flat_raw_top_logprobs_b64": "use top_logprobs",
    "moderation": "answers are not moderated",
    "prompt_logprobs": "use text completion with echo and logprobs",
    "best_of": "not for chat: use n",
    "chat_template": "templates are the server's: use chat_template_kwargs",
    "audio": "answers are text: audio output is not served",
    "web_search_options": "the server searches nothing: give the model a tool",
    "return_meta_info": "the engine's own report is not passed on: usage has the counts",
    "return_input_ids_in_sglext": "use return_token_ids",
    "return_output_ids_in_sglext": "use return_token_ids",
    "return_sampling_mask": "sampling masks are not served",
    "sampling_logprobs_mode": "log probabilities are those of the model's whole distribution",
    "return_flat_raw_output_top_logprobs": "use top_logprobs",
    "task": "quick instruction tasks are not served",
    "max_dynamic_patch": "media are taken as the model's processor takes them",
    "min_dynamic_patch": "media are taken as the model's processor takes them",
    "use_audio_in_video": "video is not served",
    "video_config": "video is not served",
}
_TEXT: Mapping[str, str] = {
    "prompt_logprobs": "use echo with logprobs",
    "suffix": (
        "text is continued, not filled in: put the model's own fill-in-the-middle tokens into the prompt"
    ),
    "custom_labels": "there are no metrics by label",
}

#: By message: the refused members, each with the reason. A message that is inline in another one keeps its
#: own.
REFUSED: Mapping[str, Mapping[str, str]] = {
    "inferd.v1.CreateChatCompletionRequest": {**_COMPLETIONS, **_CHAT},
    "inferd.v1.CreateCompletionRequest": {**_COMPLETIONS, **_TEXT},
}
