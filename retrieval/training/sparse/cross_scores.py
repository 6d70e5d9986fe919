"""A cross-encoder as a teacher: the scores of listed pairs, kept in a folder to which other lists may add."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import ModelError, WinnowError
from index.files import save_array
from index.storage import Part, open_array
from retrieval.encoders.model_files import ModelFiles, checkpoint_folder
from retrieval.encoding import told_once
from retrieval.progress import progress as counted
from retrieval.rerankers.cross_encoder import CrossEncoderReranker, longest_pair, part_of, read_pair_tokenizer
from retrieval.rerankers.loading import check_options
from retrieval.training.sparse.teacher_cache import Asked, TeacherFolder, Texts
from retrieval.training.sparse.teachers import CROSS_ENCODER, Pairs, PairTeacher, Rows, pair_numbers

PAIRS_TOGETHER = 1_024  # between two looks at the bar; sorted by length among themselves


def cross_encoder_teacher(
    name: str, queries: Texts, documents: Texts, cache: Path, options: Mapping[str, Any], progress: bool, pairs: Pairs
) -> PairTeacher:
    """Of the pairs that `pairs` gives, and of those that the folder holds of earlier ones; scores are logits. See `teacher_of`."""
    model = name.removeprefix(CROSS_ENCODER)
    check_options(CROSS_ENCODER[:-1], CrossEncoderReranker.from_pretrained, options)
    if "activation" in options:
        raise WinnowError(
            f"{name} is given activation={options['activation']!r:.40}; a teacher's scores are logits, so leave it out."
        )
    asked = Asked.of(name, options, queries, documents)
    rows = Rows(name, "queries", queries.ids), Rows(name, "documents", documents.ids)
    wanted = np.unique(pair_numbers(*rows, pairs()))
    folder = TeacherFolder.find(cache, asked, lambda: identity_of(model, options))
    missing = np.setdiff1d(wanted, read_kept(folder)[0])
    if len(missing):
        score(folder, model, options, missing, progress)
    return PairTeacher(name, *rows, *read_kept(folder))


def identity_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that the scores depend on, found without loading the weights. Raises ModelError."""
    if not name:
        raise ModelError(
            f"the teacher {CROSS_ENCODER} names no model; give a folder or a name, as in cross-encoder:FOLDER."
        )
    root = checkpoint_folder(name, options.get("revision"))
    files = ModelFiles(name, options.get("revision"), part=part_of(name, root))
    tokenizer = read_pair_tokenizer(files.folder)
    written = f"{tokenizer.backend_tokenizer.to_str()} {'token_type_ids' in tokenizer.model_input_names}"
    longest = longest_pair(files, tokenizer.backend_tokenizer)
    return {
        "cross_encoder": files.fingerprint_now(),
        "tokenizer": hashlib.sha256(written.encode()).hexdigest(),
        "max_length": options.get("max_length") or longest,
        "dtype": options.get("dtype", "float32"),
    }


def read_kept(folder: TeacherFolder) -> tuple[np.ndarray, np.ndarray]:
    """(int64: numbers of pairs, each once; float32: their scores)"""

    def column(part: Part, name: str, dtype: str) -> np.ndarray:
        return open_array(part.path / f"{name}.npy", dtype, part.contents["rows"])

    parts = folder.parts("pairs")
    return (
        np.concatenate([np.empty(0, np.int64), *(column(part, "pairs", "int64") for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(column(part, "scores", "float32") for part in parts)]),
    )


def score(folder: TeacherFolder, model: str, options: Mapping[str, Any], missing: np.ndarray, progress: bool) -> None:
    """Each part is committed as soon as it is computed."""
    queries, documents = folder.asked.queries.texts, folder.asked.documents.texts

    def fill(some: Iterator[int], path: Path) -> dict[str, Any]:
        numbers, found = list[int](), []
        while chunk := list(islice(some, PAIRS_TOGETHER)):
            numbers += chunk
            texts = [(queries[number // len(documents)], documents[number % len(documents)]) for number in chunk]
            found.append(reranker.logits(texts))
        scores = np.concatenate(found)
        if not np.isfinite(scores).all():
            raise WinnowError(
                f"{folder.asked.name} scores {np.count_nonzero(~np.isfinite(scores)):,} of {len(scores):,} pairs with NaN or infinity; "
                "give dtype=float32, or another checkpoint."
            )
        save_array(path / "pairs.npy", np.array(numbers, np.int64))
        save_array(path / "scores.npy", scores)
        return {}

    with told_once(), folder.growing(lambda path: {}) as growing:
        reranker = CrossEncoderReranker.from_pretrained(model, **options)
        doing, left = f"{folder.asked.name} scores", len(missing)
        items = counted(missing.tolist(), total=left, doing=doing, unit="pairs", shown=progress)
        growing.add_all("pairs", items, left, fill)
