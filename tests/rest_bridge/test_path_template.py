"""Path templates: how they are parsed, and the column at which a bad one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.rest_bridge.path_template import TemplateError, Wildcard, parse

ONE, MANY = Wildcard.ONE, Wildcard.MANY


@pytest.mark.parametrize(
    ("text", "segments", "variables", "verb"),
    [
        (
            "/shelves/{shelf}/books/{book}",
            ("shelves", ONE, "books", ONE),
            {"shelf": (1, 2), "book": (3, 4)},
            "",
        ),
        ("/shelves/**", ("shelves", MANY), {}, ""),
        ("/**", (MANY,), {}, ""),
        ("/a:foo", ("a",), {}, "foo"),
        ("/a/b/c:foo", ("a", "b", "c"), {}, "foo"),
        ("/*/**", (ONE, MANY), {}, ""),
        ("/*/a/**", (ONE, "a", MANY), {}, ""),
        ("/a/{a.b.c}", ("a", ONE), {"a.b.c": (1, 2)}, ""),
        ("/a/{b=**}", ("a", MANY), {"b": (1, 2)}, ""),
        ("/a/{b=c/*}", ("a", "c", ONE), {"b": (1, 3)}, ""),
        ("/a/{b=c/*/d}", ("a", "c", ONE, "d"), {"b": (1, 4)}, ""),
        ("/a/{b=c/**}/d/e", ("a", "c", MANY, "d", "e"), {"b": (1, 3)}, ""),
        ("/a/{b=c/**/d}/e:verb", ("a", "c", MANY, "d", "e"), {"b": (1, 4)}, "verb"),
        ("/{x}:verb", (ONE,), {"x": (0, 1)}, "verb"),
        ("/{x=**}:verb", (MANY,), {"x": (0, 1)}, "verb"),
        ("/{x.y.z=*/*}:verb", (ONE, ONE), {"x.y.z": (0, 2)}, "verb"),
        ("/a/{b=*}/**:verb", ("a", ONE, MANY), {"b": (1, 2)}, "verb"),
        ("/v1.2/a-b_c~d/e%20f", ("v1.2", "a-b_c~d", "e f"), {}, ""),
        (
            "/engines/{model=**}/chat/completions",
            ("engines", MANY, "chat", "completions"),
            {"model": (1, 2)},
            "",
        ),
    ],
)
def test_parses(text: str, segments: tuple, variables: dict, verb: str) -> None:
    template = parse(text)
    assert template.text == text
    assert template.segments == segments
    assert {".".join(v.field_path): (v.start, v.stop) for v in template.variables} == variables
    assert template.verb == verb


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1), ("/", 2), ("//", 2), ("/{}", 3), ("/a/", 4), ("/a//b", 4),
        (":verb", 1), ("/:verb", 2), ("/a/:verb", 4), (":", 1), ("/:", 2), ("/*:", 4), ("/**:", 5),
        ("/{var}:", 8), ("/a/b/:", 6), ("/a/b/*:", 8), ("/a/b/{var}:", 12),
        ("/a/{", 5), ("/a/{var", 8), ("/a/{var.", 9), ("/a/{x=var:verb}", 10), ("/a/{b=", 7), ("/a/{b=}", 7),
        ("a", 1), ("{x}", 1), ("{x=/a}", 1), ("a/b", 1), ("a/b/{x}", 1), ("a/{x}/b:verb", 1),
        ("/a/{var=/b}", 9), ("/{var=a/{nested=b}}", 9),
        ("/a{x}", 3), ("/{x}a", 5), ("/a{x}b", 3), ("/{x}a{y}", 5), ("/a/b{x}", 5), ("/a/{x}b", 7),
        ("/a/b{x}c", 5), ("/a/{x}b{y}", 7), ("/a/b{x}/s", 5), ("/a/{x}b/s", 7),
        ("/a}", 3), ("/a*", 3), ("/*a", 3), ("/***", 4), ("/a:b:c", 5), ("/a:b/c", 5),
        ("/a?b", 3), ("/a b", 3),
        ("/a%2", 3), ("/%ff", 2), ("/{1x}", 3), ("/{a-b}", 4), ("/{a b}", 4),
        # After ** only literals.
        ("/**/*", 5), ("/**/**", 5), ("/**/{x}", 7), ("/{x=**}/{y}", 11), ("/{x=**/a}/{y=**}", 14),
        # A field is bound once; nor may it be within another one.
        ("/{a}/{a}", 6), ("/{a}/{a.b}", 6), ("/{a.b}/{a}", 8),
    ],
)  # fmt: skip
def test_refuses(text: str, column: int) -> None:
    with pytest.raises(TemplateError, match=f"^column {column}: ") as error:
        parse(text)
    assert error.value.column == column


def test_says_what_is_wrong() -> None:
    with pytest.raises(TemplateError, match=r"^column 5: expected '}', got '-'$"):
        parse("/{ab-c}")
    with pytest.raises(TemplateError, match=r"^column 6: a is bound already, at column 2$"):
        parse("/{a}/{a}")


@given(st.text(alphabet="/{}*:.=ab%2", max_size=20))
def test_parses_or_refuses(text: str) -> None:
    try:
        template = parse(text)
    except TemplateError as error:
        assert 1 <= error.column <= len(text) + 1
    else:
        assert template.segments
