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
        return dict(encoder.get("options", {}))
    from dataclasses import asdict

    from retrieval.encoders.dense.options import DenseOptions
    from retrieval.encoders.options import NeuralOptions

    options = encoder["document"]["options"]
    is_dense = encoder["family"] == "dense"
    usual = asdict(DenseOptions(options["pooling"]) if is_dense else NeuralOptions())
    told = {name: value for name, value in options.items() if value != usual.get(name)}
    if is_dense:
        return {"pooling": options["pooling"], **told, "similarity": encoder["index"]["similarity"]}
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
    """Models, versions and bytes, with a blank line at the end."""
    from retrieval.fusion import Fusion

    total = sum(found["bytes"].values())
    shares = [f"  {name:<24} {size:>15,}  {size / total:>5.1%}" for name, size in found["bytes"].items()]
    return [
        *(f"model {name} ({options_of(encoder)})" for name, encoder in each_model(found)),
        *([f"fusion {Fusion.of_json(found['fusion'])}"] if "fusion" in found else []),
        *([line_of_reranker(found["reranker"])] if "reranker" in found else []),
        f"commit {found['commit']}, format version {found['format_version']}, read by winnow {found['winnow'] or '(not installed)'}",
        "",
        f"  {'bytes':<24} {total:>15,}",
        *shares,
        "",
    ]


def lines_of_job(found: dict[str, Any]) -> list[str]:
    """Nothing for an index that no job wrote."""
    if "job" not in found:
        return []
    state = "done" if found["job"]["is_done"] else "not done: the same `winnow index` goes on"
    shards = found["job"]["shards"]
    return [f"job of {shards:,} {'shard' if shards == 1 else 'shards'}, {state}"]


def line_of_reranker(stored: dict[str, Any]) -> str:
    """Name, depth and options, as `stored_reranker` keeps them."""
    told = {"depth": stored["depth"], **stored["options"]}
    return f"reranker {stored['name']} ({', '.join(f'{name} {value}' for name, value in told.items())})"


def each_model(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and description of each encoder."""
    encoders = found["encoder"].get("encoders", [found["encoder"]])
    names = [found["model"]] if len(encoders) == 1 else [encoder.get("name", encoder["family"]) for encoder in encoders]
    return list(zip(names, encoders, strict=True))


def options_of(encoder: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings_of(encoder).items())


def of_arm(arm: dict[str, Any]) -> str:
    """What one arm of a segment holds."""
    if "vectors" in arm:
        return f"{arm['vectors']:,} vectors of {arm['dimension']:,} numbers, {arm['method']}"
    return f"{arm['postings']:,} postings of {arm['terms']:,} terms, {arm['impacts']}"


def lines_of_index(found: dict[str, Any]) -> list[str]:
    deleted = f", {found['deleted_documents']:,} deleted ones not yet merged away" if found["deleted_documents"] else ""
    segments = [
        f"  {one['part']:<13} {one['documents']:>11,} {one['deleted_documents']:>9,} {one['bytes']:>15,}  "
        + "; ".join(f"{name}: {of_arm(arm)}" for name, arm in one["arms"].items())
        for one in found["segments"]
    ]
    return [
        f"{found['folder']}: {found['documents']:,} documents{deleted}",
        *lines_of_job(found),
        *lines_of_model(found),
        f"  {'segment':<13} {'documents':>11} {'deleted':>9} {'bytes':>15}  index",
        *segments,
    ]
