"""Who may have one more connection: pure.

An address may hold as many as are still free, and no more. Alone it gets half of all; however many greedy ones there
are, a newcomer finds room. There is no list of exceptions to keep: a proxy in front, or this machine itself, is an
address like others.
"""


class Places:
    """`most` connections in all, counted by address (`control.api.slowdown.block_of`)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._by: dict[bytes, int] = {}

    def take(self, block: bytes) -> str:
        """One more for `block`; why not, or an empty string."""
        own, free = self._by.get(block, 0), self._most - self._taken
        if free <= 0:
            return "every connection that this API takes is in use"
        if own >= free:
            return f"your address has {own} connections to this API, and others are to find room"
        self._by[block] = own + 1
        self._taken += 1
        return ""

    def give(self, block: bytes) -> None:
        """A connection that was taken has ended."""
        self._taken -= 1
        self._by[block] -= 1
        if not self._by[block]:
            del self._by[block]
