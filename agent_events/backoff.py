"""How long to wait before the next try."""

import random


class Backoff:
    """Full-jitter exponential backoff: many processes that fail together do not return together."""

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._tries = 0

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        ceiling = min(self._most_s, self._first_s * 2 ** min(self._tries, 20))
        self._tries += 1
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - not a secret

    def reset(self) -> None:
        """It worked."""
        self._tries = 0
