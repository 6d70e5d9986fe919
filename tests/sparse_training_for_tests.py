"""A few documents and queries as a BEIR folder, and recipes that train on them in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.training.sparse.recipe import Recipe

WORDS = ("moon", "water", "sea", "flour", "salt", "yeast", "bread", "rain", "weather", "tide", "month", "open")
NUM_TRAINED = 8  # queries; the others are held out


def beir_folder(folder: Path) -> Path:
    """Document i says word i and the two after it; query i asks for word i. Query 0 has two answers; a negative of a query is the answer
    of the query three further on."""
    (folder / "qrels").mkdir(parents=True)
    size = len(WORDS)
    documents = [
        {"_id": f"d{i}", "title": WORDS[i], "text": f"the {WORDS[(i + 1) % size]} and {WORDS[(i + 2) % size]}"}
        for i in range(size)
    ]
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": word} for i, word in enumerate(WORDS)])
    write_lines(
        folder / "negatives.jsonl",
        [{"query_id": f"q{i}", "negatives": [f"d{(i + 3) % size}", f"d{(i + 5) % size}"]} for i in range(NUM_TRAINED)],
    )
    judged = [(f"q{i}", f"d{i}") for i in range(size)]
    write_judgments(folder / "qrels" / "train.tsv", [*judged[:NUM_TRAINED], ("q0", "d11")])
    write_judgments(folder / "qrels" / "dev.tsv", judged[NUM_TRAINED:])
    return folder


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_judgments(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{query}\t{document}\t1\n" for query, document in pairs))


def settings(model: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as TOML has it; `changes` by section and name, as training__steps=2."""
    found: dict[str, Any] = {
        "model": {"start": str(model), "encoder": {"activation": "log1p"}},
        "data": {
            "folder": str(data),
            "negatives": str(data / "negatives.jsonl"),
            "held_out": "dev",
            "others": 4,
        },
        "teachers": [{"name": "bm25"}],
        "loss": {"answers": 3, "negatives": 1, "document_terms": 30.0, "sparsity_warmup": 0.5},
        "training": {
            "steps": 6,
            "learning_rate": 1e-3,
            "warmup": 1,
            "accumulation": 1,
            "evaluate_every": 3,
            "save_every": 2,
        },
    }
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return found


def recipe(model: Path, data: Path, **changes: Any) -> Recipe:
    return Recipe.of(settings(model, data, **changes), "recipe.toml")


def as_toml(recipe: dict[str, Any]) -> str:
    lines = [f"teachers = [{', '.join(map(inline, recipe['teachers']))}]"]
    for section in ("model", "data", "loss", "training"):
        lines += [f"[{section}]", *(f"{name} = {inline(value)}" for name, value in recipe[section].items())]
    return "\n".join(lines)


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {inline(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)
