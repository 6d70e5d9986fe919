"""The arithmetic of docs/scale.md: by hand on small numbers, and the page shows what the script prints."""

import math
import subprocess
import sys

import pytest
from conftest import ROOT
from scale import Machine, Plan, plan, queries, shard_ms, slowest

RECORDS = [
    {"queries": "splade", "target": "0.99", "documents": 100, "mean_us": 100},
    {"queries": "splade", "target": "0.99", "documents": 10_000, "mean_us": 400, "index_bytes": 20_000_000},
    {"kind": "stored", "bytes_a_document": 500},
    {"kind": "calls", "shards": 2, "floor_ms": 3.0},
]


def test_a_plan_by_hand():
    found = plan(1_000_000, 10_000, RECORDS, Machine(cores=4, memory_gb=0.25), "0.99")
    assert found.shards == 100  # 1,000,000 / 10,000
    assert found.index_gb == pytest.approx(2.0)  # 2,000 bytes a document
    assert found.stored_gb == pytest.approx(0.5)
    assert found.machines == 10  # 0.2 GB of a machine hold ten shards of 0.02 GB
    assert found.core_ms == pytest.approx(100 * 0.4)
    assert found.queries_a_second == pytest.approx(10 * 4 * 1e3 / 40)


def test_between_two_sizes_time_grows_along_a_power_of_the_size():
    assert shard_ms(1_000, RECORDS, "0.99") == pytest.approx(
        0.2
    )  # 100 times the documents, 4 times the time: the middle is twice
    assert shard_ms(50, RECORDS, "0.99") == pytest.approx(0.1)


def test_nothing_is_said_of_shards_that_were_never_measured():
    with pytest.raises(SystemExit, match=r"never measured at 0\.99"):
        shard_ms(10_001, RECORDS, "0.99")
    with pytest.raises(SystemExit, match=r"never measured at 0\.5"):
        shard_ms(100, RECORDS, "0.5")


def test_a_measured_floor_on_ray_counts_before_the_older_one():
    one = plan(20_000, 10_000, RECORDS, Machine(4, 64), "0.99")
    ray = {"kind": "ray", "shards": 4, "floor_ms": 2.0}
    assert queries({"x": one}, 1_000, RECORDS)[-1].endswith("| 3 |")  # 1.5 ms a call, 2 shards
    assert queries({"x": one}, 1_000, [ray, *RECORDS])[-1].endswith("| 1 |")


def test_the_slowest_of_many_shards_is_slower_and_a_second_replica_helps():
    def of(shards):
        return Plan(0, shards, 0, 0, 1, shards, 1.0, 1)

    few, many, hedged = slowest(of(1), hedge=False), slowest(of(200), hedge=False), slowest(of(200), hedge=True)
    assert few[1] == pytest.approx(1.95, rel=0.05)  # one shard's own p99, in means
    assert few[0] < 1 < many[0] < many[1]
    assert hedged[1] < many[1]
    assert not math.isnan(hedged[0])


def test_the_page_shows_what_the_script_prints():
    command = [sys.executable, "benchmarks/scale.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.strip() in (ROOT / "docs" / "scale.md").read_text()
