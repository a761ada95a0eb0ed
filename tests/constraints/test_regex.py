"""Regular expressions: those that the engine enforces exactly pass, others are refused with the place."""

import pytest

from inferd.services.constraints.regex import check_pattern, json_pattern
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint
from tests.support.grammar import Grammar


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        (r"^a|b$", "b", "ab"),
        (r"(?:ab)+(?<n>c)?", "ababc", "ba"),
        (r"(\d{1,3}\.){3}\d{1,3}", "127.0.0.1", "127.0.0"),
        (r"\w{1,64}@\w{1,255}\.com", "a_b@c.com", "a@b.org"),
        (r"(\w+\s?)+", "a b c", "-"),
        (r"[\s\S]*", "a\nb", None),
        (r"[^\n]{1,500}", "é", "\n"),
        (r"(- .{1,80}\n){1,10}", "- a\n- b\n", "a\n"),
        (r"\{\"a\": \d+\}", '{"a": 12}', "{}"),
        (r"\x41\u0042", "AB", "ab"),
        (r"[^\s/$.?#]+\.[a-z]{2,}", "inferd.dev", "a b.dev"),
        (r"a{2,}?b", "aab", "ab"),
        (r"(yes|no|)", "", "maybe"),
    ],
)
def test_what_passes_is_enforced_as_it_is_meant(pattern, allowed, refused):
    check_pattern(pattern, "regex")
    grammar = Grammar(Constraint("regex", pattern))
    assert grammar.accepts(allowed)
    assert refused is None or not grammar.accepts(refused)


@pytest.mark.parametrize(
    ("pattern", "problem", "at"),
    [
        ("a(?=b)", "lookahead", 3),
        ("(?!a)b", "lookahead", 2),
        ("(?<!a)b", "lookbehind", 2),
        ("(?i)abc", "none of", 2),
        ("(?P<n>a)", "none of", 2),
        (r"(a)\1", "backreference", 4),
        (r"(?<n>a)\k<n>", "backreference", 8),
        (r"\bfoo", "word boundaries", 1),
        (r"\Afoo", "whole text", 1),
        (r"\p{L}", "Unicode properties", 1),
        (r"\012", "octal", 1),
        (r"\q", "does not know", 1),
        ("a^b", "ignore", 2),
        ("a$b", "ignore", 2),
        ("x(^a)", "ignore", 3),
        ("[[:alpha:]]", "POSIX", 2),
        ("[^é]", "misreads", 3),
        ("[]a]", "empty", 2),
        ("[a", "nothing closes", 1),
        ("(a", "nothing closes", 3),
        ("a)", "closes nothing", 2),
        ("*a", "nothing before it", 1),
        ("a**", "repeat of a repeat", 3),
        ("a{2,1}", "greater", 2),
        ("a{,5}", "no count", 2),
        ("a{x", "no count", 2),
        ("a\\", "backslash", 2),
        ("a\0", "null character", 2),
    ],
)
def test_what_the_engine_misreads_is_refused(pattern, problem, at):
    with pytest.raises(ServiceError) as caught:
        check_pattern(pattern, "regex")
    error = caught.value
    assert (error.reason, error.field) == ("INVALID_CONSTRAINT", "regex")
    assert problem in error.message
    assert f"(at character {at})" in error.message


@pytest.mark.parametrize(
    "pattern",
    [
        "(.{1,100}){1,100}",
        "(.{1,10}){1,10}",
        "(.{1,100}){2}",
        "(.?){1,50}",
        ".?" * 20,
        "a?" * 500,
        ".{0,50}" * 3,
        "(" * 10 + "a" + ")+" * 10,
        "(" * 51 + "a" + ")" * 51,
        "".join(f".{{1,{100 + i}}}," for i in range(40)),
    ],
)
def test_what_would_stall_the_engine_is_refused(pattern):
    with pytest.raises(ServiceError):
        check_pattern(pattern, "regex")


@pytest.mark.parametrize("pattern", ['a"b', r"a\"b", r"a\\b", r"a\nb", "a\tb", r'["]', r"\u0041"])
def test_what_json_would_have_to_escape_is_refused_in_json(pattern):
    check_pattern(pattern, "regex")
    with pytest.raises(ServiceError):
        json_pattern(pattern, "pattern")


@pytest.mark.parametrize(
    "pattern",
    [".{1,300}", '[^"]{1,300}', r"\S{1,300}", r"\W+", r"[ -~]{1,300}", "[!-\\]a]+", r"[A-z\s]+", r"[a\]-]+"],
)
def test_in_json_only_what_it_need_not_escape_is_matched(pattern):
    grammar = Grammar(Constraint("regex", json_pattern(pattern, "pattern")))
    for character in ('"', "\\", "\n", "\0"):
        assert not grammar.accepts(character)
    assert any(grammar.accepts(character) for character in "a-]")
