"""Our index and its peers on one collection, in one run, as one table and one picture.

    python benchmarks/compare_sparse.py --data DIR --peers FOLDER --json OUT [--plot OUT.svg]

FOLDER holds a virtual environment (or a link to one) for each peer, named as its script in benchmarks/peers: `python -m venv
FOLDER/sindi`, then `FOLDER/sindi/bin/pip install` of these. Peers without an environment are named and left out.

    sindi         pyvsag numpy
    seismic       pyseismic-lsr numpy
    bmp           bmp numpy
    pisa          numpy, then with --no-deps: pyterrier_pisa==0.4.9 tbb==2020.3.254
    splade_index  splade-index numba scipy
    bm25s         bm25s numba scipy

Compare CPU microseconds of one run; ratios, not times, carry over to another machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from plot_sparse import latest, new_figure, plot_recall
from protocol import KINDS

HERE = Path(__file__).parent
PEERS = sorted(script.stem for script in (HERE / "peers").glob("*.py"))


def as_table(records: list[dict]) -> str:
    lines = [f"{'':12} {'setting':34} {'queries':8} {'recall':>7} {'CPU us':>7} {'p99 us':>7} {'build s':>8} {'MB':>6}"]
    for r in sorted(records, key=lambda r: (r["queries"], r["contestant"], r.get("recall", 1.0))):
        setting = f"{r['target']} {r.get('impacts', '')}"
        recall = f"{r['recall']:.4f}" if "recall" in r else ""
        lines.append(
            f"{r['contestant']:12} {setting:34} {r['queries']:8} {recall:>7} {r['cpu_us']:7.0f} {r['p99_us']:7.0f} "
            f"{r['build_s']:8.1f} {r['index_bytes'] / 1e6:6.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--impacts", nargs="+", default=["f32", "u16", "u8"])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw latency against recall (.svg or .png)")
    arguments = parser.parse_args()
    if arguments.plot:
        new_figure()  # a missing matplotlib is told before the long work
    ours = [
        [sys.executable, HERE / "sparse_search.py", "--data", arguments.data, "--json", arguments.json,
         "--queries", *KINDS, "--impacts", impacts]
        for impacts in arguments.impacts
    ]  # fmt: skip
    theirs = [
        [arguments.peers / peer / "bin" / "python", HERE / "peers" / f"{peer}.py", arguments.data, arguments.json]
        for peer in PEERS
    ]
    for command in ours + theirs:
        if not Path(command[0]).exists():
            print(f"{command[0]} is missing: {Path(command[1]).stem} is left out.")
            continue
        if subprocess.run(list(map(str, command))).returncode:
            print(f"{Path(command[1]).stem} failed: its lines are missing or incomplete.")
    records = latest([arguments.json])
    print(as_table(records))
    if arguments.plot:
        plot_recall(records, arguments.plot)


if __name__ == "__main__":
    main()
