"""The cells of the main table: the requests, their pace, and how long they are measured."""

from dataclasses import dataclass

from benchmarks.suite.front import Asked


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load. The CPU time of a front is divided by its number of `unit`s: "token" or "request"."""

    name: str
    asked: Asked
    unit: str
    #: Whether slow fronts are measured in this cell, too.
    for_slow: bool = True


#: Tokens a second of each stream, by the number of streams. All streams together have about 10,000 tokens a
#: second at most, because the slower Rust front is then far from saturated on one core.
PACE = {1: 500.0, 8: 250.0, 32: 100.0, 128: 50.0, 256: 40.0, 512: 20.0, 1000: 10.0}


def stream(streams: int, seconds: float, *, grpc: bool = False, chat: bool = False) -> Cell:
    """Streams of 100 tokens, at the pace for their number."""
    asked = Asked(streams, PACE[streams], seconds, grpc=grpc, chat=chat)
    return Cell(f"{_kind(grpc, chat)} stream, {streams}", asked, "token", for_slow=streams <= 32)


def saturation(seconds: float, *, grpc: bool = False, streams: int = 256) -> Cell:
    """Streams of 100 tokens, as fast as the front takes them."""
    name = f"{'gRPC' if grpc else 'REST'} saturated, {streams}"
    return Cell(name, Asked(streams, 0, seconds, grpc=grpc), "token")


def unary(
    seconds: float, *, grpc: bool = False, chat: bool = False, prompt_tokens: int = 20, at_once: int = 32
) -> Cell:
    """Whole answers of 10 tokens, `at_once` at a time, each at 100 tokens a second."""
    prompt = f", prompt of {prompt_tokens}" if prompt_tokens > 20 else ""
    asked = Asked(
        at_once, 100, seconds, streamed=False, tokens=10, prompt_tokens=prompt_tokens, grpc=grpc, chat=chat
    )
    return Cell(f"{_kind(grpc, chat)} unary, {at_once}{prompt}", asked, "request")


def _kind(grpc: bool, chat: bool) -> str:
    return ("gRPC" if grpc else "REST") + (" chat" if chat else "")


def main_cells(quick: bool) -> list[Cell]:
    """The cells, in the order in which they are measured."""
    short, long = (1.5, 2.0) if quick else (3.0, 6.0)
    cells = [
        stream(1, long),
        stream(32, short),
        stream(256, short),
        saturation(short),
        unary(short),
        stream(32, short, chat=True),
        unary(short, chat=True),
        stream(1, long, grpc=True),
        stream(32, short, grpc=True),
        stream(256, short, grpc=True),
    ]
    if not quick:
        cells += [
            unary(short, prompt_tokens=4000, at_once=8),
            saturation(short, grpc=True),
            unary(short, grpc=True),
        ]
    return cells
