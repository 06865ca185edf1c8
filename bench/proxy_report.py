"""The comparison of proxies as Markdown, for the terminal and for PROXY_RESULTS.md alike."""

from collections.abc import Sequence
from datetime import date

import proxy_plan
from contenders import OURS, THREADS
from proxies import Run
from proxy_batches import EACH, FIXED, SMALL_EACH, SMALL_FIXED, TEXTS
from proxy_memory import WORK_SECONDS
from proxy_plan import ATTEMPT_SECONDS, FAULT_RATE, HOSTS, MEAN_SECONDS, SLOTS, UNEQUAL_LOAD, Plan
from proxy_rig import ALL, Outcomes, Row
from report import number, table

# Closer than this is called equal: it is within what two runs differ by.
EQUAL = 0.02


def document(
    machine: dict[str, str],
    versions: dict[str, str],
    plan: Plan,
    rows: Sequence[Row],
    outcomes: Outcomes,
    pool: str | None,
) -> str:
    """All of PROXY_RESULTS.md."""
    sections = [
        "# Benchmark of the proxy",
        f"Measured on {date.today().isoformat()} by `make bench-proxy`, which writes this file. It "
        "builds the binaries as they are shipped and puts gpu-bridge, nginx and HAProxy in front "
        "of simulated GPU hosts (`bench/load`). What counts is how they compare: absolute times "
        "are those of this machine on that day. `make bench-proxy QUICK=1` tries everything out "
        "and writes nothing.",
        "## Machine and versions",
        table(("", ""), [*machine.items(), *versions.items()]),
        method(plan),
        results(rows),
        details(outcomes),
    ]
    if pool:
        sections.append(pool_section(pool))
    return "\n\n".join(sections)


def method(plan: Plan) -> str:
    small, big, core = plan.small, plan.big, plan.one_core
    start, end = plan.fault_seconds
    every = proxy_plan.capacity(proxy_plan.speeds(unequal=False))
    return "\n\n".join(
        [
            "## How it is measured",
            f"Every proxy: {THREADS} threads or workers, {ATTEMPT_SECONDS} s for an attempt, no "
            "line for each request but where it says so; else gpu-bridge with its defaults and "
            "its peers as their manuals recommend for this job (`bench/contenders.py`). nginx "
            "runs with `max_fails=0` and, where failures matter, with `max_fails=3` too.",
            f"*Costs.* Hosts answer at once. Small requests: {small.body_bytes} bytes in, "
            f"{small.answer_bytes} out, {small.connections} connections, {small.requests} "
            f"requests a round. Big bodies: {big.body_bytes / (1 << 20):.0f} MiB in, "
            f"{big.answer_bytes / 1e6:.1f} MB out, {big.connections} connections, {big.requests} "
            f"requests a round. CPU time is that of all of a proxy's processes, the median of "
            f"{big.rounds} rounds in which the proxies take turns; memory is what is resident at "
            "the highest.",
            f"*One core* is the price alone, without threads that wake each other: one worker on a "
            "core of its own; the load, and an nginx that answers at once in place of the host, on "
            f"another one. {core.body_bytes} bytes in, {core.answer_bytes} out, {core.connections} "
            f"connections, {core.requests} requests a round. *TLS* and *HTTP/2* (by TLS) are the "
            "same on kept connections, one request at a time on each; *a handshake each* closes "
            "its connection after every request and resumes no session. *One client*: the median "
            "time of requests that come one after the other, less that of asking the host itself.",
            f"*Memory.* What is resident, of all of a proxy's processes. *Idle connections* have "
            "been answered once each and stay open. *Waiting requests* are all there at once, with "
            f"their bodies, for as long as the {WORK_SECONDS} s that each takes on a host: the "
            "highest figure meanwhile, and what is left some seconds after the last answer, as a "
            "multiple of what it was after the first 2,000 small requests. HAProxy does not hold "
            "bodies.",
            "Where there is a *target*, the last column says how much of it ours is: up to 1 it is "
            "met, or from 1 on where more is better. Columns of other peers are there if they were "
            "asked for (`PEERS`), in the scene on one core only.",
            f"*Waiting and failing.* {HOSTS} hosts of {SLOTS} slots, on which a request takes "
            f"{MEAN_SECONDS * 1e3:.0f} ms on average (lognormal, standard deviation half of that); "
            "a host that is full refuses after 1 s with 503, as the Python service does. Requests "
            "come at random times (Poisson), whether or not earlier ones are done; clients don't "
            "repeat what is refused. All proxies are measured at the same time, each with hosts "
            "of its own, with the same requests at the same times and the same work in each. "
            f"Loads are multiples of the {every:.0f} requests a second that the hosts can do. "
            f"Unequal hosts: one has a quarter of the speed, the load is {UNEQUAL_LOAD} of what "
            f"they can do. One broken host: {FAULT_RATE:.0f} requests a second, broken from "
            f"second {start:.0f} to {end:.0f}: *killed* (connections closed, new ones refused), "
            "*hang* (takes everything, answers nothing, health neither), *errors* (500 at once), "
            "*mid-body* (dies halfway through each answer), *foreign* (somebody else holds all "
            "of its slots).",
            "*On one pool*: so many of ours in front of the same hosts, which know nothing of each "
            "other, each with clients of its own and an equal share of the load.",
            f"*Batches.* Hosts of one slot, on which an answer takes {seconds(FIXED)} and "
            f"{seconds(EACH)} for each text, and depends on the texts: an answer to another "
            "question counts as wrong. *Ideal* is when all parts end together. The clients of one "
            f"text each ask two hosts of {SLOTS} slots, {seconds(SMALL_FIXED)} and "
            f"{seconds(SMALL_EACH)}, about as the Python service takes for short texts on one "
            f"core. Mixed sizes: 1 to {TEXTS} texts, on {HOSTS} hosts of {SLOTS} slots. The "
            f"proxies take turns, each after {plan.batches.acquaint} requests of several sizes, "
            "from which ours learns what hosts take.",
            "*Efficiency* is the work (time in slots) in good answers per second, from the first "
            "request to the end of the last, as a share of what an ideal proxy reaches with the "
            "same requests. The ideal is computed: one central queue, first come, first served, "
            "no limit to waiting, no overhead. It ends with slots that find no more work, and so "
            "one that refuses many can pass 1.",
            "Answers are good if the status is 200, the host got the whole request, and every "
            "byte of the answer is right. Latencies run from when a request was due; they are "
            "held against those of peers that served as many (within 1 %), since who refuses "
            "the rest is quick with the others.",
        ]
    )


def seconds(value: float) -> str:
    return f"{value * 1e3:g} ms"


def results(rows: Sequence[Row]) -> str:
    others = (name for row in rows for name in row.values if name not in ALL)
    names = (*ALL, *dict.fromkeys(others))
    head = ("scenario", "measure", *names, "ours / best peer", "ours is", "ours / target")
    return "## Results\n\n" + table(head, [result_row(row, names) for row in rows])


def result_row(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    values = (number(row.values[name]) if name in row.values else "" for name in names)
    return (row.scenario, row.measure, *values, *comparison(row), against(row))


def against(row: Row) -> str:
    """Ours as a multiple of each goal: up to 1 it is met."""
    ours = row.values[OURS]
    return "; ".join(f"{ours / goal.limit:.2f} ({goal.text})" for goal in row.goals)


def comparison(row: Row) -> tuple[str, str]:
    """Ours as a multiple of the best peer's, and whether that is good."""
    peers = [row.values[name] for name in row.compared if name in row.values]
    if not peers:
        return "–", "alone: no peer served as many"
    ours, best = row.values[OURS], (max if row.more_is_better else min)(peers)
    if not ours or not best:
        return "–", verdict_of_counts(ours, best, row.more_is_better)
    gain = ours / best if row.more_is_better else best / ours
    return f"{ours / best:.2f}", verdict(gain)


def verdict(gain: float) -> str:
    """`gain`: how many times as good ours is."""
    if abs(gain - 1) <= EQUAL:
        return "equal"
    return f"better by {gain:.2f}×" if gain > 1 else f"worse by {1 / gain:.2f}×"


def verdict_of_counts(ours: float, best: float, more_is_better: bool) -> str:
    """Where one of both is 0, and there is no ratio."""
    if ours == best:
        return "equal"
    word = "better" if (ours > best) == more_is_better else "worse"
    return f"{word} by {number(abs(ours - best))}"


def details(outcomes: Outcomes) -> str:
    rows = [
        (scenario, name, counts(run), number(run.p99), number(run.worst))
        for scenario, runs in outcomes.items()
        for name, run in runs.items()
    ]
    return "\n\n".join(
        [
            "## How requests ended",
            "By status; *wrong*: cut off or changed, *broken*: no answer. p99 of good answers, "
            "worst of all.",
            table(("scenario", "proxy", "requests", "p99 s", "worst s"), rows),
        ]
    )


def counts(run: Run) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(run.outcomes.items()))


def pool_section(output: str) -> str:
    return f"## The pool at scale\n\nPrinted by `examples/pool_bench.rs`:\n\n```text\n{output}\n```"
