"""Refuses grammars that would stall the engine (xgrammar 0.2). Reads no text of a grammar: `ebnf` does.

For each token the engine follows all ways to read the text so far, and other requests wait meanwhile. The
limits are measured with a vocabulary of 49,152 tokens: a grammar within them takes less than a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from inferd.services.constraints.grammar_tree import (
    EMPTY,
    LONG,
    Alternatives,
    CharacterClass,
    Concatenation,
    Node,
    Repeat,
    RuleCall,
    Shape,
    children,
    concatenation_shape,
    shape,
    walk,
)

#: Elements of all rules together.
_MAX_NODES = 10_000
#: Passes over the rules until their shapes no longer change.
_MAX_PASSES = 16
#: A class of more characters than this is wide.
_WIDE = 64
#: Wide classes of a grammar: the engine compiles each for a few milliseconds. A counted repeat of a wide
#: class counts as often as it may repeat, up to _COUNT_COST.
_MAX_WIDE, _COUNT_COST = 400, 200
#: The sum of the counts of all repeats.
_MAX_COUNT = 100_000
#: Optional elements one after the other that may begin with the same character: of one character each, and
#: of a class.
_MAX_OPTIONAL, _MAX_WIDE_OPTIONAL = 20, 6
#: In how many ways elements side by side may share out a text: wide classes, and other elements.
_MAX_WIDE_WAYS, _MAX_WAYS = 100, 2_304
_LONG_WAYS = 48
#: A part of at most so many characters is short.
_MAX_SHORT = 3
#: How often a repeat with a limit may repeat a short part, and a longer part, if the part varies in length.
_MAX_SHORT_COUNT, _MAX_LONG_COUNT = 48, 3
#: How often a repeat with a limit may repeat a part that may be empty.
_MAX_EMPTY = 3
#: If two parts share at most so many characters (operators and spaces, for example), few texts can be read in
#: many ways.
_FEW = 8


class Costly(Exception):
    """The engine would take too long. `problem` is about the element at position `at`, in characters."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at


def check_cost(rules: Mapping[str, Node], places: Mapping[str, int]) -> None:
    """Raise Costly if the engine would take too long for the rules, or if a rule matches no finite text.

    `rules` has every rule that is referred to, the root first. `places` has each rule's position in the
    grammar, in characters.
    """
    if sum(1 for rule in rules.values() for _ in walk(rule)) > _MAX_NODES:
        raise Costly(f"has more than {_MAX_NODES} elements", 0)
    shapes = _shapes(rules)
    for name in rules:
        if not shapes[name].productive:
            raise Costly(f"has the rule {name[:64]}, which no text that ends can follow", places[name])
    groups = _recursive_groups(rules)
    costs = _CostChecker(shapes, groups)
    for name, rule in rules.items():
        costs.check(rule, name, places[name])


def _shapes(rules: Mapping[str, Node]) -> dict[str, Shape]:
    """The shape of each rule: a fixed point, computed from "matches nothing" upwards."""
    shapes = dict.fromkeys(rules, Shape())
    order = list(rules)[::-1]
    groups = _recursive_groups(rules)
    after = {name: _after_leading_calls(rules[name], groups, groups[name]) for name in groups}
    for _ in range(_MAX_PASSES):
        changed = False
        for name in order:
            found = shape(rules[name], shapes)
            if name in groups and found.max_length:
                # A recursive rule has no longest text. After a call of itself, the rest of the rule follows.
                more = found.continuing
                for rest in after[name]:
                    more |= concatenation_shape([shape(part, shapes) for part in rest]).first
                found = Shape(found.productive, found.nullable, found.first, found.last, more, LONG)
            if found != shapes[name]:
                shapes[name], changed = found, True
        if not changed:
            return shapes
    raise Costly("has rules that are too entangled", 0)


def _after_leading_calls(rule: Node, groups: Mapping[str, int], group: int) -> list[Sequence[Node]]:
    """The parts that may follow a call of the rule's own group with which the rule begins."""
    following: list[Sequence[Node]] = []
    waiting = [rule]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Concatenation):
            waiting.extend(children(node))
            continue
        for index, part in enumerate(node.parts[:_MAX_OPTIONAL]):
            if _begins_with_call(part, groups, group):
                following.append(node.parts[index + 1 :][:_MAX_OPTIONAL])
            waiting.append(part)
            if not _is_optional(part):
                break
    return following


def _begins_with_call(node: Node, groups: Mapping[str, int], group: int) -> bool:
    """Whether a part may begin with a call of the group. Only optional repeats count as possibly empty."""
    match node:
        case RuleCall(rule):
            return groups.get(rule) == group
        case Concatenation(parts):
            for part in parts:
                if _begins_with_call(part, groups, group):
                    return True
                if not _is_optional(part):
                    return False
            return False
        case _:
            return any(_begins_with_call(part, groups, group) for part in children(node))


def _is_optional(node: Node) -> bool:
    return isinstance(node, Repeat) and node.least == 0


def _recursive_groups(rules: Mapping[str, Node]) -> dict[str, int]:
    """The recursive rules, each with the number of its group. Rules that call one another are one group.

    Finds strongly connected components, by Kosaraju's algorithm.
    """
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
    return list(dict.fromkeys(node.rule for node in walk(rule) if isinstance(node, RuleCall)))


class _CostChecker:
    """Checks rules one by one. The limits on wide classes and on counts are for all rules together."""

    def __init__(self, shapes: Mapping[str, Shape], groups: Mapping[str, int]) -> None:
        self._shapes = shapes
        self._groups = groups
        self._wide = 0
        self._counts = 0

    def check(self, rule: Node, name: str, at: int) -> None:
        group = self._groups.get(name)
        for node in walk(rule):
            match node:
                case CharacterClass(characters):
                    self._count_wide(1 if _more_than(characters, _WIDE) else 0, at)
                case Repeat():
                    self._check_repeat(node, group)
                case Concatenation(parts, place):
                    shapes = [shape(part, self._shapes) for part in parts]
                    self._check_neighbours(parts, shapes, place)
                    if group is not None:
                        self._check_recursion(parts, shapes, group, place)

    def _count_wide(self, cost: int, at: int) -> None:
        self._wide += cost
        if self._wide > _MAX_WIDE:
            raise Costly("has too many classes of most characters, or too great counts of them", at)

    def _check_repeat(self, node: Repeat, group: int | None) -> None:
        part = shape(node.part, self._shapes)
        most = node.most
        if most is not None and most > 1 and _more_than(part.first, _WIDE):
            self._count_wide(min(most, _COUNT_COST), node.at)
        self._counts += max(node.least, most or 0)
        if self._counts > _MAX_COUNT:
            raise Costly(f"has counts of more than {_MAX_COUNT} in all", node.at)
        if part.nullable and max(node.least, most or 0) > _MAX_EMPTY:
            raise Costly(f"counts to more than {_MAX_EMPTY} what may be empty", node.at)
        if most is not None and most <= 1:
            return
        self._check_boundary(part, part.first, node.at, most)
        within = group is not None and all(self._at_edge(node.part, group, edge) for edge in (0, -1))
        alike = part.continuing & part.first
        if within and alike and (alike == part.first or alike & part.last or _more_than(alike, _FEW)):
            raise Costly("repeats a rule within itself, with nothing between that must be there", node.at)

    def _check_boundary(self, part: Shape, following: int, at: int, most: int | None = None) -> None:
        """Refuse a part that is followed by a repeat of itself if the boundary between the two is unclear.

        `following` are the characters that the next repeat begins with; `most` is the limit of the repeats.
        """
        alike = part.continuing & following
        few = not _more_than(alike, _FEW)
        short = part.max_length <= _MAX_SHORT
        if not alike or (most is None and few and short):
            return
        if most is not None and few:
            if most > (_MAX_SHORT_COUNT if short else _MAX_LONG_COUNT):
                raise Costly(f"repeats up to {most} times what varies itself", at)
        elif (not few and _more_than(part.last, _FEW)) or (
            alike in (following, part.first) and alike & part.last
        ):
            raise Costly(
                "repeats what varies itself, and nothing says where one ends and the next begins", at
            )

    def _check_neighbours(self, parts: Sequence[Node], shapes: Sequence[Shape], at: int) -> None:
        before = EMPTY
        ways = optional = 1
        begun = 0
        for part, here in zip(parts, shapes, strict=True):
            alike = before.continuing & here.first
            spread = self._length_count(part, here)
            if _is_repeated_class(part):
                # The engine compiles a repeated class and its neighbours to one automaton.
                spread = min(spread, 2)
            if alike and not _more_than(alike, _FEW):
                spread = 1
            ways = ways * spread if alike else spread if not here.nullable else max(ways, spread)
            if ways > (_MAX_WIDE_WAYS if _more_than(alike, _WIDE) else _MAX_WAYS):
                raise Costly("has elements side by side that could share out a text in too many ways", at)
            if here.nullable and isinstance(part, Repeat) and part.most == 1:
                optional = optional + 1 if begun & here.first else 1
                begun |= here.first
                if optional > (_MAX_WIDE_OPTIONAL if _more_than(here.first, 1) else _MAX_OPTIONAL):
                    raise Costly("has too many optional elements one after the other that begin alike", at)
            elif not here.nullable:
                optional, begun = 1, 0
            before = concatenation_shape([before, here])

    def _length_count(self, node: Node, here: Shape) -> int:
        """About how many different lengths the texts of a part have."""
        if not here.continuing and not here.nullable:
            return 1
        if (
            isinstance(node, Repeat)
            and node.most is not None
            and shape(node.part, self._shapes).max_length <= 1
        ):
            return min(node.most - node.least + 1, LONG)
        return min(here.max_length, _LONG_WAYS)

    def _check_recursion(self, parts: Sequence[Node], shapes: Sequence[Shape], group: int, at: int) -> None:
        """Check calls of the rule's own group in a concatenation: at either end, they act as repeats."""
        starts = list(
            accumulate(shapes, lambda left, right: concatenation_shape([left, right]), initial=EMPTY)
        )
        rests = list(
            accumulate(
                reversed(shapes), lambda right, left: concatenation_shape([left, right]), initial=EMPTY
            )
        )[::-1]
        ending: int | None = None
        for index, part in enumerate(parts):
            if ending is not None and self._at_edge(part, group, 0):
                between = concatenation_shape(list(shapes[ending + 1 : index]))
                if between.nullable and shapes[ending].continuing & shapes[index].first:
                    raise Costly(
                        "has a rule twice within itself, with nothing between that must be there", at
                    )
                if _more_than(shapes[ending].continuing & between.first, _FEW):
                    raise Costly("has a rule twice within itself, and what is between is no separator", at)
            if self._at_edge(part, group, -1):
                ending = index
        for index, part in enumerate(parts):
            begins, ends = self._at_edge(part, group, 0), self._at_edge(part, group, -1)
            start, rest = starts[index], rests[index + 1]
            if ends and rest.nullable and index:
                self._check_boundary(start, shapes[index].first, at)
            if begins and start.nullable and index + 1 < len(parts):
                self._check_boundary(rest, rest.first, at)
            before = begins and _more_than(start.continuing & shapes[index].first, _FEW)
            shared = shapes[index].continuing & rest.first
            after = (
                ends and not start.nullable and bool(_more_than(shared, _FEW) or (shared and rest.nullable))
            )
            if before or after:
                raise Costly("has a rule within itself, and what is beside it could be part of it", at)

    def _at_edge(self, node: Node, group: int, edge: int) -> bool:
        """Whether a part may begin (`edge` 0) or end (`edge` -1) with a call of the group."""
        match node:
            case RuleCall(rule):
                return self._groups.get(rule) == group
            case Concatenation(parts):
                for part in parts if edge == 0 else reversed(parts):
                    if self._at_edge(part, group, edge):
                        return True
                    if not shape(part, self._shapes).nullable:
                        return False
                return False
            case Alternatives() | Repeat():
                return any(self._at_edge(part, group, edge) for part in children(node))
            case _:
                return False


def _is_repeated_class(node: Node) -> bool:
    return isinstance(node, Repeat) and node.most is None and isinstance(node.part, CharacterClass)


def _more_than(characters: int, limit: int) -> bool:
    return characters.bit_count() > limit
