"""Chat templates: the form of messages that each family expects is found by trying, and used."""

import pytest
from transformers import PreTrainedTokenizerFast

from inferd.services.errors import ServiceError
from inferd.services.text.function import Function
from inferd.services.text.model_text import ModelText
from inferd.services.text.template import ChatTemplate, Conversation
from inferd.services.text.tokenizer import TokenizerError
from inferd.v1 import message_pb2 as pb

#: Text only: a list would be printed.
STRINGS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: Parts only: a string would be read as its characters.
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}"
    "{% if p['type'] == 'text' %}[{{ p['text'] }}]{% elif p['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}{% endfor %}"
)
#: Either, but a system message's text alone, as Llama's with vision has it; trimmed.
BOTH = (
    "{% if messages[0].role == 'system' %}{{ '<system>' + messages[0].content | trim }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for p in m.content %}"
    "{% if p.type == 'audio' %}<audio>{% else %}[{{ p.text | trim }}]{% endif %}{% endfor %}"
    "{% endif %}<end>{% endfor %}"
)
#: Mistral's: ids of nine characters, roles that alternate.
NINE = (
    "{% for m in messages %}{% if m.tool_calls is defined %}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids must have length 9') }}{% endif %}"
    "[{{ call.function | tojson }} {{ call.id }}]{% endfor %}"
    "{% elif m.role == 'tool' %}({{ m.content }} {{ m.tool_call_id }})"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
#: DeepSeek's: arguments are joined as text.
TEXT_ARGUMENTS = (
    "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<' + call.function.name + ':' + call.function.arguments + '>' }}{% endfor %}{% endfor %}"
)
TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }};{% endfor %}"


@pytest.fixture
def template(small_model):
    def make(source: str | dict[str, str]) -> ChatTemplate:
        hf = PreTrainedTokenizerFast.from_pretrained(small_model)
        hf.chat_template = source
        return ChatTemplate(hf)

    return make


def message(role: int, *parts: str, **fields: object) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=part) for part in parts], **fields)


def call(call_id: str = "", name: str = "f", arguments: str = "{}") -> pb.ToolCall:
    return pb.ToolCall(id=call_id, function=pb.FunctionCall(name=name, arguments=arguments))


def render(template: ChatTemplate, *messages: pb.Message, **fields: object) -> str:
    return template.render(Conversation(messages, **{"generation_prompt": False, **fields})).text


def refused(template: ChatTemplate, *messages: pb.Message, **fields: object) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        render(template, *messages, **fields)
    return raised.value


USER = message(pb.ROLE_USER, "hi")


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        (STRINGS, "<system>a b<user>c<assistant>d e"),
        (PARTS, "<system>[a][b]<user>[c]<assistant>[d][e]"),
        (BOTH, "<system>a b<user>c<end><assistant>[d][e]<end>"),
    ],
)
def test_content_is_given_as_the_template_takes_it(template, source, rendered):
    conversation = [
        message(pb.ROLE_SYSTEM, "a", "b"),
        message(pb.ROLE_USER, "c"),
        message(pb.ROLE_ASSISTANT, "d", "e"),
    ]
    assert render(template(source), *conversation) == rendered


def test_a_tool_s_result_in_parts_is_joined(template):
    result = message(pb.ROLE_TOOL, "1", "2", tool_call_id="a")
    assert render(template(BOTH), USER, result) == "<user>hi<end><tool>1 2<end>"
    assert render(template(PARTS), USER, result) == "<user>[hi]<tool>[1][2]"


def test_the_generation_prompt_is_opened_where_asked_for(template):
    assert render(template(STRINGS), USER) == "<user>hi"
    assert render(template(STRINGS), USER, generation_prompt=True) == "<user>hi<assistant>"


@pytest.mark.parametrize(("known", "role"), [("", "system"), ("{# developer #}", "developer")])
def test_a_developer_is_a_system_where_the_template_knows_none(template, known, role):
    assert render(template(known + STRINGS), message(pb.ROLE_DEVELOPER, "x")) == f"<{role}>x"


def test_media_have_the_template_s_placeholders(template):
    image = pb.ContentPart(image_url=pb.ImageUrl(url="data:"))
    sound = pb.ContentPart(input_audio=pb.InputAudio())
    text = pb.ContentPart(text="what?")
    seen = pb.Message(role=pb.ROLE_USER, content=[image, text])
    heard = pb.Message(role=pb.ROLE_USER, content=[text, sound])
    assert render(template(PARTS), seen) == "<user><image>[what?]"
    assert render(template(BOTH), heard) == "<user>[what?]<audio><end>"
    assert refused(template(PARTS), heard).field == "messages[0].content[1].input_audio"
    for source in (STRINGS, TEXT_ARGUMENTS):
        error = refused(template(source), USER, seen)
        assert (error.reason, error.field) == ("UNSUPPORTED_CONTENT", "messages[1].content[0].image_url")


def test_an_image_is_refused_where_the_template_has_none_for_that_role(template):
    image = pb.ContentPart(image_url=pb.ImageUrl(url="data:"))
    said = pb.Message(role=pb.ROLE_SYSTEM, content=[image])
    assert refused(template(PARTS), said, USER).field == "messages[0].content[0].image_url"


@pytest.mark.parametrize("said", ["what is <|im_start|>?", "<|endoftext|>", "plain"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_text_with_a_placeholder_is_refused_where_there_is_an_image(template, said, place):
    # What the small model has of special tokens: two of them stand for an image here.
    source = PARTS.replace("<image>", "<|endoftext|><|im_start|><|endoftext|>")
    image = pb.ContentPart(image_url=pb.ImageUrl(url="data:"))
    seen = pb.Message(role=pb.ROLE_USER, content=[image, pb.ContentPart(text="see"), image])
    other = message(pb.ROLE_USER, said)
    messages = [other, seen] if place == "first" else [seen, other]
    if said == "plain":
        assert render(template(source), *messages).count("<|im_start|>") == 2
    else:
        error = refused(template(source), *messages)
        assert (error.field, error.reason) == ("messages", "PLACEHOLDER_IN_TEXT")
    # Without an image it is text.
    assert said in render(template(source), other)


# Calls.


def test_arguments_are_a_mapping_where_the_template_writes_json(template):
    given = '{"b": "é", "a": [1, {}]}'
    source = (
        "{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    asked = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call(arguments=given)])
    assert render(template(source), USER, asked) == f"hi{given}"


def test_arguments_are_text_where_the_template_joins_them(template):
    given = '{ "b":1 }'
    asked = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call(arguments=given), call(arguments="")])
    assert render(template(TEXT_ARGUMENTS), USER, asked) == f"hi<f:{given}><f:{{}}>"


def test_arguments_that_are_no_json_object_are_kept_as_text(template):
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{% set a = c.function.arguments %}{{ a if a is string else a | tojson }}{% endfor %}{% endfor %}"
    )
    asked = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call(arguments='{"cut'), call(arguments="[1]")])
    assert render(template(source), USER, asked) == 'hi{"cut[1]'


def test_ids_are_given_nine_characters_where_the_template_wants_them(template):
    long, short = "call_0123456789abcdef", "abc123XYZ"
    rendered = render(
        template(NINE),
        pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call(long), call(short)]),
        message(pb.ROLE_TOOL, "one", tool_call_id=long),
        message(pb.ROLE_TOOL, "two", tool_call_id=short),
    )
    made = rendered.split("(one ")[1][:9]
    assert made.isalnum()
    function = '{"name": "f", "arguments": {}}'
    assert rendered == f"[{function} {made}][{function} {short}](one {made})(two {short})"
    # Others take ids as they are.
    assert "call_0" in render(
        template("{% for m in messages %}{{ m.tool_call_id }}{% endfor %}"),
        message(pb.ROLE_TOOL, "one", tool_call_id=long),
    )


def test_the_older_function_call_is_a_tool_call_that_the_next_function_answers(template):
    rendered = render(
        template(NINE),
        pb.Message(role=pb.ROLE_ASSISTANT, function_call=pb.FunctionCall(name="f", arguments='{"a": 1}')),
        message(pb.ROLE_FUNCTION, "one", name="f"),
        pb.Message(role=pb.ROLE_ASSISTANT, function_call=pb.FunctionCall(name="g", arguments="{}")),
        message(pb.ROLE_FUNCTION, "two", name="g"),
    )
    first, second = rendered.split("(one ")[1][:9], rendered.split("(two ")[1][:9]
    assert first != second
    assert rendered == (
        f'[{{"name": "f", "arguments": {{"a": 1}}}} {first}](one {first})'
        f'[{{"name": "g", "arguments": {{}}}} {second}](two {second})'
    )


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["m.{}", "m['{}']", "m.get('{}', '')"])
def test_reasoning_is_given_by_the_name_that_the_template_reads(template, name, read):
    source = "{% for m in messages %}<{{ " + read.format(name) + " }}>{{ m.content }}{% endfor %}"
    thought = message(pb.ROLE_ASSISTANT, "4", reasoning_content="2+2")
    assert render(template(source), thought) == "<2+2>4"


def test_a_refusal_is_what_was_said(template):
    refusal = pb.Message(role=pb.ROLE_ASSISTANT, refusal="no")
    in_part = pb.Message(role=pb.ROLE_ASSISTANT, content=[pb.ContentPart(refusal="never")])
    assert render(template(STRINGS), refusal, in_part) == "<assistant>no<assistant>never"


# Tools.


def test_tools_are_written_as_json_with_their_keys_in_order(template):
    function = Function("f", {"type": "object", "properties": {"b": {}, "a": {}}}, "does f", strict=True)
    assert render(template(TOOLS), USER, functions=[function, Function("g")]) == (
        '{"type": "function", "function": {"name": "f", "description": "does f", "parameters": '
        '{"type": "object", "properties": {"b": {}, "a": {}}}}};'
        '{"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}};'
    )


def test_a_template_that_knows_no_wrapper_gets_functions(template):
    source = "{% for tool in tools %}{{ tool.name + ': ' + tool.description }}{% endfor %}"
    assert render(template(source), USER, functions=[Function("f", description="does f")]) == "f: does f"


def test_the_template_for_tools_is_picked_where_there_are_any(template):
    named = template({"default": "plain", "tool_use": "tools"})
    assert render(named, USER) == "plain"
    assert render(named, USER, functions=[Function("f")]) == "tools"
    assert set(named.source.split()) == {"plain", "tools"}


# Going on with the last message.


@pytest.mark.parametrize("said", ["4 and", "  two  words ", "ends in space \n", "<end>", "é🙂"])
@pytest.mark.parametrize("source", [STRINGS, PARTS, BOTH])
def test_a_prompt_that_goes_on_ends_where_the_last_message_s_text_does(template, source, said):
    rendered = render(template(source), USER, message(pb.ROLE_ASSISTANT, said), continue_final=True)
    assert rendered.endswith(said.lstrip() if source is BOTH else said)
    before = render(template(source), USER)
    assert rendered.startswith(before + "<assistant>")
    assert len(rendered) <= len(before + "<assistant>[" + said)


def test_the_last_of_several_parts_is_gone_on_with(template):
    said = message(pb.ROLE_ASSISTANT, "one", "two")
    assert render(template(PARTS), USER, said, continue_final=True) == "<user>[hi]<assistant>[one][two"
    assert render(template(STRINGS), USER, said, continue_final=True) == "<user>hi<assistant>one two"


@pytest.mark.parametrize(
    "last",
    [
        USER,
        pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call()]),
        message(pb.ROLE_ASSISTANT, ""),
        pb.Message(role=pb.ROLE_ASSISTANT, reasoning_content="so"),
    ],
)
def test_what_has_no_text_is_not_gone_on_with(template, last):
    for source in (STRINGS, PARTS):
        assert refused(template(source), USER, last, continue_final=True).field == "continue_final_message"


def test_a_template_that_leaves_the_last_message_out_is_not_gone_on_with(template):
    error = refused(template("always this"), USER, message(pb.ROLE_ASSISTANT, "so"), continue_final=True)
    assert (error.field, error.reason) == ("continue_final_message", "TEMPLATE_REFUSED")


# What a prompt has of the answer already.

#: As Qwen's and DeepSeek's: what opens the answer depends on a variable, and reasoning is left out later.
THINKING = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}<think></think>{{ m.content.split('</think>') | last }}"
    "{% else %}{{ m.content }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<assistant>"
    "{{ '<think>' if thinking else '<think></think>' }}{% endif %}"
)


def begun(template: ChatTemplate, *messages: pb.Message, **fields: object) -> str:
    rendered = template.render(Conversation(messages, **fields))
    assert rendered.text.endswith(rendered.end)
    return rendered.end


@pytest.mark.parametrize("said", ["hi", "what is <think>?", "</think>", "<assistant><think>", ""])
def test_what_opens_the_answer_has_nothing_of_the_messages(template, said):
    thinking, strings = template(THINKING), template(STRINGS)
    # Twice: it is remembered.
    for _ in range(2):
        last = message(pb.ROLE_USER, said)
        assert begun(thinking, USER, last, variables={"thinking": True}) == "<assistant><think>"
        assert begun(thinking, USER, last, variables={"thinking": False}) == "<assistant><think></think>"
        assert begun(thinking, last) == "<assistant><think></think>"
        assert begun(thinking, last, generation_prompt=False) == ""
        assert begun(thinking, last, message(pb.ROLE_TOOL, said)) == ""
        assert begun(strings, last) == "<assistant>"
        assert begun(template(BOTH), last) == ""


def test_where_earlier_messages_change_the_answer_begins_where_the_prompts_part(template):
    source = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    said = message(pb.ROLE_ASSISTANT, "so")
    assert begun(template(source), USER, said, continue_final=True) == "2<user>hi<assistant>so"


@pytest.mark.parametrize("said", ["so", "<think>so", "<think>a</think>so"])
def test_a_message_that_is_gone_on_with_is_begun_from_its_beginning(template, said):
    for source, before in ((STRINGS, "<assistant>"), (THINKING, "<assistant><think></think>")):
        found = begun(
            template(source),
            message(pb.ROLE_USER, "</think>"),
            message(pb.ROLE_ASSISTANT, said),
            generation_prompt=False,
            continue_final=True,
        )
        assert found == before + (said.split("</think>")[-1] if source is THINKING else said)


def test_a_message_that_stands_alone_can_be_gone_on_with(template):
    said = message(pb.ROLE_ASSISTANT, "so")
    assert begun(template(STRINGS), said, generation_prompt=False, continue_final=True) == "<assistant>so"


# What cannot be rendered.


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([pb.Message(role=pb.ROLE_USER)], "messages[0].content"),
        ([USER, message(77, "x")], "messages[1].role"),
        ([pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart()])], "messages[0].content[0]"),
        ([message(pb.ROLE_USER, "x", tool_calls=[call()])], "messages[0].tool_calls"),
        ([message(pb.ROLE_USER, "x", refusal="no")], "messages[0].refusal"),
        ([message(pb.ROLE_TOOL, "x", reasoning_content="so")], "messages[0].reasoning_content"),
        ([message(pb.ROLE_USER, "x", function_call=pb.FunctionCall(name="f"))], "messages[0].function_call"),
        ([pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall()])], "messages[0].tool_calls[0]"),
    ],
)
def test_what_is_no_message_is_named(template, messages, field):
    assert refused(template(STRINGS), *messages).field == field


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content.x }}", "has no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "can only concatenate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_raises_is_the_messages_fault(template, source, reason):
    error = refused(template(source), USER)
    assert (error.field, error.reason) == ("messages", "TEMPLATE_REFUSED")
    assert reason in error.message


def test_a_model_without_a_template_says_so(template):
    assert refused(template(None), USER).reason == "NO_CHAT_TEMPLATE"


def test_deep_arguments_are_refused_or_rendered(template):
    deep = "[" * 900 + "]" * 900
    asked = pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call(arguments='{"a": ' + deep + "}")])
    try:
        assert deep in render(template(NINE.replace("!= 9", "< 0")), asked)
    except ServiceError as error:
        assert error.reason == "TEMPLATE_REFUSED"


# Templates of the configuration.


def test_a_template_of_a_file_stands_in_for_the_model_s_own(small_model, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}")
    text = ModelText.load(small_model, file)
    assert render(text.template, USER) == "hi!"


@pytest.mark.parametrize("content", ["{% for m in messages %}", b"\xff", None])
def test_a_file_that_is_no_template_is_named(small_model, tmp_path, content):
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError) as raised:
        ModelText.load(small_model, file)
    assert str(file) in str(raised.value)
