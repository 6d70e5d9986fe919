"""Check an index folder: quickly, or every byte and every invariant with --full."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote, or vectors of `winnow encode`")
    parser.add_argument(
        "--full", action="store_true", help="read every byte, and check every row, posting, vector and document"
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from index.dense.index import KIND as DENSE_INDEX
    from index.encoded_vectors import KIND as ENCODED_VECTORS
    from index.inverted import KIND as INVERTED_INDEX
    from index.manifest import soundest_manifest
    from index.storage import check_kind
    from index.verification import find_damage
    from retrieval.opened import KIND

    found = find_damage(arguments.folder, "full" if arguments.full else "quick")
    manifest = soundest_manifest(arguments.folder)
    if manifest and manifest.kind not in (INVERTED_INDEX, DENSE_INDEX, ENCODED_VECTORS):
        check_kind(Path(arguments.folder), manifest, KIND)  # what is not ours to read is not ours to judge
    for _, _, message in found:
        print(message)
    if found:
        remedy = f"`winnow repair {arguments.folder}` saves what is sound"
        if manifest and manifest.kind in (INVERTED_INDEX, DENSE_INDEX):
            remedy = "it is an index without documents: restore it from a backup, or build it again"
        print(f"{arguments.folder} is damaged; {remedy}")
        return 1
    what = (
        "every byte, row, posting, vector and document"
        if arguments.full
        else "manifest, sizes and headers; --full reads all"
    )
    if manifest and manifest.kind == ENCODED_VECTORS:
        what = what.replace("row, posting, vector and document", "row and id")
    print(f"{arguments.folder} is sound ({what})")
    return 0
