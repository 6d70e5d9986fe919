"""A training run as a TOML file says it.

[model]      where it begins: `ModelOptions`, with the options of encoding in [model.encoder] (docs/models.md)
[data]       what it learns from: `DataOptions`
[[teachers]] what it learns from them: `TeacherOptions`, one table each
[loss]       `SparseOptions`
[training]   `TrainingOptions`
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from index.errors import WinnowError
from retrieval.encoders.options import check_number
from retrieval.training.options import TrainingOptions
from retrieval.training.sparse.options import SparseOptions

Head = Literal["own", "tied"]
Queries = Literal["table", "siamese", "model"]
QueryWeights = Literal["idf", "ones", "checkpoint"]
Options = TypeVar("Options")
SAID_ELSEWHERE = {"queries": "model.queries", "device": "--device"}  # of the options of encoding


@dataclass(frozen=True)
class ModelOptions:
    """
    start            a masked or causal language model: a folder, a name on the hub, or minilm
    head             own: the model's; tied: the input embeddings of an encoder without one, see `tied_head`
    threshold        of a tied head, taken off every logit by its bias
    queries          table: a weight for each token, no model (inference-free); siamese: the documents' model; model: one of their own,
                     which begins as the same
    query_weights    of a table: idf of the documents trained on; ones; or as the checkpoint has them
    learned          whether a table's weights are trained
    frozen_documents whether only the queries' side is trained
    lora             rank of adapters that are trained instead of the weights; 0: none
    dropout          of the model's layers, but of attention
    tokens_at_once   gradient caching: the activations of so many tokens are kept at a time; 0: of all
    encoder          options of encoding, as `from_pretrained` takes them
    """

    start: str = ""
    head: Head = "own"
    threshold: float = 2.5
    queries: Queries = "table"
    query_weights: QueryWeights = "idf"
    learned: bool = False
    frozen_documents: bool = False
    lora: int = 0
    dropout: float = 0.0
    tokens_at_once: int = 0
    encoder: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("threshold", "lora", "tokens_at_once"):
            check_number(f"model.{name}", getattr(self, name), math.inf)
        check_number("model.dropout", self.dropout, 1.0)
        if self.learned and self.queries != "table":
            raise WinnowError(f"model.learned is of a table, and model.queries is {self.queries!r}; leave it out.")
        if self.frozen_documents and (self.queries == "siamese" or (self.queries == "table" and not self.learned)):
            raise WinnowError(
                f"model.frozen_documents leaves nothing to train where model.queries is {self.queries!r}; give 'model', or a table with "
                "learned = true."
            )
        for option, instead in SAID_ELSEWHERE.items():
            if option in self.encoder:
                raise WinnowError(f"model.encoder has {option} = {self.encoder[option]!r:.40}; say {instead} instead.")
        if "query_model" in self.encoder and self.queries != "model":
            raise WinnowError(f"model.encoder has a query_model, and model.queries is {self.queries!r}; give 'model'.")


@dataclass(frozen=True)
class DataOptions:
    """
    folder       a BEIR folder
    split        of its judgments
    negatives    a file of `winnow mine`; empty: none
    held_out     the split that is evaluated on; empty: none
    others       documents beside the answers that held-out queries are searched in, drawn from the corpus
    max_length   tokens of a document that are read while training; 0: as many as the encoder reads afterwards
    conversations  a file of conversations with rewrites (`conversations`), from which a query side is to learn; of `folder` the corpus alone
                 is read then: passages, without judgments
    found        passages that a conversation's rewrites find, best first, which its batch is drawn from: the first counts as its answer, the
                 others are negatives
    dialogues_held_out  the part of the dialogues that is evaluated on: whether a conversation finds what its rewrites find first
    """

    folder: str = ""
    split: str = "train"
    negatives: str = ""
    held_out: str = ""
    others: int = 1000
    max_length: int = 0
    conversations: str = ""
    found: int = 32
    dialogues_held_out: float = 0.0

    def __post_init__(self) -> None:
        for name in ("others", "max_length"):
            check_number(f"data.{name}", getattr(self, name), math.inf)


@dataclass(frozen=True)
class TeacherOptions:
    """
    name     as `teachers.teacher_of` takes it, which are asked of a conversation's first rewrite; beside these, of conversations, `rewrites`
             (their mean) or `rewrites:2` (the second of each): what the model scores them before training
    weight   among the teachers
    options  of its model
    """

    name: str = ""
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise WinnowError("one of the teachers has no name; give it, such as bm25 or minilm.")
        check_number(f"the weight of the teacher {self.name}", self.weight, math.inf)


@dataclass(frozen=True)
class Recipe:
    """All of it. Paths are as in the file: from where the program runs."""

    model: ModelOptions
    data: DataOptions
    teachers: tuple[TeacherOptions, ...]
    loss: SparseOptions
    training: TrainingOptions

    @classmethod
    def read(cls, path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
        """From a file, with `changes` by section and name: {"training.steps": 100}. Raises WinnowError."""
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WinnowError(f"{path} cannot be read as TOML ({error!s:.120}); give a recipe of training.") from error
        for name, value in (changes or {}).items():
            change(found, name, value, str(path))
        return cls.of(found, str(path))

    @classmethod
    def of(cls, found: Mapping[str, Any], where: str) -> Recipe:
        """Raises WinnowError for what is not known, or of another type."""
        if unknown := sorted(set(found) - {one.name for one in fields(cls)}):
            raise WinnowError(
                f"{where} has {unknown[0]!r:.40}; a recipe has {', '.join(one.name for one in fields(cls))}."
            )
        teachers = found.get("teachers", [])
        if not isinstance(teachers, list):
            raise WinnowError(f"{where} has teachers that are no list; write each under [[teachers]].")
        made = [made_of(TeacherOptions, one, f"{where}, [[teachers]]") for one in teachers]
        loss = found.get("loss", {})
        if any(one.weight != 1 for one in made) and isinstance(loss, Mapping):
            if "teacher_weights" in loss:
                raise WinnowError(
                    f"{where} has loss.teacher_weights and a weight under [[teachers]]; keep one of the two."
                )
            loss = {**loss, "teacher_weights": [one.weight for one in made]}
        recipe = cls(
            made_of(ModelOptions, found.get("model", {}), f"{where}, [model]"),
            made_of(DataOptions, found.get("data", {}), f"{where}, [data]"),
            tuple(made),
            made_of(SparseOptions, loss, f"{where}, [loss]"),
            made_of(TrainingOptions, found.get("training", {}), f"{where}, [training]"),
        )
        for name, value in (("model.start", recipe.model.start), ("data.folder", recipe.data.folder)):
            if not value:
                raise WinnowError(f"{where} does not say {name}; give it.")
        recipe.loss.check_teachers(len(recipe.teachers))
        recipe.check_conversations(where)
        return recipe

    def check_conversations(self, where: str) -> None:
        """Raises WinnowError for settings that only conversations have, or must have, and one that frozen documents have not."""
        of_rewrites = [one.name for one in self.teachers if one.name.partition(":")[0] == "rewrites"]
        if self.model.frozen_documents and self.data.max_length:
            raise WinnowError(
                f"{where} has data.max_length = {self.data.max_length} and frozen_documents = true; documents that are not trained are computed "
                "once, as they are found afterwards, so leave it out."
            )
        if not self.data.conversations:
            if self.data.dialogues_held_out:
                raise WinnowError(
                    f"{where} has data.dialogues_held_out = {self.data.dialogues_held_out} and no data.conversations; give data.held_out, or a "
                    "file of conversations."
                )
            if of_rewrites:
                raise WinnowError(
                    f"{where} names the teacher {of_rewrites[0]!r:.40}, and data.conversations is empty; give a file of conversations."
                )
            return
        if not self.model.frozen_documents:
            raise WinnowError(
                f"{where} learns from conversations with frozen_documents = false; rewrites are scored with documents as they are, so give "
                "frozen_documents = true."
            )
        for name in ("negatives", "held_out"):
            if getattr(self.data, name):
                raise WinnowError(
                    f"{where} has data.{name} = {getattr(self.data, name)!r:.60} beside conversations, which have no judgments; leave it out."
                )
        if self.data.found < 2:
            raise WinnowError(f"{where} has data.found = {self.data.found}; a ranking has 2 passages or more.")


def change(found: dict[str, Any], name: str, value: Any, path: str) -> None:
    """Set what `name` says, such as loss.contrastive or teachers.0.weight. Raises WinnowError where it says no place."""
    *sections, key = name.split(".")
    place: Any = found
    for section in sections:
        if isinstance(place, list) and section.isdecimal() and int(section) < len(place):
            place = place[int(section)]
        elif isinstance(place, dict):
            place = place.setdefault(section, {})
        else:
            place = None
    if not isinstance(place, dict) or not key:
        raise WinnowError(
            f"{name!r:.60} cannot be set: {path} has no table of that name; name it as loss.contrastive or teachers.0.weight."
        )
    place[key] = value


def made_of(kind: type[Options], found: Any, where: str) -> Options:
    """Options of a table. Raises WinnowError for a name that it has not, and a value of another type."""
    if not isinstance(found, Mapping):
        raise WinnowError(f"{where} is {found!r:.40}; it must be a table.")
    hints = get_type_hints(kind)
    if unknown := sorted(set(found) - set(hints)):
        raise WinnowError(f"{where} has {unknown[0]!r:.40}; it may have {', '.join(hints)}.")
    given = {name: as_type(value, hints[name], f"{where}: {name}") for name, value in found.items()}
    return kind(**given)


def as_type(value: Any, hint: Any, where: str) -> Any:
    """The value as a field of this type has it. Raises WinnowError."""
    choices = get_args(hint)
    if NoneType in choices:  # a number or nothing, which TOML writes as 0
        nothing = value is None or (value == 0 and not isinstance(value, bool))
        return None if nothing else as_type(value, choices[0], where)
    if getattr(hint, "__origin__", hint) is Literal:
        if value not in choices:
            raise WinnowError(f"{where} is {value!r:.40}; it must be {', '.join(map(str, choices))}.")
        return value
    wanted = getattr(hint, "__origin__", hint)
    if wanted is tuple and isinstance(value, list):
        return tuple(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise WinnowError(
            f"{where} is {value!r:.40}; it must be of type {'list' if wanted is tuple else wanted.__name__}."
        )
    return value
