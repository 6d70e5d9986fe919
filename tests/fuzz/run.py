"""Every attack, or those named, under atheris for so many seconds each: `make fuzz SECONDS=60`.

Starts from the seeds of each attack and its kept cases. Ends with status 1 if anything broke; what did is in tests/fuzz/found/,
and belongs, once mended, among the cases of its parser.
"""

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, STDOUT

HERE = Path(__file__).parent
ATTACKS = (
    "corpus_jsonl", "corpus_tsv", "corpus_gz", "queries", "qrels", "runs", "run_files",
    "manifest", "description", "array_file", "vectors", "query",
    "vectors_jsonl", "ciff", "npz", "encoded", "filters",
)  # fmt: skip
INSTRUMENTED = ["eval", "index", "retrieval", "fuzz", "json", "gzip", "_compression", "numpy.lib", "zipfile"]
MOST_SECONDS, MOST_MEGABYTES = 30, 2048  # of one input; watch.py is stricter, but only where Python still runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("attacks", nargs="*", choices=[[], *ATTACKS], metavar="attack", help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=int, default=60, help="for each attack (default: %(default)s)")
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.attacks[0], Path(arguments.inside), arguments.seconds)
    broken = [name for name in arguments.attacks or ATTACKS if not report(name, arguments.seconds)]
    print(f"broken: {', '.join(broken)}; see {HERE / 'found'}" if broken else "nothing broke")
    return 1 if broken else 0


def report(name, seconds):
    """Run one attack in a process of its own and print a line about it; True if nothing broke."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, name, "--seconds", str(seconds), "--inside", folder]
        finished = subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True, errors="replace")
    done = re.search(r"Done (\d+) runs in (\d+) second", finished.stdout)
    counted = f"{int(done[1]):>10,} executions {int(done[2]):>5} s" if done else "stopped"
    print(f"{name:<14} {counted}", flush=True)
    if finished.returncode:
        print("\n".join(line for line in finished.stdout.splitlines() if not line.startswith("#")), flush=True)
    return finished.returncode == 0


def fuzz(name, folder, seconds):
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        module = importlib.import_module(f"fuzz.{name}")
    for number, data in enumerate(starts(name, module)):
        (folder / f"start-{number:03}").write_bytes(data)
    (HERE / "found").mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}"]
    options = [f"-artifact_prefix={HERE / 'found' / name}-", "-max_len=8192", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(folder), *limits, *options], module.attack)
    atheris.Fuzz()


def starts(name, module):
    """What an attack begins with: its seeds and the kept cases."""
    cases = sorted((HERE / "cases" / name).glob("*"))
    return [*(module.seeds() if hasattr(module, "seeds") else module.SEEDS), *(case.read_bytes() for case in cases)]


if __name__ == "__main__":
    sys.exit(main())
