"""What a teacher computed of some texts: a folder that grows part by part, and goes on where it was stopped.

    CACHE/minilm-3f0c2a91b7d4e856/    a folder of the kind `teacher` (docs/format.md)

The number in its name is of the model (the sha256 of its files, its options) and of every id and text, so nothing in it is of others.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from index.errors import IndexFormatError, ModelError, WinnowError, WinnowWarning
from index.files import make_folders, save_array
from index.folder_writer import FolderWriter
from index.manifest import as_json, is_index
from index.storage import Commit, Part, newest_manifest, open_array, read_current
from index.verification import TEACHER as KIND
from index.vocabulary import end_to_end
from retrieval.encoders.protocol import folder_name
from retrieval.queries import checked_text

FORMAT_VERSION = 1  # of what is kept, and of how it is computed
ROWS_A_PART = 4_096  # at least
SHARE_A_PART = 4  # of the rows before it: some 30 parts for ten million rows, each of up to a dozen files that are open when it is read
OF_NO_SCORE = ("device", "tokens_a_batch")  # options that change how fast a model is, not what it says

Fill = Callable[[Path], dict[str, Any]]
Item = TypeVar("Item")


class TeacherError(WinnowError):
    """A teacher does not know what it is asked, or what is kept of it is of other texts."""


def part_size(rows_before: int) -> int:
    """How many rows the next part takes at most."""
    return max(ROWS_A_PART, rows_before // SHARE_A_PART // ROWS_A_PART * ROWS_A_PART)


class Texts(NamedTuple):
    """Queries or documents, in ascending order of their ids."""

    what: str  # "queries" or "documents"
    ids: list[str]
    texts: list[str]
    digests: np.ndarray  # uint64: of each text the first bytes of its sha256
    sha256: str  # of all ids and texts

    @classmethod
    def of(cls, what: str, given: Mapping[str, str]) -> Texts:
        """Raises TeacherError without any, WinnowError for what is no id or no text."""
        if not given:
            raise TeacherError(f"the teachers are given no {what}; give at least one.")
        for text_id in given:
            if not checked_text(f"an id of the {what}", text_id):
                raise WinnowError(f"one of the {what} has an empty id; give each an id of its own.")
        ids, whole, digests = sorted(given), hashlib.sha256(), []
        for text_id in ids:
            own = checked_text(f"the text of {text_id!r:.60}", given[text_id]).encode()
            digests.append(hashlib.sha256(own).digest())
            written = text_id.encode()
            whole.update(b"%d %b %b" % (len(written), written, digests[-1]))
        short = np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8")
        return cls(what, ids, [given[text_id] for text_id in ids], short, whole.hexdigest())

    def write(self, path: Path) -> dict[str, int]:
        """Write ids and digests; returns the description that `shared` needs."""
        text, starts = end_to_end([text_id.encode() for text_id in self.ids])
        for name, array in (("ids.text", text), ("ids.starts", starts), ("digests", self.digests)):
            save_array(path / f"{self.what}.{name}.npy", array)
        return {"rows": len(self.ids), "id_bytes": len(text)}

    def shared(self, path: Path, written: Mapping[str, int]) -> tuple[int, list[str]]:
        """How many of the ids `write` wrote there, and those of them that had other texts then."""
        text = open_array(path / f"{self.what}.ids.text.npy", "uint8", written["id_bytes"]).tobytes()
        starts = open_array(path / f"{self.what}.ids.starts.npy", "int64", written["rows"] + 1).tolist()
        digests = open_array(path / f"{self.what}.digests.npy", "uint64", written["rows"]).tolist()
        before = {text[a:b].decode(): digest for (a, b), digest in zip(pairwise(starts), digests, strict=True)}
        now = {
            text_id: digest
            for text_id, digest in zip(self.ids, self.digests.tolist(), strict=True)
            if text_id in before
        }
        return len(now), [text_id for text_id, digest in now.items() if before[text_id] != digest]


class Asked(NamedTuple):
    """What a teacher is asked of: the model as its user names it, and the texts."""

    name: str
    options: dict[str, Any]  # those that scores depend on
    queries: Texts
    documents: Texts

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any], queries: Texts, documents: Texts) -> Asked:
        """Raises WinnowError for options that no file can hold."""
        try:
            own = json.loads(as_json({key: options[key] for key in options if key not in OF_NO_SCORE}))
        except (TypeError, ValueError) as error:
            raise WinnowError(
                f"the options of {name} are {dict(options)!r:.100}; give texts, numbers, true or false ({error!s:.60})."
            ) from error
        return cls(name, own, queries, documents)

    @property
    def model(self) -> dict[str, Any]:
        """As a manifest tells it."""
        return {"name": self.name, "options": self.options}

    @property
    def texts(self) -> list[str]:
        """As a manifest tells them."""
        return [self.queries.sha256, self.documents.sha256]


class TeacherFolder:
    """One teacher's parts, of one set of texts."""

    def __init__(self, path: Path, asked: Asked, model_error: ModelError | None = None):
        """
        model_error  why the model cannot be had here: what is not in the folder cannot be computed then

        Raises IndexFormatError for a folder that is damaged in any byte.
        """
        self.path, self.asked, self.model_error = path, asked, model_error
        self.commit = self.read()

    @classmethod
    def find(cls, cache: Path, asked: Asked, identify: Callable[[], dict[str, Any]]) -> TeacherFolder:
        """The folder of a teacher, whether anything is in it yet or not.

        identify  all that the model's scores depend on, but for where its files are; raises ModelError where it cannot be had

        Without the model, it is that of the same name and options, if there is one: what was computed elsewhere is of use. Warns of
        that, and where the same ids had other texts before. Raises ModelError, TeacherError where the model's folders are of other texts.
        """
        try:
            identity = identify()
        except ModelError as error:
            return cls.without_model(cache, asked, error)
        told = as_json({"format_version": FORMAT_VERSION, "model": identity, "texts": asked.texts})
        path = cache / f"{folder_name(asked.name)}-{hashlib.sha256(told).hexdigest()[:16]}"
        if not is_index(path) and (others := told_of_others(cache, asked)):
            warnings.warn(f"{cache} holds {others}; {asked.name} is computed anew.", WinnowWarning, stacklevel=4)
        return cls(path, asked)

    @classmethod
    def without_model(cls, cache: Path, asked: Asked, error: ModelError) -> TeacherFolder:
        """See `find`. Raises `error` where nothing is kept of the model."""
        kept, why = kept_of(cache, asked), str(error).rstrip(".")
        if not kept:
            raise error
        found = [path for path, texts in kept if texts == asked.texts]
        if len(found) != 1:
            has = f"{len(found)} models of that name" if found else told_of_others(cache, asked) or "it for other ids"
            raise TeacherError(
                f"{asked.name} cannot be had here ({why}), and {cache} holds {has}; compute it where the model is, with the same "
                "options, ids and texts."
            ) from error
        warnings.warn(f"{why}; what {found[0]} keeps of it is taken.", WinnowWarning, stacklevel=5)
        return cls(found[0], asked, error)

    def read(self) -> Commit | None:
        """What is there, every byte checked; None for a folder that is not there yet."""
        if not is_index(self.path):
            return None
        try:
            return read_current(self.path, KIND, lambda commit: commit, "full")
        except IndexFormatError as error:
            raise IndexFormatError(
                f"{str(error).split(';')[0]}; remove {self.path}, and what is in it is computed again."
            ) from error

    def parts(self, what: str) -> list[Part]:
        """The parts with rows of a kind, in order."""
        names = [] if self.commit is None else self.commit.contents["parts"].get(what, [])
        return [self.commit.parts[name] for name in names] if self.commit else []

    def num_rows(self, what: str) -> int:
        return sum(part.contents["rows"] for part in self.parts(what))

    @property
    def model_part(self) -> Part | None:
        """What `growing` was given to describe the model; its `contents` have it as `model`."""
        return self.commit.parts[self.commit.contents["of"]] if self.commit else None

    @contextmanager
    def growing(self, describe: Fill) -> Iterator[Growing]:
        """To add parts. Raises LockedError while another process does, TeacherError without the model.

        describe  the model, in a new folder
        """
        if self.model_error is not None:
            raise TeacherError(
                f"{self.path} has not all of what {self.asked.name} is to teach, and the model cannot be had here "
                f"({str(self.model_error).rstrip('.')}); compute it where the model is."
            ) from self.model_error
        make_folders(self.path.parent)
        with FolderWriter(self.path, KIND) as files:
            if files.current is None:
                yield Growing.new(files, self.asked, describe)
            else:
                yield Growing(files, files.current.contents, list(files.current.parts.values()))
        self.commit = self.read()


class Growing:
    """A folder while parts are added to it."""

    def __init__(self, files: FolderWriter, contents: Mapping[str, Any], parts: list[Part]):
        self.files, self.contents, self.all_parts = files, contents, parts

    @classmethod
    def new(cls, files: FolderWriter, asked: Asked, describe: Fill) -> Growing:
        """With the part that says of what it is, which the first commit takes along."""
        part = files.new_part()
        sides = {side.what: side.write(part.path) for side in (asked.queries, asked.documents)}
        part.contents = {"model": describe(part.path), **sides}
        contents = {"asked": asked.model, "texts": asked.texts, "of": part.name, "parts": {}}
        return cls(files, contents, [part])

    def parts(self, what: str) -> list[Part]:
        """The parts with rows of a kind, in order."""
        by_name = {part.name: part for part in self.all_parts}
        return [by_name[name] for name in self.contents["parts"].get(what, [])]

    def num_rows(self, what: str) -> int:
        return sum(part.contents["rows"] for part in self.parts(what))

    def add(self, what: str, num_rows: int, fill: Fill, instead: bool = False) -> None:
        """Commit a part with the next rows; `fill` writes them into an empty folder, and tells what reading needs.

        instead  whether it takes the place of all parts of its kind
        """
        part, before = self.files.new_part(), [one.name for one in self.parts(what)]
        part.contents = {**fill(part.path), "rows": num_rows}
        kept = [one for one in self.all_parts if not (instead and one.name in before)]
        own = [part.name] if instead else [*before, part.name]
        contents = {**self.contents, "parts": {**self.contents["parts"], what: own}}
        self.files.commit(contents, [*kept, part])
        self.contents, self.all_parts = contents, [*kept, part]

    def add_all(
        self, what: str, items: Iterator[Item], num_items: int, fill: Callable[[Iterator[Item], Path], dict[str, Any]]
    ) -> None:
        """Parts with a row for each item, committed one after another; `fill` is given some of them and an empty folder."""
        while num_items:
            num_rows = min(part_size(self.num_rows(what)), num_items)
            self.add(what, num_rows, partial(fill, islice(items, num_rows)))
            num_items -= num_rows
        next(items, None)  # ends a progress bar


def kept_of(cache: Path, asked: Asked) -> list[tuple[Path, list[str]]]:
    """(Folder, sha256 of its texts) of all that was asked of this model before, by its name and options."""
    found = []
    for path in sorted(cache.iterdir()) if cache.is_dir() else ():
        manifest = newest_manifest(path) if path.is_dir() else None
        if manifest is not None and manifest.kind == KIND and manifest.contents.get("asked") == asked.model:
            found.append((path, manifest.contents["texts"]))
    return found


def told_of_others(cache: Path, asked: Asked) -> str | None:
    """What to say where the same model was asked of the same ids with other texts; None: it was not, or of these texts too."""
    told: list[tuple[int, str]] = []
    for path, _ in kept_of(cache, asked):
        try:
            commit = read_current(path, KIND, lambda commit: commit)
        except IndexFormatError:  # nobody asked for that one
            continue
        part = commit.parts[commit.contents["of"]]
        sides = asked.queries, asked.documents
        shared = {side.what: side.shared(part.path, part.contents[side.what]) for side in sides}
        differing = [(len(ids), what, ids[0]) for what, (_, ids) in shared.items() if ids]
        if differing:
            count, what, first = differing[0]
            other_texts = f"other texts of {count:,} {what}, for example {first!r:.60}"
            told.append((sum(count for count, _, _ in differing), f"{asked.name}'s in {path.name} for {other_texts}"))
        elif any(count for count, _ in shared.values()):
            return None
    return min(told)[1] if told else None
