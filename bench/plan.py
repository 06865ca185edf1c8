"""How much is measured: all of it for RESULTS.md, or little of it to try the benchmark out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The extent of one run."""

    rounds: int  # times that each engine does each set of texts
    starts: int  # times that each service is started
    visits: int  # times that each service is asked everything
    visit_tokens: int  # tokens that a visit sends, about: each client sends at least one request
    requests_per_client: int  # most requests of one client in a visit
    clients: tuple[int, ...]
    batches: tuple[int, ...]  # texts in a request
    lengths: tuple[str, ...]  # keys of `LENGTHS`
    bertscore_batches: tuple[int, ...]  # pairs in a request
    bertscore_lengths: tuple[str, ...]


# Tokens of a text for each class of length; None: mixed.
LENGTHS: dict[str, int | None] = {"short": 12, "medium": 60, "long": 256, "mixed": None}

FULL = Plan(
    rounds=15,
    starts=5,
    visits=3,
    visit_tokens=10_000,
    requests_per_client=40,
    clients=(1, 4),
    batches=(1, 8, 32, 100),
    lengths=("short", "medium", "long", "mixed"),
    bertscore_batches=(8, 100),
    bertscore_lengths=("medium", "mixed"),
)

QUICK = Plan(
    rounds=2,
    starts=1,
    visits=1,
    visit_tokens=500,
    requests_per_client=4,
    clients=(1, 4),
    batches=(1, 32),
    lengths=("short", "mixed"),
    bertscore_batches=(8,),
    bertscore_lengths=("mixed",),
)
