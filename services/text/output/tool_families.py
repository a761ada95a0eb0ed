"""How each model family writes calls. The names are those of the parsers of SGLang and vLLM. Reads no text.

The texts are those of the chat templates, of SGLang's detectors, and of xgrammar's built-in structural tags.
"""

from collections.abc import Mapping
from dataclasses import replace

from inferd.services.text.output.format_types import (
    HarmonyCalls,
    JsonCalls,
    NamedCalls,
    NestedTags,
    PythonCalls,
    TaggedArguments,
    ToolFormat,
)

JSON_ARRAY = ToolFormat(
    # The format of constrained calls if the family's own format cannot be constrained, as in SGLang.
    "json_array",
    JsonCalls(bare=True, enforced=True),
    section_begin="[",
    call_begin='{"name": "',
    call_name_end='", "parameters": ',
    call_end="}",
    separator=", ",
    section_end="]",
)

_QWEN = ToolFormat(
    "qwen",
    JsonCalls(("<tool_call>",), ("</tool_call>",)),
    call_begin='<tool_call>\n{"name": "',
    call_name_end='", "arguments": ',
    call_end="}\n</tool_call>",
    separator="\n",
)


def _json_array(name: str, begin: str, end: str, *other_begins: str) -> ToolFormat:
    """The format of calls that are one JSON array between `begin` and `end`."""
    return ToolFormat(
        name,
        JsonCalls((begin, *other_begins), (end,) if end else ()),
        section_begin=begin + "[",
        call_begin='{"name": "',
        call_name_end='", "arguments": ',
        call_end="}",
        separator=", ",
        section_end="]" + end,
    )


_MISTRAL = replace(
    _json_array("mistral", "[TOOL_CALLS] ", ""),
    syntax=JsonCalls(("[TOOL_CALLS]",), name_ends=("[ARGS]", "{?"), id_mark="[CALL_ID]"),
)

_JSON_FAMILIES = (
    JSON_ARRAY,
    _QWEN,
    _MISTRAL,
    replace(
        _MISTRAL,
        name="mistral_v11",
        section_begin="",
        call_begin="[TOOL_CALLS]",
        call_name_end="[ARGS]",
        call_end="",
        separator="",
        section_end="",
    ),
    ToolFormat(
        "llama3",
        JsonCalls(("<|python_tag|>",), bare=True),
        call_begin='{"name": "',
        call_name_end='", "parameters": ',
        call_end="}",
        separator="; ",
    ),
    ToolFormat(
        "interns1",
        JsonCalls(("<|action_start|> <|plugin|>", "<|action_start|><|plugin|>"), ("<|action_end|>",)),
        call_begin='<|action_start|> <|plugin|>\n{"name": "',
        call_name_end='", "parameters": ',
        call_end="}<|action_end|>",
    ),
    _json_array("granite", "<|tool_call|>", "", "<tool_call>"),
    ToolFormat(
        "granite-20b-fc",
        JsonCalls(("<function_call>",)),
        call_begin='<function_call> {"name": "',
        call_name_end='", "arguments": ',
        call_end="}",
        separator="\n",
    ),
    _json_array("phi4_mini_json", "functools", ""),
    _json_array("jamba", "<tool_calls>", "</tool_calls>"),
    _json_array("llama_nemotron_json", "<TOOLCALL>", "</TOOLCALL>"),
    replace(
        _json_array("cohere_command4", "<|START_ACTION|>", "<|END_ACTION|>"),
        syntax=JsonCalls(("<|START_ACTION|>",), ("<|END_ACTION|>",), name_keys=("tool_name", "name")),
        call_begin='{"tool_call_id": "0", "tool_name": "',
        call_name_end='", "parameters": ',
    ),
    replace(
        _json_array("apertus2509", "<|tools_prefix|>", "<|tools_suffix|>"),
        syntax=JsonCalls(("<|tools_prefix|>",), ("<|tools_suffix|>",), keyed_by_name=True),
        call_begin='{"',
        call_name_end='": ',
    ),
    ToolFormat(
        "gigachat3",
        JsonCalls(("<|function_call|>", "function call<|role_sep|>")),
        call_begin='<|function_call|>{"name": "',
        call_name_end='", "arguments": ',
        call_end="}",
        extra_markers=("<|role_sep|>",),
    ),
    replace(JSON_ARRAY, name="xlam", call_name_end='", "arguments": '),
)

_DEEPSEEK_V31 = ToolFormat(
    "deepseekv31",
    NamedCalls(),
    section_begin="<｜tool▁calls▁begin｜>",
    call_begin="<｜tool▁call▁begin｜>",
    call_name_end="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
    section_end="<｜tool▁calls▁end｜>",
)

_NAMED_FAMILIES = (
    _DEEPSEEK_V31,
    replace(
        _DEEPSEEK_V31,
        name="deepseekv3",
        call_begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        call_name_end="\n```json\n",
        call_end="\n```<｜tool▁call▁end｜>",
        separator="\n",
    ),
    ToolFormat(
        "kimi_k2",
        NamedCalls(name_in_id=r"(?:functions\.)?(?P<name>.+):\d+"),
        section_begin="<|tool_calls_section_begin|>",
        call_begin="<|tool_call_begin|>",
        name_template="functions.{}:0",
        call_name_end="<|tool_call_argument_begin|>",
        call_end="<|tool_call_end|>",
        section_end="<|tool_calls_section_end|>",
    ),
    ToolFormat(
        "gemma4",
        NamedCalls("braces", quote='<|"|>'),
        call_begin="<|tool_call>call:",
        call_end="<tool_call|>",
        extra_markers=('<|"|>',),
    ),
    ToolFormat(
        "functiongemma",
        NamedCalls("braces", quote="<escape>"),
        call_begin="<start_function_call>call:",
        call_end="<end_function_call>",
    ),
)

_QWEN_XML = TaggedArguments(
    "qwen_xml",
    "<parameter=",
    ">",
    "</parameter>",
    # Models of this family forget the end of a value. A line that begins like this is hardly ever part of
    # one.
    also_ends=("\n<parameter=", "\n</function>\n</tool_call>"),
)
_QWEN3_CODER = ToolFormat(
    "qwen3_coder",
    NamedCalls(replace(_QWEN_XML, own_lines=True), or_json=True),
    section_begin="<tool_call>\n",
    call_begin="<function=",
    call_name_end=">\n",
    call_end="</function>",
    section_end="\n</tool_call>",
    separator="\n",
    section_per_call=True,
)
_GLM45 = ToolFormat(
    "glm45",
    NamedCalls(TaggedArguments("glm_xml", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>")),
    call_begin="<tool_call>",
    call_name_end="\n",
    call_end="</tool_call>",
    separator="\n",
)
_DEEPSEEK_V32 = ToolFormat(
    "deepseekv32",
    NamedCalls(
        TaggedArguments(
            "deepseek_xml",
            '<｜DSML｜parameter name="',
            '" string="',
            "</｜DSML｜parameter>",
            kind_end='">',
        ),
    ),
    section_begin="<｜DSML｜function_calls>\n",
    call_begin='<｜DSML｜invoke name="',
    call_name_end='">\n',
    call_end="</｜DSML｜invoke>\n",
    section_end="</｜DSML｜function_calls>",
    extra_markers=("｜DSML｜",),
)
_MINIMAX_M2 = ToolFormat(
    "minimax-m2",
    NamedCalls(TaggedArguments("minimax_xml", '<parameter name="', '">', "</parameter>")),
    section_begin="<minimax:tool_call>\n",
    call_begin='<invoke name="',
    call_name_end='">\n',
    call_end="</invoke>\n",
    section_end="</minimax:tool_call>",
)

_TAGGED_FAMILIES = (
    _QWEN3_CODER,
    replace(
        _QWEN3_CODER,
        name="mimo",
        syntax=NamedCalls(_QWEN_XML),
    ),
    replace(
        _QWEN3_CODER,
        name="seed_oss",
        syntax=NamedCalls(
            replace(_QWEN_XML, also_ends=("\n<parameter=", "\n</function>\n</seed:tool_call>"))
        ),
        section_begin="<seed:tool_call>\n",
        section_end="\n</seed:tool_call>",
    ),
    _GLM45,
    replace(_GLM45, name="glm47", call_name_end="", separator=""),
    replace(_GLM45, name="iquest_q1", call_begin="<iquest_tool_call>", call_end="</iquest_tool_call>"),
    replace(
        _GLM45,
        name="hunyuan",
        section_begin="<tool_calls>\n",
        call_name_end="<tool_sep>\n",
        section_end="\n</tool_calls>",
    ),
    _DEEPSEEK_V32,
    replace(
        _DEEPSEEK_V32,
        name="deepseekv4",
        section_begin="<｜DSML｜tool_calls>\n",
        section_end="</｜DSML｜tool_calls>",
    ),
    replace(
        _DEEPSEEK_V32,
        name="deepseekv41",
        syntax=NamedCalls(
            TaggedArguments(
                "deepseek_v4_1_xml",
                '<｜DSML｜ parameter name="',
                '" string="',
                "</｜DSML｜ parameter>",
                kind_end='">',
            ),
        ),
        section_begin="<｜DSML｜ calls>\n",
        call_begin='<｜DSML｜ invoke name="',
        call_end="</｜DSML｜ invoke>\n",
        section_end="</｜DSML｜ calls>",
    ),
    replace(
        _DEEPSEEK_V32,
        name="gigachat35",
        syntax=NamedCalls(
            TaggedArguments(
                None, '<｜GCML｜parameter name="', '" string="', "</｜GCML｜parameter>", kind_end='">'
            )
        ),
        section_begin="<｜GCML｜tool_calls>\n",
        call_begin='<｜GCML｜invoke name="',
        call_end="</｜GCML｜invoke>\n",
        section_end="</｜GCML｜tool_calls>",
        extra_markers=("｜GCML｜",),
    ),
    _MINIMAX_M2,
    replace(
        _MINIMAX_M2,
        name="dots",
        syntax=NamedCalls(
            TaggedArguments("minimax_xml", '<parameter name="', '">', "</parameter>"), or_json=True
        ),
        section_begin="<dots_function_call>\n",
        section_end="</dots_function_call>",
    ),
    ToolFormat(
        "minimax-m3",
        NamedCalls(NestedTags("]<]minimax[>[")),
        section_begin="]<]minimax[>[<tool_call>\n",
        call_begin=']<]minimax[>[<invoke name="',
        call_name_end='">',
        call_end="]<]minimax[>[</invoke>\n",
        section_end="]<]minimax[>[</tool_call>",
        extra_markers=("]<]minimax[>[",),
    ),
    ToolFormat(
        "kimi_k3",
        NamedCalls(
            TaggedArguments(
                None,
                '<|open|>argument key="',
                '" type="',
                "<|close|>argument<|sep|>",
                kind_end='"<|sep|>',
                string_kind="string",
            ),
            skip_to="<|sep|>",
        ),
        section_begin="<|open|>tools<|sep|>",
        call_begin='<|open|>call tool="',
        call_name_end='"',
        call_end="<|close|>call<|sep|>",
        section_end="<|close|>tools<|sep|>",
    ),
    ToolFormat(
        "minicpm5",
        NamedCalls(
            TaggedArguments(None, '<param name="', '">', "</param>", verbatim=("<![CDATA[", "]]>")),
        ),
        call_begin='<function name="',
        call_name_end='">',
        call_end="</function>",
    ),
    ToolFormat(
        "step3",
        NamedCalls(
            TaggedArguments(None, '<steptml:parameter name="', '">', "</steptml:parameter>"),
        ),
        section_begin="<｜tool_calls_begin｜>\n",
        call_begin='<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="',
        call_name_end='">\n',
        call_end="</steptml:invoke><｜tool_call_end｜>\n",
        section_end="<｜tool_calls_end｜>",
    ),
)

_OTHER_FAMILIES = (
    ToolFormat(
        "pythonic",
        PythonCalls(("<|python_start|>", "<|python_tag|>"), ("<|python_end|>",), bare=True),
    ),
    ToolFormat("lfm2", PythonCalls(("<|tool_call_start|>",), ("<|tool_call_end|>",))),
    ToolFormat("gemma3", PythonCalls(("```tool_code",), ("```",))),
    ToolFormat("olmo3", PythonCalls(("<function_calls>",), ("</function_calls>",))),
    ToolFormat(
        "gpt-oss",
        HarmonyCalls(),
        call_begin="<|channel|>commentary to=functions.",
        call_name_end="<|constrain|>json<|message|>",
        call_end="<|call|>",
        separator="<|start|>assistant",
    ),
)

_ALIASES = {
    "hermes": "qwen",
    "qwen25": "qwen",
    "qwen2.5": "qwen",
    "qwen3": "qwen",
    "trinity": "qwen",
    "exaone": "qwen",
    "granite4": "qwen",
    "longcat": "qwen",
    "llama3_json": "llama3",
    "llama4_json": "llama3",
    "llama4_pythonic": "pythonic",
    "llama4": "pythonic",
    "internlm": "interns1",
    "hunyuan_a13b": "jamba",
    "cohere": "cohere_command4",
    "deepseek_v3": "deepseekv3",
    "deepseek_v31": "deepseekv31",
    "deepseek_v32": "deepseekv32",
    "deepseek_v4": "deepseekv4",
    "glm": "glm45",
    "glm46": "glm45",
    "ling3": "glm45",
    "poolside_v1": "glm45",
    "spark25": "glm45",
    "qwen3_xml": "qwen3_coder",
    "qwen3-coder": "qwen3_coder",
    "nanbeige": "qwen3_coder",
    "nemotron_3": "qwen3_coder",
    "step3p5": "qwen3_coder",
    "minimax": "minimax-m2",
    "minimax_m2": "minimax-m2",
    "minimax_m3": "minimax-m3",
    "minicpm5xml": "minicpm5",
    "hy_v3": "hunyuan",
    "kimi": "kimi_k2",
    "gemma": "gemma3",
    "openai": "gpt-oss",
    "gpt_oss": "gpt-oss",
}

_BY_NAME = {
    family.name: family for family in (*_JSON_FAMILIES, *_NAMED_FAMILIES, *_TAGGED_FAMILIES, *_OTHER_FAMILIES)
}
TOOL_FORMATS: Mapping[str, ToolFormat] = _BY_NAME | {
    alias: _BY_NAME[name] for alias, name in _ALIASES.items()
}
