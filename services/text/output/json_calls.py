"""Reads calls that are JSON objects with a name and arguments, and arguments that are JSON.

Does not find where a call begins: `parser` and `call_markers` do.
"""

from collections.abc import Callable

from inferd.services.text.output.format_types import JsonCalls
from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.json_strings import StringDecoder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

# Other keys that an object may begin with if it is a call without a marker.
_OTHER_FIRST_KEYS = ("id", "type")


def read_json_calls(state: ParserState, layout: JsonCalls, *, marked: bool) -> Steps[None]:
    """Read one or more calls: an object, an array of objects, or objects one after the other.

    `marked`: a marker comes before them; then an array may be empty. Raises Malformed at text that is no
    call; the calls before that text have ended.
    """
    buffer = state.buffer
    yield from buffer.skip_spaces()
    in_array = bool((yield from buffer.accept("[")))
    if in_array and marked:
        yield from buffer.skip_spaces()
        if (yield from buffer.accept("]")):
            buffer.hold()
            return
    while True:
        yield from buffer.skip_spaces()
        yield from read_json_call(state, layout, marked=marked)
        yield from buffer.skip_spaces()
        mark = yield from buffer.accept(*("]," if in_array else ";,"))
        if in_array and mark == "]":
            buffer.hold()
            return
        if not in_array:
            yield from buffer.skip_spaces()
            char = yield from buffer.peek()
            if mark and not char:  # the text ends after a separator
                buffer.hold()
                return
            mark = "{" if char == "{" else ""
        if not mark:  # the text that follows belongs to no call
            buffer.rewind()
            return


def read_json_call(state: ParserState, layout: JsonCalls, *, marked: bool) -> Steps[None]:
    """Read one call. Without a marker, an object is a call only if its name is that of a function.

    Raises Malformed. The call is still open then if its name was read and its arguments are incomplete.
    """
    yield from _JsonCallReader(state, layout, marked).read()


class _JsonCallReader:
    """Reads one object, whose keys may come in any order: name, arguments, and others, which are skipped."""

    __slots__ = ("_complete", "_held", "_keys", "_layout", "_marked", "_name", "_state")

    def __init__(self, state: ParserState, layout: JsonCalls, marked: bool) -> None:
        self._state, self._layout, self._marked = state, layout, marked
        self._name = ""
        self._held: list[str] = []  # arguments that came before the name
        self._complete: bool | None = None  # whether the arguments are an object; None: not read yet
        self._keys = 0

    def read(self) -> Steps[None]:
        buffer, writer = self._state.buffer, self._state.writer
        calls_before = writer.call_count
        if not (yield from buffer.accept("{")):
            raise Malformed
        try:
            mark = ","
            while mark == ",":
                yield from buffer.skip_spaces()
                yield from self._member()
                yield from buffer.skip_spaces()
                mark = yield from buffer.accept(",", "}")
        except Malformed:
            if not writer.in_call or self._complete is None:
                raise
            mark = ""  # the arguments are complete: the malformed text is not part of the call
        if not writer.in_call and self._name and mark and (self._marked or self._keys == 1):
            self._state.begin_call(self._name)
        if writer.in_call:
            if self._complete is None:
                if not mark:
                    raise Malformed
                writer.arguments("{}")
            self._state.end_call(complete=self._complete is not False)
        elif writer.call_count == calls_before:
            raise Malformed

    def _member(self) -> Steps[None]:
        buffer, layout = self._state.buffer, self._layout
        key = yield from buffer.read_string()
        if not self._keys and not self._marked and key not in self._first_keys:
            raise Malformed
        yield from buffer.expect((":",))
        yield from buffer.skip_spaces()
        self._keys += 1
        if layout.keyed_by_name:
            yield from self._entry(key)
        elif key in layout.name_keys and not self._name:
            yield from self._read_name()
        elif key in layout.arguments_keys and self._complete is None:
            yield from self._arguments()
        else:
            yield from buffer.read_json(_ignore)

    @property
    def _first_keys(self) -> tuple[str, ...]:
        return (*self._layout.name_keys, *self._layout.arguments_keys, *_OTHER_FIRST_KEYS)

    def _entry(self, name: str) -> Steps[None]:
        if not name:
            raise Malformed
        self._state.begin_call(name)
        complete = yield from read_arguments(self._state.buffer, self._state.writer.arguments)
        self._state.end_call(complete=complete)

    def _read_name(self) -> Steps[None]:
        self._name = yield from self._state.buffer.read_string()
        if not self._name or not (self._marked or self._name in self._state.functions):
            raise Malformed
        if self._marked or self._complete is not None:
            self._state.begin_call(self._name)
            self._state.writer.arguments("".join(self._held))

    def _arguments(self) -> Steps[None]:
        buffer, writer = self._state.buffer, self._state.writer
        if not self._name:
            self._complete = yield from read_arguments(buffer, self._held.append)
            return
        if not writer.in_call:
            if (yield from buffer.peek()) not in ("{", '"', "n"):
                raise Malformed
            self._state.begin_call(self._name)
        self._complete = yield from read_arguments(buffer, writer.arguments)


def _ignore(text: str) -> None:
    pass


def read_arguments(buffer: TextBuffer, write: Callable[[str], None]) -> Steps[bool]:
    """Read arguments, and write them as JSON text: an object as it is, a string that holds JSON decoded, and
    null as {}.

    Returns whether the arguments are an object. Raises Malformed if the value is incomplete or no JSON.
    """
    char = yield from buffer.peek()
    if char == "{":
        yield from buffer.read_json(write)
        return True
    if char == '"':
        return (yield from _quoted_arguments(buffer, write))
    if not (yield from buffer.accept("null")):
        raise Malformed
    write("{}")
    return True


def _quoted_arguments(buffer: TextBuffer, write: Callable[[str], None]) -> Steps[bool]:
    decoder, inside = StringDecoder(), JsonScanner()
    head = ""  # the first character of the decoded text that is no whitespace

    def write_decoded(text: str) -> None:
        nonlocal head
        if text:
            head = head or text.lstrip()[:1]
            rest = text[inside.scan(text, 0) :]
            inside.broken = inside.broken or bool(rest.strip())
            write(text)

    outside = JsonScanner()
    begun = False
    while not outside.done:
        piece = buffer.take(outside.scan(buffer.text, buffer.position))
        if piece and not begun:
            begun, piece = True, piece[1:]
        write_decoded(decoder.decode(piece[:-1] if outside.done else piece))
        if not outside.done:
            if buffer.ended:
                buffer.hit_end = True
                raise Malformed
            yield
    write_decoded(decoder.decode("", ended=True))
    if not head:
        write("{}")
        return True
    return head == "{" and inside.done and not inside.broken
