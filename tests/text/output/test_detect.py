"""A chat template shows its model family if it is unambiguous, else none is detected."""

import pytest

from inferd.services.text.output.detect import detect_reasoning, detect_tools
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS


@pytest.mark.parametrize(
    ("source", "tools", "reasoning"),
    [
        ("{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}", None, None),
        ("within <tool_call></tool_call> XML tags {{ tool_call.arguments | tojson }}", "qwen", None),
        (
            "<tool_call> </tool_call> {{ content.split('</think>') }} {% if enable_thinking %}",
            "qwen",
            "qwen3",
        ),
        (
            "<tool_call>\\n<function=x>\\n<parameter=y> </think> assistant\\n<think>\\n",
            "qwen3_coder",
            "qwen3",
        ),
        (
            "[gMASK]<sop> <tool_call>{name}\n<arg_key> <arg_value> '</think>' enable_thinking",
            "glm45",
            "glm45",
        ),
        (
            "'\\n<tool_call>' + tc.name }}\n<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }} </think>",
            "glm45",
            "glm45",
        ),
        ("{{- '<tool_call>' + tc.name -}}<arg_key> <arg_value> </think>", "glm47", "glm45"),
        ("<tool_call>{name}<arg_key>{{ k }}</arg_key><arg_value> </think>", "glm47", "glm45"),
        (
            "<｜tool▁calls▁begin｜><｜tool▁sep｜>\\n```json\\n <｜Assistant｜> </think>",
            "deepseekv3",
            "deepseek-r1",
        ),
        (
            "not thinking is defined <｜tool▁calls▁begin｜> <｜Assistant｜></think>",
            "deepseekv31",
            "deepseek-v3",
        ),
        ("<｜DSML｜function_calls> </think> <｜Assistant｜>", "deepseekv32", "deepseek-r1"),
        ("<think></think> <|tool_calls_section_begin|>", "kimi_k2", "kimi_k2"),
        ("<|tool_calls_section_begin|>", "kimi_k2", None),
        ("[INST] [TOOL_CALLS] [", "mistral", None),
        ("[INST] [TOOL_CALLS] [ARGS] [THINK]", "mistral_v11", "mistral"),
        ('<|start_header_id|> "parameters": \' <|python_tag|>', "llama3", None),
        ("<|header_start|> [func_name1(param1=value1)] <|eot|>", "pythonic", None),
        ("<|start|>assistant<|channel|>analysis<|message|>", "gpt-oss", "gpt-oss"),
        ("<|tool_call>call: <|channel>thought", "gemma4", "gemma4"),
        ("<minimax:tool_call> <think>", "minimax-m2", "minimax"),
        ("]<]minimax[>[<tool_call> <mm:think>", "minimax-m3", "minimax-m3"),
        ("<|open|>call<|sep|>", "kimi_k3", "kimi_k3"),
        ('<function name="f"><param name="x"> {{ content.split("</think>") }}', "minicpm5", "qwen3"),
        ("formatted as functools[{...}] <|end|>", "phi4_mini_json", None),
        ("make calls in a single JSON array: [{tool_call_name ...}]", "xlam", None),
        ('<|function_call_library|> output "<function_call> {...}"', "granite-20b-fc", None),
        ('<tool_calls>[{"name": ..., "arguments": ...}]</tool_calls> <think>', "jamba", "hunyuan_a13b"),
        ("<tool_calls><tool_call>f<tool_sep> <think>", "hunyuan", "hunyuan"),
    ],
)
def test_detection(source: str, tools: str | None, reasoning: str | None) -> None:
    assert (detect_tools(source), detect_reasoning(source)) == (tools, reasoning)
    assert tools is None or tools in TOOL_FORMATS
    assert reasoning is None or reasoning in REASONING_FORMATS


@pytest.mark.parametrize(
    ("family", "prompt_end", "opened"),
    [
        ("qwen3", "<|im_start|>assistant\n", None),
        ("qwen3", "<|im_start|>assistant\n<think>\n", True),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("qwen3", "<|im_start|>assistant\n<think>\nWell, so far", True),
        ("qwen3", "<|im_start|>assistant\n<think>\na</think>So far", False),
        ("deepseek-r1", "<｜Assistant｜></think>", False),
        ("deepseek-r1", "<｜Assistant｜><think>\n", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("cohere_command4", "<|CHATBOT_TOKEN|><|START_THINKING|>", True),
        ("minimax", "]~b]ai\n<think>\n", True),
    ],
)
def test_the_prompt_may_have_begun_the_answer(family: str, prompt_end: str, opened: bool | None) -> None:
    assert REASONING_FORMATS[family].opened_by(prompt_end) is opened
