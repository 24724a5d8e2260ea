"""When to spin before sleeping.

Waking a process that sleeps costs 10 us on a busy machine and 50 us on one whose
processors have gone idle; a short spin saves that when news comes soon, as between
the calls of a loop of small calls. When it does not, spinning must cost nothing:
after each vain spin, twice as many waits go by without one.
"""

from __future__ import annotations

from cypar.core.cpu import cpu_count

SPIN_NS = 100_000  # two wake-ups of an idle processor
MAX_SKIPPED = 63


class Backoff:
    """Tells for each wait whether to spin first."""

    def __init__(self):
        self._skip = 0
        self._vain = 0
        self._alone = cpu_count() < 2  # who would bring the news while we spin?

    def due(self):
        """Whether to spin now."""
        if self._skip:
            self._skip -= 1
            return False
        return not self._alone

    def note(self, worked):
        """Note whether a spin brought news."""
        self._vain = 0 if worked else min(2 * self._vain + 1, MAX_SKIPPED)
        self._skip = self._vain
