"""Small jobs, and folders compared byte by byte."""

import json
import random

from retrieval.jobs.description import JobDescription
from retrieval.jobs.job import run_job


def records(count, seed=0, first=0):
    """Documents of a few words each, with few distinct ones."""
    rng = random.Random(seed)
    return [
        {"_id": f"d{n}", "text": " ".join(f"w{rng.randrange(20)}" for _ in range(rng.randrange(1, 8))), "n": n}
        for n in range(first, first + count)
    ]


def write_jsonl(path, some):
    path.write_text("".join(json.dumps(one) + "\n" for one in some))
    return path


def job(sources, folder, model="bm25", shard_documents=3, options=None, impacts=None, names=None, vectors=None, **how):
    """`run_job` without progress bars; sources may be one path."""
    sources = sources if isinstance(sources, list | tuple) else [sources]
    more = {} if names is None else {"names": names}
    description = JobDescription(
        tuple(map(str, sources)),
        model,
        options or {},
        impacts,
        vectors=vectors,
        shard_documents=shard_documents,
        **more,
    )
    return run_job(description, folder, progress=False, **how)


def tree(folder):
    """Path -> content of all files; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def contents(folder):
    """Id -> text of what can be searched there."""
    from index.snapshot import Snapshot
    from index.storage import read_current
    from retrieval.opened import KIND

    return {one.doc_id: one.text for one in read_current(folder, KIND, Snapshot.read, "full").documents()}
