"""The syntax tree of a grammar, and for each part of it the characters that its texts begin and end with.

Reads no grammar and refuses none: `ebnf` builds the tree, and `grammar_cost` refuses costly trees.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: A set of characters is an int: one bit for each ASCII character, and the bit OTHERS for all other
#: characters.
OTHERS = 128
ALL = (1 << (OTHERS + 1)) - 1
#: Lengths are counted up to this one; longer texts cost no more.
LONG = 1_000


@dataclass(frozen=True, slots=True)
class CharacterClass:
    """One character of a class. `matches_any`: whether the class has a character at all."""

    characters: int
    matches_any: bool = True


@dataclass(frozen=True, slots=True)
class Literal:
    """A fixed text, which may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class RuleCall:
    """A reference to a rule. `at` is the position of the reference in the grammar, in characters."""

    rule: str
    at: int


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro of the engine, such as TagDispatch. It counts as any text, and refers to the rules `calls`."""

    calls: tuple[RuleCall, ...]


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Parts one after the other. `at` is the position of the first part in the grammar, in characters."""

    parts: tuple["Node", ...]
    at: int


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Parts of which one is matched: `a | b`."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part that is matched `least` to `most` times; `most` None: no limit."""

    part: "Node"
    least: int
    most: int | None
    at: int


Node = CharacterClass | Literal | RuleCall | Macro | Concatenation | Alternatives | Repeat


@dataclass(frozen=True, slots=True)
class Shape:
    """A summary of the texts that a part matches. Sets of characters are ints, as above.

    `productive`: there is such a text. `nullable`: the empty text is one. `first` and `last` are the
    characters that the texts begin and end with. `continuing` are the characters by which a text that is
    complete may go on to a longer one. `max_length` is the length of the longest text, at most LONG.
    """

    productive: bool = False
    nullable: bool = False
    first: int = 0
    last: int = 0
    continuing: int = 0
    max_length: int = 0


_NOTHING = Shape()
#: The shape of the empty text.
EMPTY = Shape(productive=True, nullable=True)
_ANY = Shape(True, True, ALL, ALL, ALL, LONG)


def shape(node: Node, rules: Mapping[str, Shape]) -> Shape:
    """The shape of a part. `rules` has the shapes of rules; a rule that it lacks matches nothing so far."""
    match node:
        case CharacterClass(characters, matches_any):
            return Shape(matches_any, False, characters, characters, 0, 1)
        case Literal(text):
            if not text:
                return EMPTY
            return Shape(
                True, False, character_bit(text[0]), character_bit(text[-1]), 0, min(len(text), LONG)
            )
        case RuleCall(rule):
            return rules.get(rule, _NOTHING)
        case Macro():
            return _ANY
        case Concatenation(parts):
            after_repeat = [isinstance(part, Repeat) for part in parts[:-1]]
            return concatenation_shape([shape(part, rules) for part in parts], [False, *after_repeat])
        case Alternatives(parts):
            return _alternatives_shape([shape(part, rules) for part in parts])
        case Repeat(part, least, most):
            return _repeat_shape(shape(part, rules), least, most)


def concatenation_shape(parts: Sequence[Shape], after_repeat: Sequence[bool] = ()) -> Shape:
    """The shape of parts one after the other. `after_repeat` says for each part whether it follows a
    repeat."""
    whole = EMPTY
    ambiguous: int | bool = False
    for part, follows_repeat in zip(parts, after_repeat or [False] * len(parts), strict=True):
        # If the repeat before could match this single character too, the character does not show where the
        # repeat ends.
        ambiguous = part.max_length == 1 and (follows_repeat or ambiguous) and whole.continuing & part.first
        may_continue = part.nullable or ambiguous
        whole = Shape(
            whole.productive and part.productive,
            whole.nullable and part.nullable,
            whole.first | (part.first if whole.nullable else 0),
            part.last | (whole.last if part.nullable else 0),
            part.continuing | (part.first | whole.continuing if may_continue else 0),
            min(whole.max_length + part.max_length, LONG),
        )
    return whole


def _alternatives_shape(parts: list[Shape]) -> Shape:
    whole = _NOTHING
    for part in parts:
        whole = Shape(
            whole.productive or part.productive,
            whole.nullable or part.nullable,
            whole.first | part.first,
            whole.last | part.last,
            whole.continuing | part.continuing,
            max(whole.max_length, part.max_length),
        )
    if whole.nullable:
        whole = Shape(
            whole.productive, True, whole.first, whole.last, whole.continuing | whole.first, whole.max_length
        )
    return whole


def _repeat_shape(part: Shape, least: int, most: int | None) -> Shape:
    if most == 0:
        return EMPTY
    varies = most is None or most > least or part.nullable
    times = LONG if most is None else most
    return Shape(
        part.productive or least == 0,
        part.nullable or least == 0,
        part.first,
        part.last,
        part.continuing | (part.first if varies else 0),
        min(part.max_length * times, LONG),
    )


def character_bit(character: str) -> int:
    """The set that holds one character."""
    return 1 << min(ord(character), OTHERS)


def range_bits(low: str, high: str) -> int:
    """The set of the characters from `low` to `high`, both included."""
    first, last = min(ord(low), OTHERS), min(ord(high), OTHERS)
    return (1 << (last + 1)) - (1 << first)


def children(node: Node) -> tuple[Node, ...]:
    """The direct parts of a part."""
    match node:
        case Concatenation(parts) | Alternatives(parts):
            return parts
        case Repeat(part):
            return (part,)
        case Macro(calls):
            return calls
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """A part and all parts within it, each before its own parts."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))
