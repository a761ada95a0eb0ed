"""A grammar as a tree of what may be written, and the sets of characters that its parts begin and go on with.

Reads no text and refuses nothing: `ebnf` makes it, and `grammar_cost` judges it.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

#: Sets of characters are bits of a number: ASCII each by its own, all others by one.
OTHERS = 128
ALL = (1 << (OTHERS + 1)) - 1
#: A length beyond which it does not matter how long.
LONG = 1_000


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a class. `any`: whether there is such a character."""

    characters: int
    any: bool = True


@dataclass(frozen=True, slots=True)
class Literal:
    """A text as it stands, which may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A rule by its name. `at` is where it is called, in characters."""

    rule: str
    at: int


@dataclass(frozen=True, slots=True)
class Macro:
    """What the engine knows by a name of its own: any text, as far as is known here, with calls within."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple["Node", ...]
    at: int


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` is None where there is no limit."""

    part: "Node"
    least: int
    most: int | None
    at: int


Node = Chars | Literal | Call | Macro | Sequence | Either | Repeat


@dataclass(frozen=True, slots=True)
class Shape:
    """What texts a part matches. `ends`: it matches some text; `first` and `last`: their characters; `more`:
    those that may go on where such a text could be at its end; `length`: of the longest, at most LONG."""

    ends: bool = False
    empty: bool = False
    first: int = 0
    last: int = 0
    more: int = 0
    length: int = 0


_NOTHING = Shape()
#: Of the empty text.
EMPTY = Shape(ends=True, empty=True)
_ANY = Shape(True, True, ALL, ALL, ALL, LONG)


def shape(node: Node, rules: Mapping[str, Shape]) -> Shape:
    """The shape of a part, by what is known of the rules."""
    match node:
        case Chars(characters, any):
            return Shape(any, False, characters, characters, 0, 1)
        case Literal(text):
            if not text:
                return EMPTY
            return Shape(
                True, False, character_bit(text[0]), character_bit(text[-1]), 0, min(len(text), LONG)
            )
        case Call(rule):
            return rules.get(rule, _NOTHING)
        case Macro():
            return _ANY
        case Sequence(parts):
            loose = [isinstance(part, Repeat) for part in parts[:-1]]
            return sequence_shape([shape(part, rules) for part in parts], [False, *loose])
        case Either(parts):
            return _either([shape(part, rules) for part in parts])
        case Repeat(part, least, most):
            return _repeated(shape(part, rules), least, most)


def sequence_shape(parts: SequenceOf[Shape], loose: SequenceOf[bool] = ()) -> Shape:
    """Of parts one after the other; `loose` says which of them follow a repeat."""
    whole = EMPTY
    unmarked: int | bool = False
    for part, follows_repeat in zip(parts, loose or [False] * len(parts), strict=True):
        # One character that the repeat before could have matched too says nothing of where that ends.
        unmarked = part.length == 1 and (follows_repeat or unmarked) and whole.more & part.first
        vague = part.empty or unmarked
        whole = Shape(
            whole.ends and part.ends,
            whole.empty and part.empty,
            whole.first | (part.first if whole.empty else 0),
            part.last | (whole.last if part.empty else 0),
            part.more | (part.first | whole.more if vague else 0),
            min(whole.length + part.length, LONG),
        )
    return whole


def _either(parts: list[Shape]) -> Shape:
    whole = _NOTHING
    for part in parts:
        whole = Shape(
            whole.ends or part.ends,
            whole.empty or part.empty,
            whole.first | part.first,
            whole.last | part.last,
            whole.more | part.more,
            max(whole.length, part.length),
        )
    if whole.empty:
        whole = Shape(whole.ends, True, whole.first, whole.last, whole.more | whole.first, whole.length)
    return whole


def _repeated(part: Shape, least: int, most: int | None) -> Shape:
    if most == 0:
        return EMPTY
    varies = most is None or most > least or part.empty
    times = LONG if most is None else most
    return Shape(
        part.ends or least == 0,
        part.empty or least == 0,
        part.first,
        part.last,
        part.more | (part.first if varies else 0),
        min(part.length * times, LONG),
    )


def character_bit(character: str) -> int:
    """The set of one character."""
    return 1 << min(ord(character), OTHERS)


def range_bits(low: str, high: str) -> int:
    """The set of the characters from `low` to `high`."""
    first, last = min(ord(low), OTHERS), min(ord(high), OTHERS)
    return (1 << (last + 1)) - (1 << first)


def children(node: Node) -> tuple[Node, ...]:
    """The parts that a part is directly made of."""
    match node:
        case Sequence(parts) | Either(parts):
            return parts
        case Repeat(part):
            return (part,)
        case Macro(calls):
            return calls
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """A part and all parts in it, from the outside to the inside."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))
