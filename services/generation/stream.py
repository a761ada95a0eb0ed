"""What is iterated over and has to be closed: asynchronous generators, and classes that stand for one.

Several of them lie one upon the other in each generation. Of a class, an item costs a coroutine and no more.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol, TypeVar

Item_co = TypeVar("Item_co", covariant=True)


class Stream(Protocol[Item_co]):
    """Its user closes it, whatever happened: that ends the work that makes its items. One that has raised, or
    was closed, has no more of them."""

    def __aiter__(self) -> AsyncIterator[Item_co]: ...

    def __anext__(self) -> Awaitable[Item_co]: ...

    async def aclose(self) -> None:
        """Idempotent."""
        ...
