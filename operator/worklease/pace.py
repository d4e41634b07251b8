"""The one token bucket, and the one fair queue: how often something may be done, and for whom next.

Owns the formula, and the order. Each caller names its own rate and burst, with their reasons, and reads its own clock.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class TokenBucket:
    """Tokens that come at a steady rate, up to a burst; the bucket is full at first.

    Args:
        rate: Tokens a second.
        burst: Tokens that the bucket holds at most.
        now: The time, in monotonic seconds, as in all its methods.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._level, self._at = rate, burst, burst, now

    def change(self, rate: float, burst: float, now: float) -> None:
        """Have the tokens come at another rate, up to another burst, from now on."""
        self.wait(now)
        self._rate, self._burst, self._level = rate, burst, min(self._level, burst)

    def wait(self, now: float) -> float:
        """Return the seconds until the next whole token; take none."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._level) / self._rate)

    def take(self) -> None:
        """Take a token; one that has not come yet is taken in advance, and the next ones come later."""
        self._level -= 1.0

    def reserve(self, now: float) -> float:
        """Take the next token, and return the seconds until it comes."""
        wait = self.wait(now)
        self.take()
        return wait


def _anybody(_: str) -> bool:
    return True


class FairQueue(Generic[Item]):
    """What waits for its turn: in the order in which it came, but by turns between its owners.

    So an owner with very much to do delays another one by no more than one item, and an owner that is alone loses
    nothing.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, OrderedDict[Item, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._length

    def put(self, owner: str, item: Item) -> None:
        """Add an item; one that waits already keeps its place."""
        waiting = self._waiting.setdefault(owner, OrderedDict())
        if item not in waiting:
            waiting[item] = None
            self._length += 1

    def take(self, is_free: Callable[[str], bool] = _anybody) -> tuple[str, Item] | None:
        """Remove the next item and return it with its owner, of the owners that are free; None if there is none."""
        for owner, waiting in self._waiting.items():
            if is_free(owner):
                item, _ = waiting.popitem(last=False)
                self._length -= 1
                self._waiting.move_to_end(owner)
                self._clear(owner)
                return owner, item
        return None

    def drop(self, owner: str, item: Item) -> None:
        """Remove an item, if it waits."""
        waiting = self._waiting.get(owner)
        if waiting is not None and item in waiting:
            del waiting[item]
            self._length -= 1
            self._clear(owner)

    def drop_newest_of_most(self) -> None:
        """Remove the newest item of the owner of which most wait."""
        owner = max(self._waiting, key=lambda each: len(self._waiting[each]))
        self._waiting[owner].popitem()
        self._length -= 1
        self._clear(owner)

    def _clear(self, owner: str) -> None:
        """Forget an owner of whom nothing waits."""
        if not self._waiting[owner]:
            del self._waiting[owner]
