"""A step of a stream, which its items pass one of two ways: pulled by who waits for them, or pushed on."""

from collections.abc import Callable
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Stage(Generic[In, Out]):
    """Makes what goes on of what comes: `make` gives None where that is nothing yet.

    `send` takes what is pushed on; None: all is pulled. It may refuse (False): then that item has to come
    again by `pull`, which knows what was made of it. `make` is called once an item.
    """

    __slots__ = ("_make", "_refused", "send")

    def __init__(self, make: Callable[[In], Out | None]) -> None:
        self._make = make
        self._refused: Out | None = None
        self.send: Callable[[Out], bool] | None = None

    def push(self, item: In) -> bool:
        """Pass it on. False: it has to be pulled."""
        send = self.send
        if send is None:
            return False
        made = self._make(item)
        if made is None or send(made):
            return True
        self._refused = made
        return False

    def pull(self, item: In) -> Out | None:
        """What goes on of it."""
        refused, self._refused = self._refused, None
        return refused if refused is not None else self._make(item)
