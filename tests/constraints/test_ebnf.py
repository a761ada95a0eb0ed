"""EBNF grammars: common grammars pass and are enforced. Grammars that the engine misreads or stalls at are
refused."""

import json
import random

import pytest

from inferd.services.constraints.client_structural_tag import parse_format
from inferd.services.constraints.ebnf import check_grammar
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint
from tests.support.grammar import Grammar

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws (
    value ("," ws value)*
  )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
# by convention after literals
ws     ::= "" | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*"""
SQL = r"""root ::= "SELECT " columns " FROM " ident (" WHERE " condition)?
    (" ORDER BY " ident)? (" LIMIT " [0-9]+)?
columns ::= "*" | column (", " column)*
column ::= ident | ident "." ident | ("COUNT" | "SUM") "(" (ident | "*") ")"
condition ::= comparison (" AND " comparison | " OR " comparison)*
comparison ::= ident " "? ("=" | "<" | ">") " "? ([0-9]+ | "'" [^']* "'")
ident ::= [a-zA-Z_] [a-zA-Z0-9_]*"""
CHESS = r"""root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"""
LIST = 'root ::= item+\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"'
JAPANESE = "root ::= char+ ([ \\t\\n] char+)*\nchar ::= [ぁ-ゟ] | [ァ-ヿ] | [、-〾]"


@pytest.mark.parametrize(
    ("grammar", "allowed", "refused"),
    [
        (JSON, '{"a": [1, {"b": "\\u00e9"}]}', "[1]"),
        (ARITHMETIC, "a +(2*b)=3\n", "a + =3\n"),
        (SQL, "SELECT a, COUNT(*) FROM t WHERE x = 'y' LIMIT 3", "SELECT FROM t"),
        (CHESS, "1. e4 e5\n2. Nf3 Nc6\n", "1. e4\n"),
        (LIST, "- a\n- b\n", "a\n"),
        (JAPANESE, "ひカ ひ", "a"),
        ('root ::= root "+" [0-9] | [0-9]', "1+2+3", "1+"),
        ('root ::= e\ne ::= e [-+*/] e | "(" e ")" | [0-9]+', "1*(2+33)", "1*()"),
        ('root ::= "(" root root ")" | "x"', "(x(xx))", "(x)"),
        ('root ::= (word " ")* word "."\nword ::= [a-zA-Z]+', "so it is.", "so  it."),
        ('root ::= "- "{2} [^\\n]{1,200}', "- - é", "- é"),
        ('root ::= ("ab" ){ 2 , }', "ababab", "ab"),
        ('root ::= "a"{2,-1}', "aaa", "a"),
        ('root ::= "\\x41\\u0042\\U00000043\\"" [\\]^-]', 'ABC"]', 'ABC"a'),
        ("root ::= [^é\\-]", "è", "-"),
        ('# of\nroot ::= a # one\n  | ()\r\na ::= "a"\r\nunused ::= unused "x"', "a", "b"),
        ('root ::= a\na[max_tokens=10, capture="c"] ::= [a-z]+ (= ".")', "abc", "1"),
        ('root ::= Regex("(a|b)+") "!"', "ab!", "c"),
        ('root ::= TagDispatch(("<a>", x), loop_after_dispatch=false)\nx ::= "b"', "text <a>b", "<a>c"),
        ("root ::= true.x\ntrue.x ::= ExcludeToken(65)+", "b", "A"),
    ],
)
def test_what_passes_is_enforced(grammar, allowed, refused):
    check_grammar(grammar, "ebnf")
    compiled = Grammar(Constraint("ebnf", grammar))
    assert compiled.accepts(allowed) or "Token" in grammar
    assert not compiled.accepts(refused)


@pytest.mark.parametrize("line", ["#" * 200, "# " * 200, "#\t#" * 100, " \t" * 200 + "#" * 200])
@pytest.mark.parametrize(
    "form", ['{}\nroot ::= x\nx ::= "a"', 'root ::= x\n{}\nx ::= "a"', 'root ::= x {}\n x ::= "a"']
)
def test_a_comment_of_many_marks_is_read_once(form, line):
    """A comment could be read in more ways than a test has time for."""
    check_grammar(form.format(line), "ebnf")
    with pytest.raises(ServiceError):
        check_grammar(form.format(line).replace("x ::=", "x :="), "ebnf")


@pytest.mark.parametrize(
    ("grammar", "problem", "place"),
    [
        ("", "no rule root", (1, 1)),
        ('start ::= "a"', "no rule root", (1, 1)),
        ("root ::= nope", "no rule nope", (1, 10)),
        ('root ::= "a"\r\nx ::= TagDispatch(("a", nope))', "no rule nope", (2, 25)),
        ('root ::= "a"\nroot ::= "b"', "more than once", (2, 1)),
        ('root ::= "a" b ::= "b"', "within a line", (1, 14)),
        ('"a"', "no rule: name ::=", (1, 1)),
        ("root := a", "no rule: name ::=", (1, 1)),
        ('root ::= "a" )', "neither an element nor a rule", (1, 14)),
        ("root ::=", "no element", (1, 9)),
        ('root ::= "a" |', "no element", (1, 15)),
        ('root ::= ("a"', "nothing closes", (1, 14)),
        ('root ::= "a\n"', "nothing closes", (1, 10)),
        ("root ::= [a", "nothing closes", (1, 10)),
        ('root ::= "a"**', "no element", (1, 14)),
        ('root ::= "a"{,5}', "no count", (1, 13)),
        ('root ::= "a"{3,2}', "greater", (1, 13)),
        ('root ::= "a"{99999999999}', "count of more than", (1, 13)),
        (r'root ::= "\q"', r"\q", (1, 11)),
        (r"root ::= [\d]", r"\d", (1, 11)),
        (r'root ::= "\UFFFFFFFF"', "no character", (1, 11)),
        ("root ::= [z-a]", "ends before it begins", (1, 14)),
        ('root ::= (= "a") "b"', "lookahead that is not at the end", (1, 10)),
        ("root ::= Regex(1", "nothing closes", (1, 10)),
        ("root ::= Regex", "without its arguments", (1, 10)),
        ('root ::= Regex("(?=a)")', "lookahead", (1, 10)),
        ('root ::= "a\0"', "null character", (1, 12)),
        ("root ::= " + "(" * 51 + '"a"' + ")" * 51, "deeper than 50", (1, 60)),
        ("root ::= root", "no text that ends", (1, 1)),
        ("root ::= x\nx ::= y\ny ::= x", "no text that ends", (1, 1)),
        ('root ::= "a" | x\nx ::= "b" x', "the rule x", (2, 1)),
        ("root ::= []", "no text that ends", (1, 1)),
    ],
)
def test_what_is_no_grammar_is_refused_with_its_place(grammar, problem, place):
    with pytest.raises(ServiceError) as caught:
        check_grammar(grammar, "ebnf")
    error = caught.value
    assert (error.reason, error.field) == ("INVALID_CONSTRAINT", "ebnf")
    assert problem in error.message
    assert f"(line {place[0]}, column {place[1]})" in error.message


@pytest.mark.parametrize(
    "grammar",
    [
        r"root ::= ([^\n]{1,50}){1,50}",
        "root ::= ([a-z]+)+",
        "root ::= ([a-z]+ [a-z])+",
        "root ::= ([a-z]?){0,40}",
        'root ::= (" "+ " " [a-z]?)* "x"',
        'root ::= "," | " "* root',
        'root ::= " " [a-z ]? | root+ "ab"',
        'root ::= "x" | "a" root "b"*',
        "root ::= ([a-z]{0,20} [a-z ] [a-z])+",
        'root ::= "a" ""{1,41}',
        'root ::= ("a"?){5,}',
        'root ::= ([a-z]+ " "?)+',
        'root ::= (word ws)+\nword ::= [a-z]+\nws ::= " "*',
        "root ::= x{1,200}\nx ::= [a-z] [a-z]?",
        r'root ::= [^\n]+ root | ""',
        r"root ::= root [^\n]+ | [^\n]",
        "root ::= root root | [a-z]",
        'root ::= e\ne ::= e e e | [a-z] | ""',
        'root ::= e\ne ::= (e | "x") (e | "y")',
        "root ::= e\ne ::= e [a-z] e | [a-z]",
        'root ::= "a" | ("b"? root*)*',
        r'root ::= [^\n] root [^\n] | ""',
        "root ::= " + "[a-z]? " * 30,
        "root ::= " + '"a"? ' * 200,
        "root ::= " + "t " * 20 + "\nt ::= [^\\n]*",
        r"root ::= [^\n]{0,50} [^\n]{0,50} [^\n]{0,50}",
        "root ::= " + " ".join(rf'[^\n]{{1,{100 + i}}} ","' for i in range(40)),
        "root ::= " + " ".join(r'[^\n]* ","' for _ in range(1000)),
        'root ::= Regex("(.{1,50}){1,50}")',
        "root ::= " + '"a" ' * 20_000,
    ],
)
def test_what_would_stall_the_engine_is_refused(grammar):
    with pytest.raises(ServiceError) as caught:
        check_grammar(grammar, "ebnf")
    assert caught.value.reason == "INVALID_CONSTRAINT"


@pytest.mark.parametrize("length", [100, 1000, 4000])
def test_long_chains_of_rules_are_looked_at(length):
    for order in (range(length), reversed(range(length))):
        rules = [f"r{i} ::= r{i + 1}" for i in order]
        check_grammar("\n".join(["root ::= r0", *rules, f'r{length} ::= "a"']), "ebnf")


def test_long_rules_within_themselves_are_looked_at():
    check_grammar('root ::= "x" | ' + '"(" root ")" ' * 3000, "ebnf")
    with pytest.raises(ServiceError):
        check_grammar('root ::= "x" | ' + "root? " * 3000, "ebnf")


@pytest.mark.parametrize("seed", range(40))
def test_what_passes_compiles_and_always_has_something_to_follow(seed):
    grammar = _random_grammar(random.Random(seed))
    try:
        check_grammar(grammar, "ebnf")
    except ServiceError as error:
        assert error.reason == "INVALID_CONSTRAINT"
    else:
        Grammar(Constraint("ebnf", grammar)).random_text(seed, limit=20)


def star(content):
    return json.dumps({"type": "star", "content": content})


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (star({"type": "grammar", "grammar": "root ::= ([a-z]+)+"}), "format.content.grammar"),
        (star({"type": "any_text"}), "format.content"),
        (star({"type": "regex", "pattern": "[a-z]+"}), "format.content"),
        (star({"type": "sequence", "elements": [json.loads(star({"type": "any_text"}))]}), "format"),
        (star({"type": "optional", "content": {"type": "const_string", "value": "a"}}), "format.content"),
    ],
)
def test_in_a_structural_tag_too_what_would_stall_the_engine_is_refused(form, field):
    with pytest.raises(ServiceError) as caught:
        parse_format(form, "format")
    assert caught.value.reason == "INVALID_CONSTRAINT"
    assert caught.value.field is not None and caught.value.field.startswith(field)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "regex", "pattern": "- .*\\n"},
        {"type": "regex", "pattern": "a\\+"},
        {"type": "regex", "pattern": "[0-9]{3}"},
        {"type": "grammar", "grammar": 'root ::= "- " [^\\n]* "\\n"'},
    ],
)
def test_in_a_structural_tag_what_says_where_it_ends_may_be_repeated(content):
    form = parse_format(star(content), "format")
    Grammar(Constraint("structural_tag", json.dumps({"type": "structural_tag", "format": form})))


def _random_grammar(choose: random.Random) -> str:
    names = ["root", "a", "b"][: choose.randint(1, 3)]

    def alternatives(depth: int) -> str:
        return " | ".join(sequence(depth) for _ in range(choose.choice((1, 1, 2))))

    def sequence(depth: int) -> str:
        return " ".join(
            element(depth) + choose.choice(("", "", "", "*", "+", "?", "{1,3}")) for _ in range(3)
        )

    def element(depth: int) -> str:
        if depth < 2 and choose.random() < 0.3:
            return f"({alternatives(depth + 1)})"
        return choose.choice(('"x"', '"yes"', '","', '"\\n"', "[a-z]", "[^\\n]", "[0-9]", *names))

    return "\n".join(f"{name} ::= {alternatives(0)}" for name in names)
