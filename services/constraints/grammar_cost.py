"""What a grammar would cost the engine (xgrammar 0.2), which follows all ways to read a text, for each token
and while others wait. Refuses those that have too many; knows no text of a grammar, which `ebnf` reads.

The numbers are measured with a vocabulary of 49,152 tokens: what passes takes it less than a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from inferd.services.constraints.grammar_tree import (
    EMPTY,
    LONG,
    Call,
    Chars,
    Either,
    Node,
    Repeat,
    Shape,
    children,
    sequence_shape,
    shape,
    walk,
)
from inferd.services.constraints.grammar_tree import Sequence as Row

#: Elements of all rules.
_MAX_NODES = 10_000
#: Times that the rules are gone through until their shapes are known: more is a maze and no grammar.
_MAX_PASSES = 16
#: So many characters are most of them.
_WIDE = 64
#: Classes of most characters: a few milliseconds each, and so is each of a counted repeat up to _COUNT_COST.
_MAX_WIDE, _COUNT_COST = 400, 200
#: What is counted otherwise costs where it is no single character.
_MAX_COUNT = 100_000
#: Optional elements one after the other that may begin alike: of one character, and of classes.
_MAX_OPTIONAL, _MAX_WIDE_OPTIONAL = 20, 6
#: In how many ways elements side by side may share out a text: those of most characters, and others.
_MAX_WIDE_WAYS, _MAX_WAYS = 100, 2_304
_LONG_WAYS = 48
#: What repeats may vary in length by so much where its end and its beginning are alike.
_MAX_SHORT = 3
#: Times that such a short one may be counted, and a longer one.
_MAX_SHORT_COUNT, _MAX_LONG_COUNT = 48, 3
#: Times that something may be counted that may be nothing.
_MAX_EMPTY = 3
#: So few characters seldom let a text be read in many ways: operators and space.
_FEW = 8


class Costly(Exception):
    """The engine would take too long. `problem` is of the element that is written at `at`, in characters."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at


def check_cost(rules: Mapping[str, Node], places: Mapping[str, int]) -> None:
    """Raise Costly for rules that the engine would take too long for, or that can come to no end. All that
    are called must be there, and the first one calls them; `places` says where each is written.
    """
    if sum(1 for rule in rules.values() for _ in walk(rule)) > _MAX_NODES:
        raise Costly(f"has more than {_MAX_NODES} elements", 0)
    shapes = _shapes(rules)
    for name in rules:
        if not shapes[name].ends:
            raise Costly(f"has the rule {name[:64]}, which no text that ends can follow", places[name])
    groups = _recursive(rules)
    costs = _Costs(shapes, groups)
    for name, rule in rules.items():
        costs.check(rule, name, places[name])


def _shapes(rules: Mapping[str, Node]) -> dict[str, Shape]:
    """Of each rule, from nothing up until nothing changes."""
    shapes = dict.fromkeys(rules, Shape())
    order = list(rules)[::-1]
    groups = _recursive(rules)
    after = {name: _after_itself(rules[name], groups, groups[name]) for name in groups}
    for _ in range(_MAX_PASSES):
        changed = False
        for name in order:
            found = shape(rules[name], shapes)
            if name in groups and found.length:
                # A rule within itself is as long as you like, and what follows it there can go on with it.
                more = found.more
                for rest in after[name]:
                    more |= sequence_shape([shape(part, shapes) for part in rest]).first
                found = Shape(found.ends, found.empty, found.first, found.last, more, LONG)
            if found != shapes[name]:
                shapes[name], changed = found, True
        if not changed:
            return shapes
    raise Costly("has rules that are too entangled", 0)


def _after_itself(rule: Node, groups: Mapping[str, int], group: int) -> list[Sequence[Node]]:
    """What follows where the rule begins with a call of its own group."""
    following: list[Sequence[Node]] = []
    waiting = [rule]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Row):
            waiting.extend(children(node))
            continue
        for index, part in enumerate(node.parts[:_MAX_OPTIONAL]):
            if _leads(part, groups, group):
                following.append(node.parts[index + 1 :][:_MAX_OPTIONAL])
            waiting.append(part)
            if not _may_be_left_out(part):
                break
    return following


def _leads(node: Node, groups: Mapping[str, int], group: int) -> bool:
    """Whether the part may begin with a call of the group, by how it is written."""
    match node:
        case Call(rule):
            return groups.get(rule) == group
        case Row(parts):
            for part in parts:
                if _leads(part, groups, group):
                    return True
                if not _may_be_left_out(part):
                    return False
            return False
        case _:
            return any(_leads(part, groups, group) for part in children(node))


def _may_be_left_out(node: Node) -> bool:
    return isinstance(node, Repeat) and node.least == 0


def _recursive(rules: Mapping[str, Node]) -> dict[str, int]:
    """The rules that call themselves, by way of others too. Those that call one another have one number."""
    calls = {name: _called(rule) for name, rule in rules.items()}
    order: list[str] = []
    seen: set[str] = set()
    for start in rules:
        waiting: list[tuple[str, Iterator[str]]] = []
        if start not in seen:
            seen.add(start)
            waiting.append((start, iter(calls[start])))
        while waiting:
            name, rest = waiting[-1]
            following = next((call for call in rest if call not in seen), None)
            if following is None:
                order.append(name)
                waiting.pop()
            else:
                seen.add(following)
                waiting.append((following, iter(calls[following])))
    callers: dict[str, list[str]] = {name: [] for name in rules}
    for name, called in calls.items():
        for call in called:
            callers[call].append(name)
    groups: dict[str, int] = {}
    taken: set[str] = set()
    for number, start in enumerate(reversed(order)):
        members, level = [], [start]
        while level:
            name = level.pop()
            if name not in taken:
                taken.add(name)
                members.append(name)
                level.extend(callers[name])
        if len(members) > 1 or start in calls[start]:
            groups |= dict.fromkeys(members, number)
    return groups


def _called(rule: Node) -> list[str]:
    return list(dict.fromkeys(node.rule for node in walk(rule) if isinstance(node, Call)))


class _Costs:
    def __init__(self, shapes: Mapping[str, Shape], groups: Mapping[str, int]) -> None:
        self._shapes = shapes
        self._groups = groups
        self._wide = 0
        self._counts = 0

    def check(self, rule: Node, name: str, at: int) -> None:
        group = self._groups.get(name)
        for node in walk(rule):
            match node:
                case Chars(characters):
                    self._count_wide(1 if _many(characters, _WIDE) else 0, at)
                case Repeat():
                    self._repeat(node, group)
                case Row(parts, place):
                    shapes = [shape(part, self._shapes) for part in parts]
                    self._beside(parts, shapes, place)
                    if group is not None:
                        self._recursion(parts, shapes, group, place)

    def _count_wide(self, cost: int, at: int) -> None:
        self._wide += cost
        if self._wide > _MAX_WIDE:
            raise Costly("has too many classes of most characters, or too great counts of them", at)

    def _repeat(self, node: Repeat, group: int | None) -> None:
        part = shape(node.part, self._shapes)
        most = node.most
        if most is not None and most > 1 and _many(part.first, _WIDE):
            self._count_wide(min(most, _COUNT_COST), node.at)
        self._counts += max(node.least, most or 0)
        if self._counts > _MAX_COUNT:
            raise Costly(f"has counts of more than {_MAX_COUNT} in all", node.at)
        if part.empty and max(node.least, most or 0) > _MAX_EMPTY:
            raise Costly(f"counts to more than {_MAX_EMPTY} what may be empty", node.at)
        if most is not None and most <= 1:
            return
        self._loop(part, part.first, node.at, most)
        within = group is not None and all(self._at_edge(node.part, group, edge) for edge in (0, -1))
        alike = part.more & part.first
        if within and alike and (alike == part.first or alike & part.last or _many(alike, _FEW)):
            raise Costly("repeats a rule within itself, with nothing between that must be there", node.at)

    def _loop(self, part: Shape, following: int, at: int, most: int | None = None) -> None:
        """A part after which it may come again, which begins with one of `following`."""
        alike = part.more & following
        few = not _many(alike, _FEW)
        short = part.length <= _MAX_SHORT
        if not alike or (most is None and few and short):
            return
        if most is not None and few:
            if most > (_MAX_SHORT_COUNT if short else _MAX_LONG_COUNT):
                raise Costly(f"repeats up to {most} times what varies itself", at)
        elif (not few and _many(part.last, _FEW)) or (alike in (following, part.first) and alike & part.last):
            raise Costly(
                "repeats what varies itself, and nothing says where one ends and the next begins", at
            )

    def _beside(self, parts: Sequence[Node], shapes: Sequence[Shape], at: int) -> None:
        before = EMPTY
        ways = optional = 1
        begun = 0
        for part, here in zip(parts, shapes, strict=True):
            alike = before.more & here.first
            spread = self._spread(part, here)
            if _in_place(part):
                # What the engine keeps in one automaton with what is beside it.
                spread = min(spread, 2)
            if alike and not _many(alike, _FEW):
                spread = 1
            ways = ways * spread if alike else spread if not here.empty else max(ways, spread)
            if ways > (_MAX_WIDE_WAYS if _many(alike, _WIDE) else _MAX_WAYS):
                raise Costly("has elements side by side that could share out a text in too many ways", at)
            if here.empty and isinstance(part, Repeat) and part.most == 1:
                optional = optional + 1 if begun & here.first else 1
                begun |= here.first
                if optional > (_MAX_WIDE_OPTIONAL if _many(here.first, 1) else _MAX_OPTIONAL):
                    raise Costly("has too many optional elements one after the other that begin alike", at)
            elif not here.empty:
                optional, begun = 1, 0
            before = sequence_shape([before, here])

    def _spread(self, node: Node, here: Shape) -> int:
        """In how many lengths a part may be, about."""
        if not here.more and not here.empty:
            return 1
        if isinstance(node, Repeat) and node.most is not None and shape(node.part, self._shapes).length <= 1:
            return min(node.most - node.least + 1, LONG)
        return min(here.length, _LONG_WAYS)

    def _recursion(self, parts: Sequence[Node], shapes: Sequence[Shape], group: int, at: int) -> None:
        """Calls of rules that this sequence is part of: at its ends they are repeats."""
        starts = list(accumulate(shapes, lambda left, right: sequence_shape([left, right]), initial=EMPTY))
        rests = list(
            accumulate(reversed(shapes), lambda right, left: sequence_shape([left, right]), initial=EMPTY)
        )[::-1]
        ending: int | None = None
        for index, part in enumerate(parts):
            if ending is not None and self._at_edge(part, group, 0):
                between = sequence_shape(list(shapes[ending + 1 : index]))
                if between.empty and shapes[ending].more & shapes[index].first:
                    raise Costly(
                        "has a rule twice within itself, with nothing between that must be there", at
                    )
                if _many(shapes[ending].more & between.first, _FEW):
                    raise Costly("has a rule twice within itself, and what is between is no separator", at)
            if self._at_edge(part, group, -1):
                ending = index
        for index, part in enumerate(parts):
            begins, ends = self._at_edge(part, group, 0), self._at_edge(part, group, -1)
            start, rest = starts[index], rests[index + 1]
            if ends and rest.empty and index:
                self._loop(start, shapes[index].first, at)
            if begins and start.empty and index + 1 < len(parts):
                self._loop(rest, rest.first, at)
            before = begins and _many(start.more & shapes[index].first, _FEW)
            shared = shapes[index].more & rest.first
            after = ends and not start.empty and bool(_many(shared, _FEW) or (shared and rest.empty))
            if before or after:
                raise Costly("has a rule within itself, and what is beside it could be part of it", at)

    def _at_edge(self, node: Node, group: int, edge: int) -> bool:
        """Whether the part may begin (edge 0) or end (-1) with a call of the group."""
        match node:
            case Call(rule):
                return self._groups.get(rule) == group
            case Row(parts):
                for part in parts if edge == 0 else reversed(parts):
                    if self._at_edge(part, group, edge):
                        return True
                    if not shape(part, self._shapes).empty:
                        return False
                return False
            case Either() | Repeat():
                return any(self._at_edge(part, group, edge) for part in children(node))
            case _:
                return False


def _in_place(node: Node) -> bool:
    return isinstance(node, Repeat) and node.most is None and isinstance(node.part, Chars)


def _many(characters: int, limit: int) -> bool:
    return characters.bit_count() > limit
