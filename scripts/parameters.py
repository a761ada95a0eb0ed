"""Writes docs/parameters.md, the list of the parameters of chat and text completions, from the protos.

python scripts/parameters.py [FILE]
"""

import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from inferd.rest_bridge import proto_comments
from inferd.rest_bridge.json_spelling import message_spelling
from inferd.v1 import chat_pb2, completion_pb2

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parameters.md"

HEAD = """\
# Parameters of completions

The parameters of OpenAI's chat and text completions, of SGLang's extensions to them, and some of vLLM's.
`make generate` writes this page from the protos; a test compares it with the protos, with OpenAI's SDK and
with SGLang's own request classes.

- **served**: does what the description says. If a model or its runtime does not support the parameter, the
  request is refused, and the error names the parameter. The exception is `seed`, which is best effort: if the
  seed is ignored, the response says `x-inferd-ignored: seed`.
- **accepted**: taken, without effect.
- **refused**: error 400 `unsupported_parameter`, unless the value is null, false, 0 or empty. gRPC has no
  such field.

Parameters that are not listed are ignored, as OpenAI's servers do.
"""
STREAM = "If true, the answer is a stream of server-sent events. gRPC clients call the streaming RPC instead."
ACCEPTED = "Accepted for OpenAI's clients"


def rows(request: Descriptor, streaming: str) -> dict[str, tuple[str, str]]:
    """By parameter: its state (served, accepted or refused), and its description.

    `streaming` is the name of the parameter that selects the streaming RPC, which is no field.
    """
    texts = proto_comments.load()
    found = {streaming: ("served", STREAM)}
    for field in message_spelling(request).fields:
        text = texts[field.field.full_name].replace("\n\n", " ")
        found[field.member] = ("accepted" if text.startswith(ACCEPTED) else "served", text)
    for member, reason in message_spelling(request).refused.items():
        found[member] = ("refused", f"{reason[:1].upper()}{reason[1:]}.")
    return found


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for title, request in (
        ("Chat completions", chat_pb2.CreateChatCompletionRequest),
        ("Text completions", completion_pb2.CreateCompletionRequest),
    ):
        parts.append(f"\n## {title}\n\n| parameter | state | description |\n|---|---|---|\n")
        for member, (state, text) in sorted(rows(request.DESCRIPTOR, "stream").items()):
            parts.append(f"| `{member}` | {state} | {text.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
