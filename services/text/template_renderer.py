"""Renders chat templates with Jinja directly: the same texts as `apply_chat_template` of transformers, in
half the time.

Compiles templates with a function of transformers. Does not convert messages to the template's form.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2


class TemplateRenderer:
    """The template of a tokenizer, or its named templates. Each is compiled when it is first used."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        #: The template without tools (False) and with tools (True), and its fixed variables.
        self._compiled: dict[bool, tuple[jinja2.Template, dict[str, Any]]] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """Render messages. May raise anything, because a template is the model's code."""
        template, known = self._compiled.get(bool(tools)) or self._compile(bool(tools))
        values = {
            **known,
            **(variables or {}),
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
        }
        _check_documents(values["documents"])
        # `Template.render` does the same, but merges the environment's globals for each call, which takes
        # longer than rendering a short prompt.
        environment = template.environment
        context = environment.context_class(environment, values, template.name, template.blocks)
        return "".join(template.root_render_func(context))

    def _compile(self, with_tools: bool) -> tuple[jinja2.Template, dict[str, Any]]:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        # Of several templates, transformers picks tool_use if there are tools, and default if not.
        source = self._hf.get_chat_template(None, [{}] if with_tools else None)
        template = _compile_jinja_template(source)
        known = {**template.globals, "documents": None, **self._hf.special_tokens_map}
        self._compiled[with_tools] = template, known
        return template, known


def _check_documents(documents: Any) -> None:
    """Raise the TypeError that transformers raises for malformed documents."""
    if documents is not None and not (
        isinstance(documents, list) and all(isinstance(document, dict) for document in documents)
    ):
        raise TypeError("documents must be a list of objects, with title and text")
