"""How each model family marks its reasoning. The names are those of the parsers of SGLang and vLLM.

Lists no family whose models do not mark their reasoning, and reads no text.
"""

from collections.abc import Mapping
from dataclasses import replace

from inferd.services.text.output.format_types import ReasoningFormat

_QWEN3 = ReasoningFormat("qwen3", "<think>", "</think>", interrupted_by_calls=True)
_DEEPSEEK_R1 = ReasoningFormat("deepseek-r1", "<think>", "</think>", forced=True)
_HUNYUAN = ReasoningFormat("hunyuan", "<think>", "</think>", interrupted_by_calls=True)

_FAMILIES = (
    _QWEN3,
    _DEEPSEEK_R1,
    _HUNYUAN,
    replace(_QWEN3, name="qwen3-thinking", forced=True),
    replace(_QWEN3, name="minimax", forced=True),
    replace(_DEEPSEEK_R1, name="deepseek-v4", forced=False),
    ReasoningFormat("kimi", "◁think▷", "◁/think▷"),
    ReasoningFormat(
        "kimi_k3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        interrupted_by_calls=True,
        frames=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ),
    replace(_HUNYUAN, name="hunyuan_a13b", frames=("\n<answer>\n", "\n</answer>")),
    ReasoningFormat("mistral", "[THINK]", "[/THINK]"),
    ReasoningFormat("minimax-m3", "<mm:think>", "</mm:think>", leading_end=True),
    ReasoningFormat("gemma4", "<|channel>thought\n", "<channel|>"),
    ReasoningFormat("apertus2509", "<|inner_prefix|>", "<|inner_suffix|>", repeats=True),
    ReasoningFormat("cohere_command4", "<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningFormat("seed_oss", "<seed:think>", "</seed:think>"),
    ReasoningFormat("ernie45", "<think>", "</think>", forced=True),
    ReasoningFormat("gpt-oss", "<|channel|>analysis<|message|>", "<|end|>", repeats=True, harmony=True),
)

_ALIASES = {
    "deepseek_r1": "deepseek-r1",
    "deepseek-v3": "qwen3",
    "deepseek_v3": "qwen3",
    "deepseek_v4": "deepseek-v4",
    "deepseek-v41": "deepseek-v4",
    "glm45": "qwen3",
    "glm47": "qwen3",
    "kimi_k2": "qwen3",
    "ling3": "qwen3",
    "dots": "qwen3",
    "mimo": "qwen3",
    "nanbeige": "qwen3",
    "interns1": "qwen3",
    "poolside_v1": "qwen3",
    "nemotron_3": "qwen3",
    "nemotron_v3": "qwen3",
    "granite_thinking_parser": "qwen3",
    "minimax_m2": "minimax",
    "minimax-m2": "minimax",
    "minimax_m3": "minimax-m3",
    "iquest_q1": "deepseek-r1",
    "gigachat35": "deepseek-r1",
    "olmo3": "deepseek-r1",
    "step3": "deepseek-r1",
    "step3p5": "deepseek-r1",
    "hunyuan_v3": "hunyuan",
    "hy_v3": "hunyuan",
    "openai_gptoss": "gpt-oss",
    "gpt_oss": "gpt-oss",
    "openai": "gpt-oss",
}

_BY_NAME = {family.name: family for family in _FAMILIES}
REASONING_FORMATS: Mapping[str, ReasoningFormat] = _BY_NAME | {
    alias: _BY_NAME[name] for alias, name in _ALIASES.items()
}
