"""A tokenizer's chat template as transformers compiles it, rendered by Jinja without what lies between: the
same texts as `apply_chat_template`'s in half its time."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2


class TemplateProgram:
    """The template of a tokenizer, or its several named ones. They are compiled when they are first used."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        #: By whether there are tools.
        self._compiled: dict[bool, tuple[jinja2.Template, dict[str, Any]]] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text. Raises anything: a template is foreign code."""
        template, known = self._compiled.get(bool(tools)) or self._compile(bool(tools))
        values = {
            **known,
            **(variables or {}),
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
        }
        _check_documents(values["documents"])
        # As `Template.render` does, but the environment's own values are merged in before: that takes longer
        # than a short prompt.
        environment = template.environment
        context = environment.context_class(environment, values, template.name, template.blocks)
        return "".join(template.root_render_func(context))

    def _compile(self, with_tools: bool) -> tuple[jinja2.Template, dict[str, Any]]:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        # Where there are several templates, tool_use is picked for tools, and default without.
        source = self._hf.get_chat_template(None, [{}] if with_tools else None)
        template = _compile_jinja_template(source)
        known = {**template.globals, "documents": None, **self._hf.special_tokens_map}
        self._compiled[with_tools] = template, known
        return template, known


def _check_documents(documents: Any) -> None:
    """As transformers does."""
    if documents is not None and not (
        isinstance(documents, list) and all(isinstance(document, dict) for document in documents)
    ):
        raise TypeError("documents must be a list of objects, with title and text")
