"""What a user may say of a model beside its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from index.errors import ModelError, WinnowError
from retrieval.encoders.model_files import COMMIT, ModelFiles, read_json
from retrieval.encoders.options import NeuralOptions, check_choice
from retrieval.encoders.shipped import SHIPPED

NEURAL = tuple(option.name for option in fields(NeuralOptions))


@dataclass(frozen=True)
class Wishes:
    """What a user may say of a model beside its name.

    document, query    options of one side, see NeuralOptions
    queries            model: by a model; table: by the checkpoint's token weights; binary: each token weighs 1
    query_model        the checkpoint of queries, where it is another one
    base_model         of an adapter, if not the one it names
    revision           of the checkpoint on the hub
    trust_remote_code  runs Python code that comes with the checkpoint: only of a commit, so that it cannot change, and never that
                       of a query_model or base_model
    device             where models run, as PyTorch calls it; None: on a CUDA device where there is one. No index keeps it
    of_queries         the options that were said of queries alone
    """

    of_a_side: ClassVar[tuple[str, ...]] = NEURAL
    of_nobody: ClassVar[tuple[str, ...]] = ("document", "query", "of_queries")  # fields that are no options

    document: dict[str, Any] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    queries: Literal["model", "table", "binary"] | None = None
    query_model: str | None = None
    base_model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    of_queries: frozenset[str] = frozenset()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From keyword arguments: an option of a side, for one side with document_ or query_ before it, or one of the whole.

        Raises WinnowError for others.
        """
        own = {one.name for one in fields(cls)} - set(cls.of_nobody)
        document: dict[str, Any] = {}
        query: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, value in given.items():
            side, _, option = name.partition("_")
            if name in own:
                rest[name] = value
            elif name in cls.of_a_side:
                document.setdefault(name, value)
                query.setdefault(name, value)
            elif side in ("document", "query") and option in cls.of_a_side:
                (document if side == "document" else query)[option] = value
            else:
                raise WinnowError(
                    f"there is no model option {name!r:.60}; there are {', '.join(sorted(own))}, and for both sides or one (with "
                    f"document_ or query_ before it) {', '.join(cls.of_a_side)}."
                )
        if rest.get("queries") is not None:
            check_choice("queries", rest["queries"], ("model", "table", "binary"))
        check_choice("trust_remote_code", rest.get("trust_remote_code", False), (True, False))
        for name in ("query_model", "base_model", "revision", "device"):
            if not isinstance(rest.get(name), str | None):
                raise WinnowError(f"{name} is {rest[name]!r:.60}; it must be a text.")
        if rest.get("trust_remote_code") and not COMMIT.fullmatch(rest.get("revision") or ""):
            raise ModelError(
                f"trust_remote_code runs code of the checkpoint, and revision is {rest.get('revision')!r:.60}; give the commit that "
                "you have read, all 40 digits of it."
            )
        return cls(
            document,
            query,
            of_queries=frozenset(name[6:] for name in given if name.startswith("query_") and name[6:] in query),
            **rest,
        )

    def files(self, name: str, part: str = "") -> ModelFiles:
        """The model in a part of a checkpoint, with the base of an adapter."""
        where = str(Path(name).absolute()) if os.path.isdir(name) and name not in SHIPPED else name
        files = ModelFiles(where, self.revision, self.trust_remote_code, part)
        if self.trust_remote_code:
            files.check_code()
        if not (files.folder / "adapter_config.json").is_file():
            return files
        return replace(files, base=self.base_of(files))

    def base_of(self, adapter: ModelFiles) -> ModelFiles:
        """The model that an adapter changes: `base_model`, or the one that the adapter names, with its revision; a path that is relative
        begins at the adapter, else where the program runs. Raises ModelError.
        """
        config = read_json(adapter.folder / "adapter_config.json")
        if config.get("peft_type") != "LORA":
            raise ModelError(
                f"{adapter.name} is an adapter of the kind {config.get('peft_type')!r:.40}; only LORA is read."
            )
        named = str(self.base_model or config.get("base_model_name_or_path") or "")
        if not named:
            raise ModelError(f"{adapter.name} is an adapter that does not name its base model; give base_model.")
        beside = adapter.folder / named
        revision = None if self.base_model else config.get("revision")
        base = ModelFiles(str(beside.resolve()) if beside.is_dir() else named, revision)
        try:
            _ = base.folder
        except ModelError as error:
            raise ModelError(
                f"{adapter.name} is an adapter of {named!r:.80}, which is neither a folder nor a model that the hub gives; give base_model."
            ) from error
        return base

    def alone(self) -> Self:
        """What holds of another checkpoint too: nothing that was said of this one."""
        return replace(self, revision=None, trust_remote_code=False, base_model=None)
