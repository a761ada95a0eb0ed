"""Routes from HTTP rules, and the route that a path matches."""

from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import example, given
from hypothesis import strategies as st

from inferd.rest_bridge.errors import HttpError
from inferd.rest_bridge.router import Router
from inferd.rest_bridge.routes import RouteError
from inferd.v1 import chat_pb2, completion_pb2, models_pb2, queue_pb2, tokenize_pb2
from tests.support.proto_source import compile_services

FILES = (chat_pb2, completion_pb2, tokenize_pb2, models_pb2, queue_pb2)
INFERD = Router([service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()])


def find(router: Router, request: str) -> tuple[str, ...]:
    """The method and the variables' texts for "VERB /raw/path"."""
    verb, path = request.split(" ", 1)
    match = router.match(verb, path.encode())
    return (match.route.method.name, *match.texts)


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("POST /v1/chat/completions", ("CreateChatCompletion",)),
        ("POST /chat/completions", ("CreateChatCompletion",)),
        ("POST /completions", ("CreateCompletion",)),
        ("GET /v1/models", ("ListModels",)),
        ("GET /models", ("ListModels",)),
        # The longer tail of literals wins.
        ("POST /engines/m/chat/completions", ("CreateChatCompletion", "m")),
        ("POST /engines/m/completions", ("CreateCompletion", "m")),
        ("POST /engines/a/b/completions", ("CreateCompletion", "a/b")),
        ("POST /engines/a/b/c/chat/completions", ("CreateChatCompletion", "a/b/c")),
        ("POST /openai/deployments/a/b/chat/completions", ("CreateChatCompletion", "a/b")),
        # Decoded after it was split: an encoded slash splits nothing, and is a slash in the text.
        ("POST /engines/a%2Fb/completions", ("CreateCompletion", "a/b")),
        ("POST /engines/a%2fchat/completions", ("CreateCompletion", "a/chat")),
        ("GET /v1/models/a/b%20c", ("GetModel", "a/b c")),
        ("GET /v1/models/a+b", ("GetModel", "a+b")),
        ("GET /v1/models/%E2%82%AC", ("GetModel", "€")),
        ("GET /v1/models/llama3:8b", ("GetModel", "llama3:8b")),
        ("POST /queue/chat/completions", ("Enqueue",)),
        ("GET /queue/chat/completions", ("ListJobs",)),
        ("GET /queue/chat/completions/x", ("GetJob", "x")),
        ("DELETE /queue/chat/completions/x", ("DeleteJob", "x")),
        ("POST /queue/chat/completions/x/cancel", ("CancelJob", "x")),
        ("GET /queue/stats", ("GetQueueStats",)),
        ("POST /v1/chat%2Fcompletions", None),
        ("POST /v1/ch%61t/completions", ("CreateChatCompletion",)),
        # As in Envoy: before a tail ** matches one segment or more, which may be empty.
        ("POST /engines/chat/completions", ("CreateCompletion", "chat")),
        ("POST /engines/completions", None),
        ("POST /engines//completions", ("CreateCompletion", "")),
        ("GET /v1/models/", ("GetModel", "")),
        ("GET /v1/models/a/", ("GetModel", "a/")),
        ("POST /v1/chat/completions/", None),
        ("POST /v1//chat/completions", None),
        ("POST //v1/chat/completions", None),
        ("POST /engines/m/chat/completions/", None),
        ("POST /V1/chat/completions", None),
        ("GET /", None),
        ("GET *", None),
    ],
)
def test_inferds_own(request_line: str, expected: tuple[str, ...] | None) -> None:
    if expected is not None:
        assert find(INFERD, request_line) == expected
        return
    with pytest.raises(HttpError) as error:
        find(INFERD, request_line)
    assert (error.value.status, error.value.code) == (404, "path_not_found")


def test_other_verbs() -> None:
    for path in ("/v1/chat/completions", "/engines/a/chat/completions"):
        with pytest.raises(HttpError) as error:
            find(INFERD, f"GET {path}")
        assert error.value.status == 405
        assert error.value.headers == [(b"allow", b"POST")]


@pytest.mark.parametrize("path", ["/%", "/a/%2", "/v1/models/%zz", "/v1/models/%ff", "/v1/models/%ed%a0%80"])
def test_malformed_paths(path: str) -> None:
    with pytest.raises(HttpError) as error:
        find(INFERD, f"GET {path}")
    assert (error.value.status, error.value.code) == (400, "malformed_path")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.booleans())
@example("a/b", True)
@example("chat", True)
@example("/", False)
@example("%2F", False)
def test_any_model_id_survives(model: str, encode_slashes: bool) -> None:
    assert find(INFERD, f"GET /v1/models/{quote(model, safe='' if encode_slashes else '/')}") == (
        "GetModel",
        model,
    )
    assert find(INFERD, f"POST /engines/{quote(model, safe='')}/completions")[-1] == model
    assert find(INFERD, f"POST /engines/{quote(model, safe='')}/chat/completions")[-1] == model


MESSAGES = """
message Q {
  string id = 1; Inner inner = 2; repeated string tags = 3; int32 size = 4; map<string, string> labels = 5;
  repeated Inner inners = 6; string display_name = 7;
}
message Inner { string id = 1; Inner inner = 2; }
message R { string name = 1; uint32 again = 2; double ratio = 3; repeated string names = 4; Inner inner = 5; }
"""


def router(*rpcs: str) -> Router:
    """A router of a service with these methods: "Name {rules}"."""
    text = "".join(f"rpc {rpc.split(' ', 1)[0]}(Q) returns (R) {rpc.split(' ', 1)[1]}\n" for rpc in rpcs)
    return Router(compile_services(f"{MESSAGES} service S {{ {text} }}"))


def test_the_most_specific_wins() -> None:
    routes = router(
        'Rest { $http = {get: "/{id=**}"}; }',
        'Tail { $http = {get: "/{id=**}/x"}; }',
        'One { $http = {get: "/a/{id}"}; }',
        'Two { $http = {get: "/a/{id}/{inner.id}"}; }',
        'Literal { $http = {get: "/a/b"}; }',
        'Half { $http = {get: "/a/{id}/y/{inner.id=**}"}; }',
        'Whole { $http = {get: "/a/{id=b/*/**}"}; }',
        'Post { $http = {post: "/a/b" body: "*"}; }',
        'Put { $http = {put: "/a/{id}" body: "*"}; }',
    )
    for request, expected in {
        "GET /a/b": ("Literal",),
        "GET /a/c": ("One", "c"),
        "POST /a/b": ("Post",),
        "PUT /a/b": ("Put", "b"),
        "GET /a/c/d": ("Two", "c", "d"),
        "GET /a/c/x": ("Two", "c", "x"),
        "GET /a/c/y": ("Half", "c", ""),
        "GET /a/c/y/z": ("Half", "c", "z"),
        "GET /a/c/y/z/z": ("Half", "c", "z/z"),
        "GET /a/b/y/z": ("Whole", "b/y/z"),
        "GET /a/b/y": ("Whole", "b/y"),
        "GET /a/c/z/x": ("Tail", "a/c/z"),
        "GET /x": ("Rest", "x"),
        "GET //x": ("Tail", ""),
        "GET /q": ("Rest", "q"),
        "GET /": ("Rest", ""),
        # No segment that `*` stands for is empty.
        "GET /a/": ("Rest", "a/"),
    }.items():
        assert find(routes, request) == expected, request
    with pytest.raises(HttpError) as error:
        find(routes, "DELETE /a/b")
    assert error.value.headers == [(b"allow", b"GET, POST, PUT")]


def test_verbs_in_templates() -> None:
    routes = router(
        'Get { $http = {get: "/a/{id}"}; }',
        'Stop { $http = {post: "/a/{id}:stop" body: "*"}; }',
        'Deep { $http = {get: "/d/{id=**}:stop"}; }',
        'Custom { $http = {custom: {kind: "PURGE" path: "/a/{id}"}}; }',
    )
    assert find(routes, "POST /a/x:stop") == ("Stop", "x")
    assert find(routes, "GET /d/x/y:stop") == ("Deep", "x/y")
    assert find(routes, "GET /a/x:y") == ("Get", "x:y")
    assert find(routes, "GET /a/x:stop") == ("Get", "x:stop")
    assert find(routes, "PURGE /a/x") == ("Custom", "x")
    with pytest.raises(HttpError):
        find(routes, "POST /a/x/:stop")


def test_routes_can_be_inspected() -> None:
    first = INFERD.routes[0]
    assert (first.verb, first.template.text, first.body) == ("POST", "/v1/chat/completions", "*")
    assert first.method.full_name == "inferd.v1.ChatService.CreateChatCompletion"
    assert first.streaming is not None
    assert first.streaming.method.name == "StreamChatCompletion"
    assert (first.streaming.selector, first.streaming.done) == ("stream", "[DONE]")
    assert first.success_status == 200


@pytest.mark.parametrize(
    ("rpcs", "fault"),
    [
        (
            ['A { $http = {get: "/a/{id"}; }'],
            r"rest.test.S.A: GET '/a/{id': column 7: expected '}', got the end",
        ),
        (['A { $http = {get: "/a/{x}"}; }'], r"column 4: rest.test.Q has no field x"),
        (['A { $http = {get: "/a/{id.x}"}; }'], r"column 4: rest.test.Q.id is no single message"),
        (['A { $http = {get: "/a/{inner.x}"}; }'], r"column 4: rest.test.Inner has no field x"),
        (['A { $http = {get: "/a/{inner}"}; }'], r"column 4: rest.test.Q.inner is no scalar"),
        (['A { $http = {get: "/a/{tags}"}; }'], r"column 4: tags is repeated"),
        (['A { $http = {get: "/a/{labels}"}; }'], r"column 4: rest.test.Q.labels is no scalar"),
        (['A { $http = {get: "/a/{inners.id}"}; }'], r"column 4: rest.test.Q.inners is no single message"),
        (['A { $http = {body: "*"}; }'], r"rest.test.S.A: the HTTP rule has no path"),
        (['A { $http = {custom: {kind: "" path: "/a"}}; }'], r"no HTTP method: ''"),
        (['A { $http = {post: "/a" body: "x"}; }'], r"the body names no field of rest.test.Q: 'x'"),
        (
            ['A { $http = {post: "/a" body: "inner.id"}; }'],
            r"the body names no field of rest.test.Q: 'inner.id'",
        ),
        (['A { $http = {post: "/a" body: "id"}; }'], r"the body 'id' is no single message"),
        (['A { $http = {post: "/a" body: "inners"}; }'], r"the body 'inners' is no single message"),
        (['A { $http = {get: "/a" response_body: "x"}; }'], r"response_body is not supported"),
        (
            ['A { $http = {get: "/a" additional_bindings: {get: "/b" additional_bindings: {get: "/c"}}}; }'],
            r"additional_bindings cannot be nested",
        ),
        (['A { $http = {get: "/a" additional_bindings: {get: "/{"}}; }'], r"S.A: GET '/{': column 3"),
        (
            ['A { $http = {get: "/a"}; $success_status = 204; }'],
            r"success_status 204 does not go with a body",
        ),
        # The same paths.
        (
            ['A { $http = {get: "/a/{id}"}; }', 'B { $http = {get: "/a/{inner.id=*}"}; }'],
            r"rest.test.S.B: GET '/a/{inner.id=\*}' matches the same paths as '/a/{id}' of rest.test.S.A",
        ),
        (['A { $http = {get: "/{id=**}/x"}; }', 'B { $http = {get: "/**/x"}; }'], r"the same paths"),
        (['A { $http = {get: "/a" additional_bindings: {get: "/%61"}}; }'], r"the same paths"),
        (['A { $http = {get: "/{id}:x"}; }', 'B { $http = {get: "/*:x"}; }'], r"the same paths"),
    ],
)
def test_bad_rules_fail_at_once(rpcs: list[str], fault: str) -> None:
    with pytest.raises(RouteError, match=fault):
        router(*rpcs)


@pytest.mark.parametrize(
    ("sibling", "option", "fault"),
    [
        ("rpc B(Q) returns (stream R);", 'rpc: "C" selector: "stream"', "names no sibling: 'C'"),
        ("rpc B(Q) returns (R);", 'rpc: "B" selector: "stream"', "B is not server-streaming"),
        ("rpc B(stream Q) returns (stream R);", 'rpc: "B" selector: "stream"', "B is not server-streaming"),
        ("rpc B(R) returns (stream R);", 'rpc: "B" selector: "stream"', "B takes another request"),
        ("rpc B(Q) returns (stream R);", 'rpc: "B"', "the selector is a field, or empty: ''"),
        (
            "rpc B(Q) returns (stream R);",
            'rpc: "B" selector: "id"',
            "the selector is a field, or empty: 'id'",
        ),
        (
            "rpc B(Q) returns (stream R);",
            'rpc: "B" selector: "displayName"',
            "the selector is a field, or empty: 'displayName'",
        ),
        ("rpc B(Q) returns (stream R);", r'rpc: "B" selector: "s" done: "a\nb"', "is not one line"),
    ],
)
def test_bad_streaming_options_fail_at_once(sibling: str, option: str, fault: str) -> None:
    rpc = f'rpc A(Q) returns (R) {{ $http = {{post: "/a" body: "*"}}; $streaming = {{{option}}}; }}'
    with pytest.raises(RouteError, match=f"rest.test.S.A: .*{fault}"):
        Router(compile_services(f"{MESSAGES} service S {{ {rpc} {sibling} }}"))


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ('$pending = {field: "x" status: 202}', "pending: rest.test.R has no field 'x'"),
        ("$pending = {status: 202}", "pending: rest.test.R has no field ''"),
        (
            '$pending = {field: "name" status: 202}',
            "pending: rest.test.R.name is no single google.protobuf.Duration",
        ),
        (
            '$pending = {field: "ratio" status: 202}',
            "pending: rest.test.R.ratio is no single google.protobuf.Duration",
        ),
        ('$pending = {field: "again" status: 204}', "pending: status 204 does not go with a body"),
        ('$pending = {field: "again"}', "pending: status 0 does not go with a body"),
        ('$location = "a/{name}"', r"location 'a/{name}': column 1: expected '/'"),
        ('$location = "/a/{name"', r"location '/a/{name': column 9: expected '}'"),
        ('$location = "/a/{x}"', r"location '/a/{x}': column 4: rest.test.R has no field x"),
        ('$location = "/a/{name=**}"', "column 4: a variable has no pattern here"),
        ('$location = "/a/{name}/*"', "a wildcard stands for no field"),
        ('$location = "/a/{names}"', "column 4: names is no single string or integer"),
        ('$location = "/a/{ratio}"', "column 4: ratio is no single string or integer"),
        ('$location = "/a/{inner}"', "column 4: rest.test.R.inner is no scalar"),
        ('$prefer_wait = "x"', "prefer_wait: rest.test.Q has no field 'x'"),
        ('$prefer_wait = "id"', "prefer_wait: rest.test.Q.id is no single google.protobuf.Duration"),
        ('$prefer_wait = "tags"', "prefer_wait: rest.test.Q.tags is no single google.protobuf.Duration"),
    ],
)
def test_bad_options_of_pending_work_fail_at_once(option: str, fault: str) -> None:
    rpc = f'rpc A(Q) returns (R) {{ $http = {{post: "/a" body: "*"}}; {option}; }}'
    with pytest.raises(RouteError, match=f"rest.test.S.A: .*{fault}"):
        Router(compile_services(f"{MESSAGES} service S {{ {rpc} }}"))


@pytest.mark.parametrize(
    "option",
    [
        '$pending = {field: "again" status: 202}',
        '$location = "/a/{name}"',
        '$prefer_wait = "size"',
        '$streaming = {rpc: "B" selector: "s"}',
    ],
)
def test_options_of_pending_work_need_a_rule_and_one_answer(option: str) -> None:
    name = option.split(" ")[0].removeprefix("$")
    for rpc, fault in (
        (f"rpc A(Q) returns (R) {{ {option}; }}", "without an HTTP rule"),
        (f'rpc A(Q) returns (stream R) {{ $http = {{get: "/a"}}; {option}; }}', "on a method that streams"),
    ):
        with pytest.raises(RouteError, match=f"rest.test.S.A: a {name} option {fault}"):
            Router(compile_services(f"{MESSAGES} service S {{ {rpc} rpc B(Q) returns (stream R); }}"))


def test_where_a_response_is_found() -> None:
    services = compile_services(f"""{MESSAGES} service S {{ rpc A(Q) returns (R) {{
      $http = {{post: "/a" body: "*"}}; $location = "/a%20b/{{name}}/{{inner.id}}/c/{{again}}:go";
    }} }}""")
    (route,) = Router(services).routes
    new: Any = GetMessageClass(route.method.output_type)
    assert route.location is not None
    path = route.location.of(new(name="x/y", inner={"id": "é"}, again=5))
    assert path == "/a%20b/x%2Fy/%C3%A9/c/5:go"
    assert route.location.of(new(name="x", again=5)) == ""


def test_a_path_may_name_a_member_of_an_inline_message() -> None:
    services = compile_services("""
      message Q { Inner inner = 1 [$json.inline = true]; } message Inner { string id = 1; } message R {}
      service S { rpc A(Q) returns (R) { $http = {get: "/a/{id}"}; } }
    """)
    (route,) = Router(services).routes
    assert route.path_fields[0].names == ("inner", "id")


@pytest.mark.parametrize(("limits", "needed"), [("", False), (", $required", True)])
def test_an_inline_message_needs_a_body_where_it_is_required(limits: str, needed: bool) -> None:
    services = compile_services(f"""
      message Q {{ Inner inner = 1 [$json.inline = true{limits}]; }} message R {{}}
      message Inner {{ string id = 1 [$required]; }}
      service S {{ rpc A(Q) returns (R) {{ $http = {{
        post: "/a" body: "*" additional_bindings: {{post: "/a/{{id}}" body: "*"}}
        additional_bindings: {{get: "/a"}}
      }}; }} }}
    """)
    # The path may say all that is needed, and a GET has no body.
    assert [route.needs_body for route in Router(services).routes] == [needed, False, False]


def test_a_selector_may_not_be_a_member_of_an_inline_message() -> None:
    services = compile_services("""
      message Q { Inner inner = 1 [$json.inline = true]; } message Inner { string id = 1; } message R {}
      service S {
        rpc A(Q) returns (R) { $http = {get: "/a"}; $streaming = {rpc: "B" selector: "id"}; }
        rpc B(Q) returns (stream R);
      }
    """)
    with pytest.raises(RouteError, match="the selector is a field"):
        Router(services)


@pytest.mark.parametrize(
    ("rpc", "fault"),
    [
        ('rpc A(stream Q) returns (R) { $http = {post: "/a" body: "*"}; }', "client streaming"),
        ('rpc A(Q) returns (R) { $streaming = {rpc: "B" selector: "s"}; }', "without an HTTP rule"),
        (
            'rpc A(Q) returns (stream R) { $http = {get: "/a"}; $streaming = {rpc: "B" selector: "s"}; }',
            "a streaming option on a method that streams",
        ),
    ],
)
def test_bad_methods_fail_at_once(rpc: str, fault: str) -> None:
    with pytest.raises(RouteError, match=f"rest.test.S.A: .*{fault}"):
        Router(compile_services(f"{MESSAGES} service S {{ {rpc} rpc B(Q) returns (stream R); }}"))
