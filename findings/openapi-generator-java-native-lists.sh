#!/usr/bin/env bash
# openapi-generator 7.25.0: the Java client for `stop: string | string[]` does not compile with the library native.
#
# Input: a valid OpenAPI 3.0 document of one operation, whose request has the member `stop` as OpenAI's API has it: a
# string, or a list of strings (oneOf).
# Expected: Java that compiles, as with the default library (okhttp-gson) and the same document.
# Seen: the class of the union has the names of Java types in its code without regard to generics, such as
# `List<String>.class` and the method `getList<String>()`. The generator ends with status 0, and javac with errors.
#
# Installs the generator and its clients' packages from Maven Central in a temporary folder. Fails if the behaviour has
# changed. Needs java, javac (11 or newer) and mvn.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=7.25.0
copy() { # A folder, and Maven's other arguments: copies jars into the folder.
    local into=$1
    shift
    mvn -q -B "-DoutputDirectory=$folder/$into" "$@" </dev/null >&2
}
copy generator org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    "-Dartifact=org.openapitools:openapi-generator-cli:$version"

cat >openapi.json <<'END'
{
  "openapi": "3.0.3",
  "info": {"title": "chat", "version": "1"},
  "paths": {"/chat": {"post": {
    "operationId": "chat", "tags": ["chat"],
    "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}},
    "responses": {"200": {"description": "The answer.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}}
  }}},
  "components": {"schemas": {
    "Answer": {"type": "object", "properties": {"text": {"type": "string"}}},
    "Request": {"type": "object", "properties": {"stop": {"$ref": "#/components/schemas/Stop"}}},
    "Stop": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
  }}
}
END

client() { # A library: generates a client, and prints the number of javac's errors.
    java -jar "generator/openapi-generator-cli-$version.jar" generate -i openapi.json -g java --library "$1" -o "$1" \
        >"$1.log" 2>&1
    # The packages that the client's own pom.xml names.
    copy "$1/jars" -f "$1/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=compile
    mkdir "$1/classes"
    find "$1/src/main" -name '*.java' >"$1/sources"
    javac -proc:none -nowarn -d "$1/classes" -cp "$1/jars/*" "@$1/sources" >"$1.javac" 2>&1 || true
    grep -c ': error:' "$1.javac" || true
}

echo "openapi-generator $version, $(javac -version 2>&1)"
plain=$(client okhttp-gson)
native=$(client native)
echo "okhttp-gson: $plain errors of javac"
echo "native: $native errors of javac, such as:"
grep -A1 -m1 ': error:' native.javac || true
if [ "$plain" != 0 ]; then
    echo "changed: the default library should compile"
    exit 1
fi
if [ "$native" = 0 ]; then
    echo "changed: the library native compiles now"
    exit 1
fi
grep -q 'List<String>.class' native/src/main/java/org/openapitools/client/model/Stop.java
echo "as described: the library native writes List<String>.class"
