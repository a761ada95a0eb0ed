"""Writes docs/errors.md, the list of the reasons of errors, from inferd/v1/error_reason.proto.

python scripts/errors.py [FILE]
"""

import sys
from pathlib import Path
from typing import Any

from google.rpc import code_pb2

from inferd.options.v1 import options_pb2
from inferd.rest_bridge import proto_comments
from inferd.rest_bridge.errors import status_of
from inferd.v1 import error_reason_pb2

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"

# protobuf's stubs and its generated code disagree on the type of an extension.
_CODE: Any = options_pb2.code

HEAD = """\
# Errors

Every error has a gRPC code, a reason and a message. `make generate` writes this page from
[error_reason.proto](../protos/inferd/v1/error_reason.proto).

Over gRPC, the status has a `google.rpc.Status` in the trailer `grpc-status-details-bin`, with these
details:

| detail | if |
|---|---|
| `ErrorInfo` | always: reason, domain `inferd.dev`, and variable parts of the message as metadata |
| `RequestInfo` | always: the call's id, which the server's log has too |
| `BadRequest` | a field is at fault: its path, such as `request.messages[0].role` |
| `RetryInfo` | the same call may succeed later: the time to wait |
| `ResourceInfo` | a model or a job is not there, or is there already: its type and name |
| `QuotaFailure` | a limit is used up: what the limit holds for |
| `PreconditionFailure` | a job is not in the state that the call needs |

The trailer `grpc-retry-pushback-ms` has the time to wait too, or -1 if the same call never succeeds. gRPC's
retry policies follow it. A client whose call fails before its first message finds the call's id,
`x-request-id`, among the trailers.

Over HTTP, the body is `{"error": {"message", "type", "param", "code"}}`: `code` is the reason in lower
case, and `param` the path of the field, in the spelling of JSON. If the error has metadata, `metadata` has
them too. The header `retry-after` has the seconds to wait, and `x-request-id` the call's id. A stream that
has begun ends with an event that has this body.

Clients should decide by the reason, and by the gRPC code or the HTTP status if they do not know the reason.
A newer server may send reasons that are not in this list.

| reason | gRPC code | HTTP | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The page, in Markdown."""
    texts = proto_comments.load()
    rows = []
    for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values:
        if value.number:
            code = code_pb2.Code.Name(value.GetOptions().Extensions[_CODE])
            text = texts[f"inferd.v1.ErrorReason.{value.name}"].replace("|", "\\|")
            rows.append(f"| `{value.name}` | {code} | {status_of(value.name)} | {text} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
