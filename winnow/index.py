"""Have a folder hold an index of all documents of some sources: a job that goes on where it was stopped."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from retrieval.encoders.shipped import DEFAULT_MODEL
from retrieval.encoders.written_options import add_option_argument, parse_options

if TYPE_CHECKING:
    from retrieval.corpus import FieldNames
    from retrieval.jobs.description import JobDescription
    from retrieval.jobs.job import JobResult
    from retrieval.opened import IndexStatistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help=".jsonl, .tsv (or .gz, .zst) or .parquet files, patterns of them, folders of these or of text files, BEIR folders, folders of "
        "datasets.save_to_disk, or - for JSON lines on standard input",
    )
    add_vectors_argument(parser)
    add_reading_arguments(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="where the index goes; the same command goes on with one that was interrupted, and adds what is new to one that is done",
    )
    parser.add_argument(
        "--model",
        help="winnow-mini, bm25, minilm, vectors (the documents' own), a name of docs/models.md, or a checkpoint's folder; several with + "
        "between them, and what is kept with the index, as in bm25+minilm,fusion=rrf,rerank=KIND:MODEL,depth=50 (docs/evaluation.md; "
        f"default: {DEFAULT_MODEL}; with vectors given, what made them)",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--impacts", choices=("u8", "u16", "f32"), help="how weights are stored (default: u8; bm25 stores term counts)"
    )
    add_job_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """How the job is done (docs/jobs.md)."""
    parser.add_argument(
        "--shard-documents", type=int, metavar="N", help="documents committed together (default: 16000)"
    )
    parser.add_argument(
        "--memory-limit", metavar="SIZE", help='most that indexing and merging hold at a time, as in "2GB"'
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of models and of indexing (default: all cores)")
    parser.add_argument("--device", help="where models run, as PyTorch calls it (default: a GPU where there is one)")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens that a model reads at a time")
    parser.add_argument(
        "--rejects", metavar="FILE", help="write records that cannot be taken here, with the reason, and go on"
    )
    parser.add_argument("--mirror", action="store_true", help="remove documents that the sources do not have any more")
    parser.add_argument("--restart", action="store_true", help="replace whatever index FOLDER holds")
    parser.add_argument("--rebuild", action="store_true", help="where FOLDER is damaged, build what is lost again")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would take, from the first documents")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="ray: shards are encoded and indexed on a Ray cluster; --threads, --device and --memory-limit are then of each worker",
    )  # fmt: skip
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the Ray cluster (default: RAY_ADDRESS, or one is started on this machine)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="on Ray, at most (default: as many as there is room for)"
    )


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that reads one corpus takes."""
    parser.add_argument("corpus", help="a .jsonl or .tsv file (or .gz, .zst), a BEIR folder, or a folder of text files")
    add_vectors_argument(parser)
    add_reading_arguments(parser)


def add_vectors_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vectors",
        metavar="SOURCE",
        help="take the documents' vectors from here: a folder of `winnow encode`, or a .jsonl, .ciff, .npz, .pt or .safetensors file",
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """How the records of a corpus are read."""
    parser.add_argument("--id-field", metavar="NAME", help="the field with the document's id (default: _id or id)")
    parser.add_argument("--title-field", metavar="NAME", help="the field with its title (default: title)")
    parser.add_argument("--text-field", metavar="NAME", help="the field with its text (default: text or contents)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def field_names(arguments: argparse.Namespace) -> FieldNames:
    """The names of fields that `add_reading_arguments` asks for."""
    from retrieval.corpus import FieldNames

    return FieldNames.of(arguments.id_field, arguments.title_field, arguments.text_field)


def run(arguments: argparse.Namespace) -> int:
    from retrieval.jobs.description import JobDescription
    from retrieval.jobs.job import run_job

    description = JobDescription(
        tuple(arguments.sources),
        arguments.model,
        parse_options(arguments.option),
        arguments.impacts,
        field_names(arguments),
        arguments.vectors,
        arguments.shard_documents,
    )
    means: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("memory_limit", "threads", "device", "batch_tokens")
    }
    if arguments.dry_run:
        return dry_run(description, means)
    try:
        result = run_job(
            description,
            arguments.out,
            engine=arguments.engine,
            address=arguments.address,
            workers=arguments.workers,
            restart=arguments.restart,
            rebuild=arguments.rebuild,
            mirror=arguments.mirror,
            rejects=arguments.rejects,
            progress=not arguments.no_progress,
            **means,
        )
    except KeyboardInterrupt:
        print("winnow index: interrupted; the same command goes on after the last whole shard.", file=sys.stderr)
        return 130
    print("\n".join(told(result, arguments)))
    return 0


def told(result: JobResult, arguments: argparse.Namespace) -> list[str]:
    """What was done, in lines."""
    size = result.statistics
    counts = [
        (result.added, "new"),
        (result.changed, "changed"),
        (result.unchanged, "there before"),
        (result.removed, "removed"),
    ]
    lines = [f"indexed {size.documents:,} documents with {result.model}: {sizes(size)}"]
    if result.added != size.documents:
        lines.append(f"of this run: {', '.join(f'{count:,} {what}' for count, what in counts if count)}")
    if result.rejected:
        lines.append(f"{result.rejected:,} records were rejected; {arguments.rejects} says which, and why")
    if size.documents_without_terms:
        advice = "; name the field with --text-field" if size.documents_without_terms == size.documents else ""
        lines.append(
            f"{size.documents_without_terms:,} of them have no text to match: they are kept and never found{advice}"
        )
    return [*lines, f'search it: winnow search {arguments.out} "your question"']


def dry_run(description: JobDescription, means: dict[str, Any]) -> int:
    from retrieval.jobs.estimate import estimate

    found = estimate(description, **means)
    hours, seconds = divmod(round(found.seconds), 3600)
    print(f"documents: about {found.documents:,} (from the first {found.sample:,})")
    print(f"index: about {found.bytes / 1e6:,.1f} MB, and as much again for a while when segments are merged")
    print(
        f"time: about {hours}:{seconds // 60:02}:{seconds % 60:02}, {found.documents / max(found.seconds, 1e-9):,.0f} documents/s"
    )
    print(f"memory: about {found.memory / 1e6:,.0f} MB")
    return 0


def sizes(size: IndexStatistics) -> str:
    """Of all arms, in words."""
    counts = ((size.postings, "postings"), (size.vectors, "dense vectors"))
    return ", ".join([*(f"{count:,} {what}" for count, what in counts if count), f"{size.bytes / 1e6:.1f} MB"])
