#!/usr/bin/env bash
# openapi-python-client 0.29.1: two schemas with the same `title` cost an API its chat operation, and the generator
# still ends with status 0.
#
# Input: a valid OpenAPI 3.1 document of one operation. A tool and a tool call are unions of inline objects, as in
# OpenAI's API, and both objects have the title "function". In JSON Schema a title is text for people, and need not be
# unique.
# Expected: a client with the operation; or a status other than 0.
# Seen: the generator names classes after titles. It takes the second object of a title for invalid, and removes the
# object's schema, all schemas that use it, and the operation. The client has no operation, which only a warning tells.
# The status is 0, unless --fail-on-warning is given.
#
# Installs the package from PyPI in a temporary folder. Fails if the behaviour has changed. Needs Python 3.11 or newer.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check openapi-python-client==0.29.1

document() { # The titles of the two inline objects.
    cat <<END
{
  "openapi": "3.1.0",
  "info": {"title": "chat", "version": "1"},
  "paths": {"/chat": {"post": {
    "operationId": "chat", "tags": ["chat"],
    "requestBody": {"content": {"application/json": {"schema": {"\$ref": "#/components/schemas/Request"}}}},
    "responses": {"200": {"description": "The answer.", "content": {"application/json": {"schema": {"type": "string"}}}}}
  }}},
  "components": {"schemas": {
    "Request": {"type": "object", "properties": {
      "tools": {"type": "array", "items": {"\$ref": "#/components/schemas/Tool"}},
      "tool_calls": {"type": "array", "items": {"\$ref": "#/components/schemas/ToolCall"}}}},
    "Tool": {"oneOf": [
      {"title": "$1", "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
      {"type": "string"}]},
    "ToolCall": {"oneOf": [
      {"title": "$2", "type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
      {"type": "string"}]}
  }}
}
END
}

generate() { # A name, and two titles. Prints the number of operations of the client, and the status of the generator.
    document "$2" "$3" >"$1.json"
    local status=0
    env/bin/openapi-python-client generate --path "$1.json" --output-path "$1" --meta none >"$1.log" 2>&1 || status=$?
    echo "$(find "$1/api" -name chat.py 2>/dev/null | wc -l) $status"
}

env/bin/openapi-python-client --version
different=$(generate different tool call)
same=$(generate same function function)
echo "titles that differ: operations and status: $different"
echo "the same title:     operations and status: $same"
grep -E 'WARNING|Invalid property' same.log | sed 's/<.*>/…/'
if [ "$different" != "1 0" ]; then
    echo "changed: a document without equal titles should give 1 operation and status 0"
    exit 1
fi
if [ "$same" != "0 0" ]; then
    echo "changed: equal titles no longer drop the operation in silence"
    exit 1
fi
echo "as described: the operation is gone, and the status is 0"
