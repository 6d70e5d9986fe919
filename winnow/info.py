"""Say what an index folder holds."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    import json

    from retrieval.inspection import describe

    found = describe(arguments.folder)
    print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """What `describe` found, to be read at a glance."""
    deleted = f", {found['deleted_documents']:,} deleted ones not yet merged away" if found["deleted_documents"] else ""
    options = ", ".join(f"{name} {value}" for name, value in found["encoder"]["options"].items())
    total = sum(found["bytes"].values())
    shares = [f"  {name:<24} {size:>15,}  {size / total:>5.1%}" for name, size in found["bytes"].items()]
    segments = [
        f"  {one['part']:<13} {one['documents']:>11,} {one['deleted_documents']:>9,} {one['bytes']:>15,}  "
        + "; ".join(
            f"{name}: {arm['postings']:,} postings of {arm['terms']:,} terms, {arm['impacts']}"
            for name, arm in one["arms"].items()
        )
        for one in found["segments"]
    ]
    return [
        f"{found['folder']}: {found['documents']:,} documents{deleted}",
        f"model {found['model']} ({options})",
        f"commit {found['commit']}, format version {found['format_version']}, read by winnow {found['winnow'] or '(not installed)'}",
        "",
        f"  {'bytes':<24} {total:>15,}",
        *shares,
        "",
        f"  {'segment':<13} {'documents':>11} {'deleted':>9} {'bytes':>15}  index",
        *segments,
    ]
