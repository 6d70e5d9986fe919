"""What do 8.8 million, 140 million and 10 billion documents take? Arithmetic on what was measured, and a simulation of the slowest shard.

    python benchmarks/scale.py                             prints the tables of docs/scale.md
    python benchmarks/scale.py --json FILE ... --cores 32  with other records, which count before those of scale_measured.jsonl

Records are those that benchmarks write: of sparse_search.py (`mean_us`, `index_bytes`), encode_gpu.py (`documents_a_second`) and
sharded_search.py (`floor_ms`). Nothing is extrapolated beyond the largest collection that was measured: a shard is never larger.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MEASURED = Path(__file__).with_name("scale_measured.jsonl")
COLLECTIONS = {"8.8 million": 8_800_000, "140 million": 138_364_198, "10 billion": 10_000_000_000}
SIMULATED = 10_000  # queries
P99_TO_MEAN = (
    1.95  # of the times of one shard: 1.88 to 2.03 for these queries (docs/results.md, a million sparse vectors)
)
HEDGED_AT = 1.6448536269514722  # standard deviations: after 95 % of a shard's answers a second replica is asked
Z99 = 2.3263478740408408  # of the normal distribution


class Machine(NamedTuple):
    """That shards are on; its price is left to the reader, in hours of it."""

    cores: int
    memory_gb: float


class Plan(NamedTuple):
    """One collection, cut into shards."""

    documents: int
    shards: int
    index_gb: float
    stored_gb: float
    machines: int
    core_ms: float  # of one query, in all shards together
    shard_ms: float
    queries_a_second: float  # of one copy of all shards


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, nargs="*", default=[], metavar="FILE", help="records of benchmarks")
    parser.add_argument("--shard-documents", type=int, default=8_800_000)
    parser.add_argument("--cores", type=int, default=16, help="of a machine (default: 16)")
    parser.add_argument("--memory-gb", type=float, default=64, help="of a machine (default: 64)")
    parser.add_argument("--target", default="0.99", help="of the search, as the records say it (default: 0.99)")
    parser.add_argument("--wanted", type=float, default=1_000, help="queries a second (default: 1000)")
    arguments = parser.parse_args()
    records = [record for file in (*arguments.json, MEASURED) for record in read(file)]
    machine = Machine(arguments.cores, arguments.memory_gb)
    plans = {
        name: plan(documents, arguments.shard_documents, records, machine, arguments.target)
        for name, documents in COLLECTIONS.items()
    }
    print("\n".join([*sizes(plans, machine), "", *encoding(records), "", *queries(plans, arguments.wanted, records)]))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def only(records: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Those with these values."""
    return [record for record in records if all(record.get(name) == value for name, value in wanted.items())]


def first_with(records: Iterable[dict[str, Any]], field: str, **wanted: Any) -> float:
    """The value of the first such record. Raises SystemExit where there is none."""
    for record in only(records, **wanted):
        if field in record:
            return float(record[field])
    raise SystemExit(f"no record has {field} with {wanted}; give a --json file of the benchmark that measures it.")


def shard_ms(documents: int, records: Sequence[dict[str, Any]], target: str) -> float:
    """Of a query in one shard, between the sizes that were measured along straight lines in logarithms.

    Raises SystemExit for a shard that is larger than the largest of them.
    """
    of_search = [record for record in only(records, queries="splade", target=target) if "mean_us" in record]
    points: dict[int, float] = {}
    for record in of_search:
        points.setdefault(record["documents"], record["mean_us"] / 1e3)
    known = sorted(points)
    if not known or documents > known[-1]:
        raise SystemExit(
            f"a shard of {documents:,} documents was never measured at {target}; ask for at most {known[-1:]}."
        )
    return float(np.exp(np.interp(math.log(documents), np.log(known), np.log([points[size] for size in known]))))


def plan(documents: int, most: int, records: Sequence[dict[str, Any]], machine: Machine, target: str) -> Plan:
    shards = -(-documents // most)
    in_shard = -(-documents // shards)
    largest = max((record for record in records if "index_bytes" in record), key=lambda record: record["documents"])
    index_gb = documents * largest["index_bytes"] / largest["documents"] / 1e9
    stored_gb = documents * first_with(records, "bytes_a_document", kind="stored") / 1e9
    # the index in memory, stored documents of hits read from disk
    machines = max(math.ceil(shards / max(int(machine.memory_gb * 0.8 / (index_gb / shards)), 1)), 1)
    one = shard_ms(in_shard, records, target)
    core_ms = shards * one
    return Plan(
        documents, shards, index_gb, stored_gb, machines, core_ms, one, machines * machine.cores * 1e3 / core_ms
    )


def sizes(plans: dict[str, Plan], machine: Machine) -> list[str]:
    head = f"| documents | shards | index, GB | stored documents, GB | machines of {machine.cores} cores and {machine.memory_gb:g} GB |"
    rows = [
        f"| {name} | {p.shards:,} | {p.index_gb:,.0f} | {p.stored_gb:,.0f} | {p.machines:,} |"
        for name, p in plans.items()
    ]
    return [head, "|---|---|---|---|---|", *rows]


def encoding(records: Sequence[dict[str, Any]]) -> list[str]:
    """GPU-hours by model and collection."""
    lines = [f"| encoded by | documents/s | {' | '.join(COLLECTIONS)} |", "|---|---|---|---|---|"]
    seen = set[tuple[str, str]]()
    for record in records:
        key = record.get("kind", ""), record.get("model", "")
        if "documents_a_second" not in record or key in seen:
            continue
        seen.add(key)
        rate, what = (
            record["documents_a_second"],
            "from texts to rows" if key[0] == "whole" else "layers and head alone",
        )
        hours = " | ".join(f"{count / rate / 3600:,.1f} h" for count in COLLECTIONS.values())
        lines.append(f"| {key[1]} on one {record.get('device', 'GPU')}, {what} | {rate:,} | {hours} |")
    return lines


def queries(plans: dict[str, Plan], wanted: float, records: Sequence[dict[str, Any]]) -> list[str]:
    """What a query costs, how many copies are needed, and how long the slowest shard takes."""
    calls = max(only(records, kind="ray") or only(records, kind="calls"), key=lambda record: record["shards"])
    a_call = calls["floor_ms"] / calls["shards"]
    head = (f"| documents | a shard, ms | core-ms | queries/s of a copy | copies for {wanted:,.0f}/s | slowest shard: p50, p99 ms | "
            "with a second replica asked | calls of one coordinator, ms |")  # fmt: skip
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, p in plans.items():
        alone, hedged = slowest(p, hedge=False), slowest(p, hedge=True)
        lines.append(
            f"| {name} | {p.shard_ms:.2f} | {p.core_ms:,.0f} | {p.queries_a_second:,.0f} | "
            f"{math.ceil(wanted / p.queries_a_second):,} | {alone[0]:.2f}, {alone[1]:.2f} | {hedged[0]:.2f}, {hedged[1]:.2f} | "
            f"{a_call * p.shards:,.0f} |"
        )
    return lines


def slowest(p: Plan, *, hedge: bool) -> tuple[float, float]:
    """(p50, p99) in ms of the slowest of all shards, drawn from log-normal times of the measured mean and spread.

    hedge  another replica, which draws anew, is asked after 95 % of the answers of a shard
    """
    rng = np.random.default_rng(0)
    # mean = exp(mu + s^2 / 2) and p99 = exp(mu + Z99 s), so ln(p99 / mean) = Z99 s - s^2 / 2
    spread = Z99 - math.sqrt(Z99**2 - 2 * math.log(P99_TO_MEAN))
    middle = math.log(p.shard_ms) - spread**2 / 2
    worst = np.empty(SIMULATED)
    wait = math.exp(middle + spread * HEDGED_AT)
    for i in range(SIMULATED):
        times = rng.lognormal(middle, spread, p.shards)
        if hedge:
            late = times > wait
            times[late] = np.minimum(times[late], wait + rng.lognormal(middle, spread, int(late.sum())))
        worst[i] = times.max()
    return float(np.median(worst)), float(np.quantile(worst, 0.99))


if __name__ == "__main__":
    main()
