"""Detects the formats of a model's output from its chat template, which writes earlier calls and reasoning in
the same formats.

Does not guess: the result is None if the template is not clear.
"""

from collections.abc import Sequence

# The name of a format, and groups of texts. A template that contains all texts of one group is of that
# format. The first match counts, so formats with unique markers come before those whose markers other
# families share.
_TOOLS: Sequence[tuple[str, Sequence[tuple[str, ...]]]] = (
    ("gpt-oss", [("<|channel|>", "<|start|>")]),
    ("gemma4", [("<|tool_call>",)]),
    ("functiongemma", [("<start_function_call>",)]),
    ("gigachat35", [("<｜GCML｜tool_calls>",)]),
    ("deepseekv41", [("<｜DSML｜ calls>",)]),
    ("deepseekv4", [("<｜DSML｜tool_calls>",)]),
    ("deepseekv32", [("<｜DSML｜function_calls>",)]),
    ("deepseekv3", [("<｜tool▁calls▁begin｜>", "```json")]),
    ("deepseekv31", [("<｜tool▁calls▁begin｜>",)]),
    ("kimi_k2", [("<|tool_calls_section_begin|>",)]),
    ("kimi_k3", [("<|open|>", "<|sep|>")]),
    ("minimax-m3", [("]<]minimax[>[",)]),
    ("minicpm5", [("<function name=", "<param name=")]),
    ("minimax-m2", [("<minimax:tool_call>",)]),
    ("dots", [("<dots_function_call>",)]),
    ("seed_oss", [("<seed:tool_call>",)]),
    ("step3", [("<steptml:invoke",), ("<｜tool_calls_begin｜>", "<｜tool_sep｜>")]),
    ("iquest_q1", [("<iquest_tool_call>",)]),
    ("apertus2509", [("<|tools_prefix|>",)]),
    ("cohere_command4", [("<|START_ACTION|>",)]),
    ("interns1", [("<|action_start|>", "<|plugin|>")]),
    ("mistral_v11", [("[TOOL_CALLS]", "[ARGS]")]),
    ("mistral", [("[TOOL_CALLS]",)]),
    ("lfm2", [("<|tool_call_start|>",)]),
    ("llama_nemotron_json", [("<TOOLCALL>",)]),
    ("hunyuan", [("<tool_calls>", "<tool_sep>")]),
    ("glm47", [("</arg_key><arg_value>",), ("'<tool_call>' + tc.name",), ("'<tool_call>' ~ tc.name",)]),
    ("glm45", [("<arg_key>", "<arg_value>")]),
    ("qwen3_coder", [("<tool_call>", "<function=", "<parameter=")]),
    ("olmo3", [("<function_calls>",)]),
    ("granite", [("<|tool_call|>",)]),
    ("jamba", [("<tool_calls>", "arguments")]),
    ("qwen", [("<tool_call>", "</tool_call>")]),
    ("granite-20b-fc", [("<function_call>", "<|function_call_library|>")]),
    ("phi4_mini_json", [("functools[",)]),
    ("xlam", [("a single JSON array", "tool_call_name")]),
    ("pythonic", [("func_name1(",)]),
    ("llama3", [("<|start_header_id|>", '"parameters"'), ("<|header_start|>", '"parameters"')]),
)
_REASONING: Sequence[tuple[str, Sequence[tuple[str, ...]]]] = (
    ("gpt-oss", [("<|channel|>", "<|start|>")]),
    ("gemma4", [("<|channel>",)]),
    ("kimi", [("◁think▷",)]),
    ("mistral", [("[THINK]",)]),
    ("minimax-m3", [("<mm:think>",)]),
    ("kimi_k3", [("<|open|>", "<|sep|>")]),
    ("seed_oss", [("<seed:think>",)]),
    ("apertus2509", [("<|inner_prefix|>",)]),
    ("cohere_command4", [("<|START_THINKING|>",)]),
    ("minimax", [("<think>", "<minimax:tool_call>")]),
    ("hunyuan", [("<think>", "<tool_sep>")]),
    ("hunyuan_a13b", [("<think>", "<tool_calls>")]),
    ("step3", [("<think>", "<steptml:invoke"), ("<think>", "<｜tool_calls_begin｜>")]),
    ("gigachat35", [("</think>", "<｜GCML｜tool_calls>")]),
    ("kimi_k2", [("<think>", "<|tool_calls_section_begin|>")]),
    ("deepseek-v4", [("</think>", "<｜DSML｜tool_calls>"), ("</think>", "<｜DSML｜ calls>")]),
    ("glm45", [("</think>", "<arg_key>"), ("</think>", "[gMASK]<sop>")]),
    ("deepseek-v3", [("</think>", "thinking is defined"), ("</think>", "thinking is not defined")]),
    ("deepseek-r1", [("</think>", "<｜Assistant｜>")]),
    # The end of the prompt says whether the answer begins inside the reasoning.
    ("qwen3", [("</think>",)]),
)


def detect_tools(template_source: str) -> str | None:
    """The name in `TOOL_FORMATS` of the format in which a chat template writes calls; None: not clear."""
    return _first(_TOOLS, template_source)


def detect_reasoning(template_source: str) -> str | None:
    """The name in `REASONING_FORMATS` of the reasoning that a chat template writes or strips; None: not
    clear."""
    return _first(_REASONING, template_source)


def _first(families: Sequence[tuple[str, Sequence[tuple[str, ...]]]], source: str) -> str | None:
    for name, groups in families:
        if any(all(text in source for text in texts) for texts in groups):
            return name
    return None
