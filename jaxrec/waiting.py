"""Work that takes long tells how far it is to whoever listens: a run shows it, and a library call stays silent."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]
"""``(what is done, how many are done, of how many)``; the last call has them all done."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Lets ``listener`` be told inside, in place of who listens outside."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(text: str, done: int, total: int) -> None:
    """Says that ``done`` of ``total`` pieces of some work are done."""
    if _listeners:
        _listeners[-1](text, min(done, total), total)


def counted(items: Iterable[Item], text: str, total: int, each: int = 1) -> Iterator[Item]:
    """The items, counted while they are taken: each stands for ``each`` of ``total``."""
    tell(text, 0, total)
    for number, item in enumerate(items, 1):
        tell(text, number * each, total)
        yield item
    tell(text, total, total)
