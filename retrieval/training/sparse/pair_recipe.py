"""The recipe of a training set: a TOML file with a seed and a table `[[source]]` for each collection (docs/training.md)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.errors import CorpusError, WinnowError
from retrieval.beir_folder import one_of, qrels_of

OF_ALL = {"kind", "path", "name", "limit", "licence", "dev"}
OF_KIND: dict[str, set[str]] = {  # what a source of a kind may have besides
    "judged": {"split", "exclude-titles-of"},
    "title-abstract": {"cloze"},
    "question-answer": {"cloze", "repeated-ids"},
    "command-descriptions": set(),
    "inverse-cloze": {"cloze", "kept"},
    "body-first": set(),
    "crops": set(),
}
REPEATED_IDS = ("refuse", "last")


@dataclass(frozen=True, slots=True)
class Source:
    """One source; docs/training.md says what each field does."""

    kind: str
    path: str  # below the data folder
    name: str  # ids of its documents begin with it
    limit: int | None = None
    licence: str | None = None
    dev: int = 0
    cloze: int = 0
    kept: float = 0.0
    split: str = "train"
    exclude_titles_of: str | None = None
    repeated_ids: str = "refuse"

    def files(self, data: Path) -> list[Path]:
        """What is read of it. Raises WinnowError for what is not there."""
        path = data / self.path
        if self.kind == "judged":
            splits = [self.split, *([self.exclude_titles_of] if self.exclude_titles_of else [])]
            names = ("corpus.jsonl", "queries.jsonl")
            return [*(one_of(path, name) for name in names), *(qrels_of(path, split) for split in splits)]
        file = one_of(path, "corpus.jsonl") if path.is_dir() else path
        if not file.is_file():
            raise CorpusError(
                f"{file} does not exist; give a BEIR folder or a .jsonl file (or .gz) below the data folder."
            )
        return [file]


@dataclass(frozen=True, slots=True)
class PairRecipe:
    """What a set is made of."""

    sources: tuple[Source, ...]
    seed: int = 0

    @classmethod
    def read(cls, path: str | Path) -> PairRecipe:
        """Raises WinnowError for what is no recipe."""
        path = Path(path)
        if not path.is_file():
            raise WinnowError(f"{path} does not exist; give a TOML file of sources.")
        try:
            written = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise WinnowError(f"{path} is not valid TOML ({error}); correct it.") from error
        if unknown := sorted(written.keys() - {"seed", "source"}):
            raise WinnowError(f"{path} has {unknown[0]!r:.60}; it may have a seed and [[source]] tables.")
        seed, tables = written.get("seed", 0), written.get("source")
        if not is_whole(seed):
            raise WinnowError(f"{path} has the seed {seed!r:.60}; it must be a whole number, 0 or more.")
        if not isinstance(tables, list) or not tables:
            raise WinnowError(f"{path} has no [[source]]; list at least one, with its kind and path.")
        sources = tuple(as_source(table, f"source {number} of {path}") for number, table in enumerate(tables, start=1))
        names = [source.name for source in sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise WinnowError(f"{path} has two sources with the name {twice!r:.60}; give each its own with name = .")
        return cls(sources, seed)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "limit": (lambda value: is_whole(value) and value > 0, "a whole number above 0"),
    "dev": (is_whole, "a whole number, 0 or more"),
    "cloze": (is_whole, "a whole number, 0 or more"),
    "kept": (is_share, "a number from 0 to 1"),
    "repeated-ids": (lambda value: value in REPEATED_IDS, " or ".join(REPEATED_IDS)),
}
A_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str) and bool(value), "a text")


def as_source(table: Any, where: str) -> Source:
    """One table. Raises WinnowError, beginning with `where`."""
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in OF_KIND:
        raise WinnowError(f"{where} has the kind {kind!r:.60}; it must be one of {', '.join(OF_KIND)}.")
    allowed = OF_ALL | OF_KIND[kind]
    if unknown := sorted(table.keys() - allowed):
        raise WinnowError(f"{where} has {unknown[0]!r:.60}; one of kind {kind} may have {', '.join(sorted(allowed))}.")
    for key, value in table.items():
        fits, wanted = CHECKS.get(key, A_TEXT)
        if not fits(value):
            raise WinnowError(f"{where} has {key} = {value!r:.60}; it must be {wanted}.")
    if "path" not in table:
        raise WinnowError(f"{where} has no path; say where it is below the data folder.")
    given = {key.replace("-", "_"): value for key, value in table.items()}
    source = Source(**{"name": Path(table["path"]).name.split(".")[0], **given})
    if source.name.split() != [source.name]:
        raise WinnowError(
            f"{where} has the name {source.name!r:.60}; ids begin with it, so it must be without white space."
        )
    return source
