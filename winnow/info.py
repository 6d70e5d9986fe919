"""Say what an index folder holds."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote, or vectors of `winnow encode`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    import json

    from retrieval.inspection import describe

    found = describe(arguments.folder)
    print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines(found)))
    return 0


def settings_of(encoder: dict[str, Any]) -> dict[str, Any]:
    """What an encoder was told, as far as it is not the rule; of a model, of documents, and where queries come from."""
    if "document" not in encoder:
        return dict(encoder["options"])
    from dataclasses import asdict

    from retrieval.encoders.options import NeuralOptions

    usual = asdict(NeuralOptions())
    options = encoder["document"]["options"]
    told = {name: value for name, value in options.items() if value != usual.get(name)}
    return {"activation": options["activation"], **told, "queries by": encoder["query"]["kind"]}


def lines(found: dict[str, Any]) -> list[str]:
    """What `describe` found, to be read at a glance."""
    is_encoded = found.get("kind") == "vectors"
    return lines_of_vectors(found) if is_encoded else lines_of_index(found)


def lines_of_vectors(found: dict[str, Any]) -> list[str]:
    parts = [
        f"  {one['part']:<13} {one['documents']:>11,} {one['bytes']:>15,}  {one['postings']:,} weights of {one['terms']:,} terms"
        for one in found["parts"]
    ]
    return [
        f"{found['folder']}: vectors of {found['documents']:,} documents, to make indexes from (--vectors)",
        *lines_of_model(found),
        f"  {'part':<13} {'documents':>11} {'bytes':>15}  vectors",
        *parts,
    ]


def lines_of_model(found: dict[str, Any]) -> list[str]:
    """Model, versions and bytes, with a blank line at the end."""
    options = ", ".join(f"{name} {value}" for name, value in settings_of(found["encoder"]).items())
    total = sum(found["bytes"].values())
    shares = [f"  {name:<24} {size:>15,}  {size / total:>5.1%}" for name, size in found["bytes"].items()]
    return [
        f"model {found['model']} ({options})",
        f"commit {found['commit']}, format version {found['format_version']}, read by winnow {found['winnow'] or '(not installed)'}",
        "",
        f"  {'bytes':<24} {total:>15,}",
        *shares,
        "",
    ]


def lines_of_index(found: dict[str, Any]) -> list[str]:
    deleted = f", {found['deleted_documents']:,} deleted ones not yet merged away" if found["deleted_documents"] else ""
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
        *lines_of_model(found),
        f"  {'segment':<13} {'documents':>11} {'deleted':>9} {'bytes':>15}  index",
        *segments,
    ]
