"""From a training run to the folder that comes with the package: weights in 8 bits, tokenizer, query weights, model card.

    python benchmarks/winnow_mini/release.py RUN OUT [--figures figures.toml] [--json out.json]

RUN is what `winnow train sparse` left (or its folder `model`), OUT in the end retrieval/models/winnow-mini. Written are only models that the
package can carry: documents by a masked language model with max pooling, queries by a table, no weight on special terms, at most 25 MB in all. The card is
card.md with its $names filled from RUN's run.json, from what was measured here, and from --figures (TOML, text by name); without --figures no
card is written. The same run makes the same files.

What 8 bits change is measured on documentation of Python's standard library: the same texts by the model as trained and as released.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from index.errors import ModelError, WinnowError
from index.files import write_file
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.eight_bit import FILE
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.quantising import quantise
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.tokens import special_terms
from retrieval.python_docs import python_documentation

CARD = Path(__file__).with_name("card.md")
MOST_BYTES = 25_000_000
TEXTS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a training run, or its folder `model`")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one with such a model")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="what the card says beside what is known here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where what was measured here goes")
    arguments = parser.parse_args()
    try:
        texts = [document.searched_text for document in islice(python_documentation(), TEXTS)]
        measured = release(arguments.run, arguments.out, texts)
        if arguments.figures is not None:
            write_card(arguments.run, arguments.out, measured, arguments.figures)
    except WinnowError as error:
        sys.exit(f"release: {error}")
    print("\n".join(f"{name}: {value}" for name, value in measured.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n")
    if arguments.figures is None:
        print("no card was written; give --figures when they are measured")


def release(run: Path, out: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Write the folder; what was measured of it.

    texts  for which vectors are compared

    Raises ModelError for a model that the package cannot carry; nothing is then written, unless it is only too large.
    """
    model = run / "model" if (run / "model").is_dir() else run
    trained = LearnedSparseEncoder.from_pretrained(model)
    check_kind(trained)
    expected = trained.encode_texts(texts)
    special = np.intersect1d(expected.indices, special_terms(trained.tokenizer))
    if len(special):
        raise ModelError(
            f"{model} gives weight to {trained.term(int(special[0]), None)!r} and {len(special) - 1} more special terms; their bias must "
            "be so low that no text has them."
        )
    quantise(model, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise ModelError(
            f"{out} has {size:,} bytes; the package takes at most {MOST_BYTES:,}, so train a smaller model."
        )
    released = LearnedSparseEncoder.from_pretrained(out)
    files = released.document.files
    return {
        "megabytes": f"{size / 1e6:.1f}",
        "sha256": hashlib.sha256((files.folder / FILE).read_bytes()).hexdigest(),
        "fingerprint": files.fingerprint_now(),
        "num_query_weights": int(np.count_nonzero(released.query.weights)),
        **differences(expected, released.encode_texts(texts), trained.num_terms),
    }


def check_kind(encoder: LearnedSparseEncoder) -> None:
    """Raises ModelError for anything but an inference-free masked language model."""
    options = encoder.document.options
    if not isinstance(encoder.query, TermWeights):
        raise ModelError(
            f"{encoder.name} has queries by a model; the model of the package has a table of query weights."
        )
    if (
        options.pooling != "max"
        or options.threshold != 0
        or not encoder.document.files.architecture.endswith("MaskedLM")
    ):
        raise ModelError(
            f"{encoder.name} is a {encoder.document.files.architecture} with {options.pooling} pooling and threshold {options.threshold}; the "
            "model of the package is a ...ForMaskedLM with max pooling, its threshold in the bias."
        )


def differences(expected: SparseRows, found: SparseRows, num_terms: int) -> dict[str, Any]:
    """What 8 bits change in the vectors of the same texts."""
    largest, shared, either, cosines = 0.0, 0, 0, []
    for row in range(len(expected.indptr) - 1):
        one, other = spread(expected, row, num_terms), spread(found, row, num_terms)
        largest = max(largest, float(np.abs(one - other).max()))
        shared += int(((one > 0) & (other > 0)).sum())
        either += int(((one > 0) | (other > 0)).sum())
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        cosines.append(float(one @ other / lengths) if lengths else 1.0)
    texts = len(expected.indptr) - 1
    return {
        "texts": texts,
        "terms_a_text_as_trained": round(len(expected.indices) / texts, 1),
        "terms_a_text": round(len(found.indices) / texts, 1),
        "terms_shared": round(shared / max(either, 1), 4),
        "least_cosine": round(min(cosines), 5),
        "largest_difference": round(largest, 4),
    }


def spread(rows: SparseRows, row: int, num_terms: int) -> np.ndarray:
    """float32 [terms] of one row."""
    weights, part = np.zeros(num_terms, np.float32), slice(rows.indptr[row], rows.indptr[row + 1])
    weights[rows.indices[part]] = rows.data[part]
    return weights


def write_card(run: Path, out: Path, measured: dict[str, Any], figures: Path) -> None:
    """README.md of the model. Raises WinnowError that lists what nobody told."""
    described = run / "run" / "run.json"
    told = json.loads(described.read_text()) if described.is_file() else {}
    told |= measured | tomllib.loads(figures.read_text())
    card = Template(CARD.read_text())
    missing = [name for name in card.get_identifiers() if name not in told]
    if missing:
        raise WinnowError(f"the card needs {', '.join(missing)}; tell them in {figures}.")
    write_file(out / "README.md", card.substitute({name: as_text(value) for name, value in told.items()}).encode())


def as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).strip("\n")


if __name__ == "__main__":
    main()
