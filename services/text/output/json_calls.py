"""Reads calls that are JSON objects with a name and arguments, and arguments that are JSON.

Where such calls may stand is the parser's.
"""

from collections.abc import Callable

from inferd.services.text.output.description import JsonCalls
from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.strings import StringDecoder

# Keys that an unmarked object may begin with and still be a call.
_OTHER_FIRST_KEYS = ("id", "type")


def read_json_calls(reader: Reader, layout: JsonCalls, *, marked: bool) -> Steps[None]:
    """Reads one call or more: an object, an array of objects (of none, after a marker), or objects one after
    the other.

    Raises `Malformed` at what is none; calls before it have ended by then.
    """
    source = reader.source
    yield from source.spaces()
    in_array = bool((yield from source.literal("[")))
    if in_array and marked:
        yield from source.spaces()
        if (yield from source.literal("]")):
            source.hold()
            return
    while True:
        yield from source.spaces()
        yield from read_object(reader, layout, marked=marked)
        yield from source.spaces()
        mark = yield from source.literal(*("]," if in_array else ";,"))
        if in_array and mark == "]":
            source.hold()
            return
        if not in_array:
            yield from source.spaces()
            char = yield from source.peek()
            if mark and not char:  # the text ended before the next one
                source.hold()
                return
            mark = "{" if char == "{" else ""
        if not mark:  # what follows is none of the calls'
            source.return_to_held()
            return


def read_object(reader: Reader, layout: JsonCalls, *, marked: bool) -> Steps[None]:
    """Reads one call. Unmarked, it is one only where the name is a function's.

    Raises `Malformed`, with the call open where it was announced and its arguments are not all there.
    """
    yield from _Object(reader, layout, marked).read()


class _Object:
    """One object while it is read: a name, arguments, and what else it has."""

    __slots__ = ("_complete", "_held", "_keys", "_layout", "_marked", "_name", "_reader")

    def __init__(self, reader: Reader, layout: JsonCalls, marked: bool) -> None:
        self._reader, self._layout, self._marked = reader, layout, marked
        self._name = ""
        self._held: list[str] = []  # arguments that came before the name
        self._complete: bool | None = None  # whether the arguments, once there, are an object
        self._keys = 0

    def read(self) -> Steps[None]:
        source, writer = self._reader.source, self._reader.writer
        calls_before = writer.count
        if not (yield from source.literal("{")):
            raise Malformed
        try:
            mark = ","
            while mark == ",":
                yield from source.spaces()
                yield from self._member()
                yield from source.spaces()
                mark = yield from source.literal(",", "}")
        except Malformed:
            if not writer.open or self._complete is None:
                raise
            mark = ""  # what is broken is not the call's
        if not writer.open and self._name and mark and (self._marked or self._keys == 1):
            self._reader.begin(self._name)
        if writer.open:
            if self._complete is None:
                if not mark:
                    raise Malformed
                writer.arguments("{}")
            self._reader.end(complete=self._complete is not False)
        elif writer.count == calls_before:
            raise Malformed

    def _member(self) -> Steps[None]:
        source, layout = self._reader.source, self._layout
        key = yield from source.string()
        if not self._keys and not self._marked and key not in self._first_keys:
            raise Malformed
        yield from source.words((":",))
        yield from source.spaces()
        self._keys += 1
        if layout.keyed_by_name:
            yield from self._entry(key)
        elif key in layout.name_keys and not self._name:
            yield from self._read_name()
        elif key in layout.arguments_keys and self._complete is None:
            yield from self._arguments()
        else:
            yield from source.json(_ignore)

    @property
    def _first_keys(self) -> tuple[str, ...]:
        return (*self._layout.name_keys, *self._layout.arguments_keys, *_OTHER_FIRST_KEYS)

    def _entry(self, name: str) -> Steps[None]:
        if not name:
            raise Malformed
        self._reader.begin(name)
        complete = yield from read_arguments(self._reader.source, self._reader.writer.arguments)
        self._reader.end(complete=complete)

    def _read_name(self) -> Steps[None]:
        self._name = yield from self._reader.source.string()
        if not self._name or not (self._marked or self._name in self._reader.functions):
            raise Malformed
        if self._marked or self._complete is not None:
            self._reader.begin(self._name)
            self._reader.writer.arguments("".join(self._held))

    def _arguments(self) -> Steps[None]:
        source, writer = self._reader.source, self._reader.writer
        if not self._name:
            self._complete = yield from read_arguments(source, self._held.append)
            return
        if not writer.open:
            if (yield from source.peek()) not in ("{", '"', "n"):
                raise Malformed
            self._reader.begin(self._name)
        self._complete = yield from read_arguments(source, writer.arguments)


def _ignore(text: str) -> None:
    pass


def read_arguments(source: Source, write: Callable[[str], None]) -> Steps[bool]:
    """Reads arguments: a JSON object verbatim, a string that holds one decoded, or null as none.

    Returns whether they are an object; raises `Malformed` where what stands there does not even end.
    """
    char = yield from source.peek()
    if char == "{":
        yield from source.json(write)
        return True
    if char == '"':
        return (yield from _quoted_arguments(source, write))
    if not (yield from source.literal("null")):
        raise Malformed
    write("{}")
    return True


def _quoted_arguments(source: Source, write: Callable[[str], None]) -> Steps[bool]:
    decoder, inside = StringDecoder(), JsonScanner()
    head = ""  # what the text begins with, spaces aside

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
        piece = source.take(outside.scan(source.text, source.position))
        if piece and not begun:
            begun, piece = True, piece[1:]
        write_decoded(decoder.decode(piece[:-1] if outside.done else piece))
        if not outside.done:
            if source.ended:
                source.cut = True
                raise Malformed
            yield
    write_decoded(decoder.decode("", ended=True))
    if not head:
        write("{}")
        return True
    return head == "{" and inside.done and not inside.broken
