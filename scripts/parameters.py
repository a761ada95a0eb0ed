"""Writes docs/parameters.md: what becomes of each parameter of a chat and a text completion, by the protos.

python scripts/parameters.py [FILE]
"""

import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from inferd.options.v1 import options_pb2
from inferd.rest_bridge import comments
from inferd.rest_bridge.spelling import message_spelling
from inferd.v1 import chat_pb2, completion_pb2

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parameters.md"

HEAD = """\
# Parameters of completions

What becomes of each parameter of OpenAI's chat and text completions, of SGLang's extensions to them, and of
some of vLLM's. Made from the protos by `make generate`; a test holds it to the protos, to OpenAI's SDK and to
SGLang's own request classes.

- **served**: does what the text says. Where a model or its runtime cannot do it, the request is refused, and
  the error names the parameter (`seed` alone is best effort: the response says `x-inferd-ignored: seed`).
- **accepted**: taken, and without effect.
- **refused**: error 400 `unsupported_parameter`, unless it is null, false, 0 or empty. gRPC has no such
  field.

Members that are not listed are ignored, as OpenAI's servers do.
"""
STREAM = "Whether the answer is streamed. Over gRPC, the streaming RPC of the same service."
ACCEPTED = "Accepted for OpenAI's clients"


def rows(request: Descriptor, streaming: str) -> dict[str, tuple[str, str]]:
    """By JSON member: what becomes of it, and the text that says more."""
    texts = comments.load()
    found = {streaming: ("served", STREAM)}
    for field in message_spelling(request).fields:
        text = texts[field.field.full_name].replace("\n\n", " ")
        found[field.member] = ("accepted" if text.startswith(ACCEPTED) else "served", text)
    options = request.GetOptions().Extensions[options_pb2.message_json]
    for member in options.refused:
        found[member.name] = ("refused", f"{member.reason[:1].upper()}{member.reason[1:]}.")
    return found


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, request in (
        ("Chat completions", chat_pb2.CreateChatCompletionRequest),
        ("Text completions", completion_pb2.CreateCompletionRequest),
    ):
        parts.append(f"\n## {title}\n\n| parameter | | |\n|---|---|---|\n")
        for member, (state, text) in sorted(rows(request.DESCRIPTOR, "stream").items()):
            parts.append(f"| `{member}` | {state} | {text.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
