"""Converts requests to prompts: messages, tools and template variables to token ids, and media to data URLs.

All RPCs that count or generate tokens make their prompts here, so that they count alike. Checks no sampling
fields and no context length, and sends nothing to runtimes.
"""

#: What other packages may import, by module.
FACE = {
    "custom_tools": ("InputReader",),
    "media": ("MediaReader",),
    "media_fetch": ("MediaFetcher",),
    "prompt_tokens": ("chat_prompt", "completion_tokens", "ignored_by_completion"),
    "tools": ("tools_of",),
}
