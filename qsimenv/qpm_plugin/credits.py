"""Credits: what keeps applications that share the ranks from starving each other (a value, used by ``scheduler``).

A task takes credits by its estimated cost, in rank-seconds, when it starts, and gives them back when it ends. An
application that has spent its credits starts further tasks only on ranks that nobody with credits waits for: no rank
idles because of them. Among the others the one with the most credits left goes first, so that how long its next task
waits does not hang on how much others have queued (the credit bound queues of the paper that the system comes from,
section 5.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field

CREDIT_SECONDS = 1.0
"""The credits of an application: so many seconds of all ranks."""


@dataclass
class Credits:
    """Rank-seconds in use by application; ``seconds`` of all ranks are what each may use, 0: no credits, no order."""

    seconds: float = CREDIT_SECONDS
    in_use: dict[str, float] = field(default_factory=dict)

    def take(self, application: str, rank_seconds: float) -> None:
        self.in_use[application] = self.in_use.get(application, 0.0) + rank_seconds

    def give_back(self, application: str, rank_seconds: float) -> None:
        left = self.in_use.get(application, 0.0) - rank_seconds
        if left > 1e-9:
            self.in_use[application] = left
        else:
            self.in_use.pop(application, None)

    def clear(self) -> None:
        """Nothing runs any more."""
        self.in_use.clear()

    def rank(self, application: str, size: int) -> tuple[bool, float]:
        """What to order applications by, the smallest first: spent or not, and the share of ``size`` ranks' credits in
        use."""
        if not self.seconds or not size:
            return False, 0.0
        share = self.in_use.get(application, 0.0) / (self.seconds * size)
        return share >= 1.0, share

    def wait_bound_s(self, others: int, longest_s: float) -> float:
        """How long the next task of an application with credits waits at most beside so many other applications.

        ``longest_s``: the longest task, or bundle of small ones, of any of them. Its own tasks end after that long, and
        then nobody has more credits left. Each of the others that has as many may start one task before it, and the
        ranks that it needs are free when the task on them ends. Infinite without credits.
        """
        return (2 + others) * longest_s if self.seconds else float("inf")
