"""A retrieval system as one line: `ARM+ARM,SETTING=VALUE,...`, as in "bm25+minilm,fusion=rrf,rerank=blockrank:MODEL,depth=50".

    arms            names that `Retriever.from_pretrained` knows, with a `+` between them; or one folder that `save_pretrained` wrote
    fusion=HOW      min-max, z-score, theoretical-min, distribution, none, rrf, combsum or combmnz, perhaps with /per-query after it
    rerank=KIND:MODEL, depth=N
                    what orders the best N documents anew; of a saved folder also rerank=none, which leaves its own reranker out
    ARM.NAME=VALUE  an option of one arm, `impacts` among them
    NAME=VALUE      an option of the reranker; without one, of the only arm

A setting begins at a comma that a name and a `=` follow, without a blank; any other comma belongs to what stands before it. `str` gives a
system's one canonical text, whatever the order its settings were written in: read again, it is an equal system.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from index.errors import WinnowError
from index.manifest import is_index
from index.vectors import checked_count
from retrieval.encoders.loading import MODELS, is_checkpoint, load_encoders, of_own_options, split_names
from retrieval.encoders.written_options import NAME, TEXTS, as_value, is_plain, parse_options
from retrieval.fusion import Fusion, Method
from retrieval.normalisation import Normalisation
from retrieval.rerankers.loading import kind_and_model
from retrieval.rerankers.stage import DEFAULT_DEPTH

if TYPE_CHECKING:
    from index.options import WeightImpacts
    from retrieval.encoders.protocol import Encoder

WITHOUT_RERANKER = "none"
SETTINGS = ("fusion", "rerank", "depth")
IsSaved = Callable[[str], bool]


@dataclass(frozen=True)
class WrittenSystem:
    """A system in its parts.

    arms              names of models, or one saved folder
    fusion            as `fusion_of` reads it; None: the default, of a saved folder its own
    reranker          KIND:MODEL; None: without, of a saved folder its own; "none": a saved folder without its own
    depth             documents that are reranked; None where `reranker` names none
    options           of arms, by arm
    reranker_options  of the reranker
    is_saved          whether the arm is a folder that `save_pretrained` wrote

    Raises WinnowError for parts that do not go together or that one line cannot say, ModelError for a kind of reranker that there is not.

    >>> str(WrittenSystem.of("mini+minilm,depth=50,minilm.max_length=64,rerank=icr:MODEL,dtype=bfloat16,fusion=rrf"))
    'mini+minilm,minilm.max_length=64,fusion=rrf,rerank=icr:MODEL,depth=50,dtype=bfloat16'
    """

    arms: tuple[str, ...]
    fusion: str | None = None
    reranker: str | None = None
    depth: int | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reranker_options: Mapping[str, Any] = field(default_factory=dict)
    is_saved: bool = False

    @classmethod
    def of(cls, written: str, *, may_be_saved: bool = True) -> WrittenSystem:
        """The system that a text stands for.

        may_be_saved  False: its arms are models, whatever index lies in a folder called like them
        """
        if not isinstance(written, str):
            raise WinnowError(f"the system is {written!r:.60}; it must be a text such as bm25+minilm,fusion=rrf.")
        return cls(**parsed(written, is_saved_folder if may_be_saved else never))

    @classmethod
    def of_name_or_folder(cls, name_or_folder: str | os.PathLike[str] | WrittenSystem) -> WrittenSystem:
        """What `Retriever.from_pretrained` is asked for: a folder that is there and holds no model is to be opened, even if it cannot be."""
        if isinstance(name_or_folder, WrittenSystem):
            return name_or_folder
        if not isinstance(name_or_folder, str | os.PathLike):
            raise WinnowError(f"the model is {name_or_folder!r}; give a name or a folder.")
        written = str(name_or_folder)
        is_model = written in MODELS or is_checkpoint(written)
        if is_saved_folder(written) or (os.path.exists(written) and not is_model):
            return cls((written,), is_saved=True)
        return cls.of(written)

    def __post_init__(self) -> None:
        self._set("arms", checked_arms(self.arms))
        if self.fusion is not None:
            fusion_of(self.fusion)  # which raises for what is none
            self._set("fusion", re.sub("^convex", "min-max", self.fusion))  # two words for one thing
            if len(self.arms) == 1 and not self.is_saved:
                raise WinnowError(
                    f"the system has one arm, {self.arms[0]!r:.60}, and nothing to fuse it with; leave fusion={self.fusion} out."
                )
        if self.reranker == WITHOUT_RERANKER and not self.is_saved:
            self._set("reranker", None)
        self._check_reranking()
        self._set("reranker_options", checked_options(self.reranker_options))
        self._set("options", checked_options_of_arms(self.arms, self.options))
        if self.is_saved and self.options:
            raise WinnowError(
                f"{self.arms[0]} was saved with its own options; leave {', '.join(self.options[self.arms[0]])} out."
            )
        self._check_is_read_back()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_reranking(self) -> None:
        if self.reranks:
            kind_and_model(str(self.reranker))
            self._set("depth", DEFAULT_DEPTH if self.depth is None else checked_count("depth", self.depth))
            if "impacts" in self.reranker_options:
                raise WinnowError(
                    f"impacts is an option of an arm, not of a reranker; write it as {self.arms[0]}.impacts=..."
                )
            return
        told = [*([f"depth={self.depth}"] if self.depth is not None else []), *self.reranker_options]
        if told:
            raise WinnowError(
                f"the system {'+'.join(self.arms)!r:.100} has {told[0]} but no reranker; write it as bm25,rerank=KIND:MODEL,depth=100."
            )

    def _check_is_read_back(self) -> None:
        """Results are kept by the text, so two systems must not have the same one."""
        again = parsed(str(self), self.arms[0].__eq__ if self.is_saved else never)
        differs = next((name for name, value in again.items() if value != getattr(self, name)), None)
        if differs is not None:
            raise WinnowError(
                f"the system {str(self)!r:.100} would be read with {differs} {again[differs]!r:.60}: a name or a value in it looks like another arm or setting; write it otherwise, as a folder by another name."
            )

    @property
    def reranks(self) -> bool:
        """Whether it names a reranker of its own."""
        return self.reranker not in (None, WITHOUT_RERANKER)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        is_plain = len(self.arms) == 1 and not self.reranks
        parts = ["+".join(self.arms)]
        for arm in self.arms:
            own = self.options.get(arm, {})
            parts += [f"{'' if is_plain else f'{arm}.'}{setting}" for setting in as_settings(own)]
        parts += [f"fusion={self.fusion}"] if self.fusion is not None else []
        parts += [f"rerank={self.reranker}"] if self.reranker is not None else []
        parts += [f"depth={self.depth}"] if self.depth is not None else []
        return ",".join([*parts, *as_settings(self.reranker_options)])

    def without_reranker(self) -> WrittenSystem:
        """The first stage."""
        reranker = WITHOUT_RERANKER if self.is_saved else None
        return replace(self, reranker=reranker, depth=None, reranker_options={})

    def each_arm(self) -> list[WrittenSystem]:
        """A system of each arm alone, with its options; of a saved folder nothing but the folder, without its reranker."""
        if self.is_saved:
            return [self.without_reranker()]
        return [WrittenSystem((arm,), options={arm: self.options.get(arm, {})}) for arm in self.arms]

    def fused(self, depth: int = 1000) -> Fusion | None:
        """How the arms are fused, `depth` hits of each; None where the system does not say."""
        return None if self.fusion is None else fusion_of(self.fusion, depth)

    def encoders(
        self, impacts: WeightImpacts | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Encoder, ...]:
        """The encoders of its arms.

        impacts, options  what is said beside the text, as `load_encoders` takes it

        Raises WinnowError for what is said twice, ModelError for a model that cannot be had.
        """
        beside = dict(options or {})
        if len(self.arms) > 1:
            own = {arm: united(self.options[arm], beside.pop(arm, {})) for arm in self.options}
            return load_encoders(self.arms, impacts, beside | own)
        (arm,) = self.arms
        own = united(self.options.get(arm, {}), beside if impacts is None else {**beside, "impacts": impacts})
        return (of_own_options(arm, own),)

    def check_nothing_beside(self, impacts: WeightImpacts | None, options: Mapping[str, Any]) -> None:
        """Raise WinnowError for what nobody can ask of a saved folder."""
        told = {**({} if impacts is None else {"impacts": impacts}), **options}
        if told:
            raise WinnowError(
                f"{self.arms[0]} was saved with its own options; leave {', '.join(f'{name}={value!r:.40}' for name, value in told.items())} out."
            )


def is_saved_folder(path: str) -> bool:
    """Whether an index lies there; unlike Path's tests, it takes texts that no file can be called."""
    return os.path.isdir(path) and is_index(path)


def never(path: str) -> bool:
    """What is taken for a saved folder where models are meant."""
    return False


class Cut(NamedTuple):
    """A text where its parts meet."""

    arms: list[str]
    is_saved: bool
    settings: list[str]


def parsed(written: str, is_saved_folder: IsSaved) -> dict[str, Any]:
    """The arguments of `WrittenSystem`. Raises WinnowError for settings that mean nothing, or are given twice."""
    arms, is_saved, settings = cut(written, is_saved_folder)
    told: dict[tuple[str | None, str], Any] = {}
    for setting in settings:
        arm = next((arm for arm in arms if re.match(rf"{re.escape(arm)}\.\w+=", setting)), None)
        name, _, value = (setting if arm is None else setting[len(arm) + 1 :]).partition("=")
        if (arm, name) in told:
            raise WinnowError(f"the system {written!r:.100} has {name} twice; give it once.")
        if not NAME.fullmatch(name):
            raise WinnowError(
                f"the system {written!r:.100} has the option {setting!r:.60}, which is of none of its arms ({', '.join(arms)})."
            )
        told[arm, name] = value if arm is None and name in SETTINGS else parse_options([f"{name}={value}"])[name]
    found = {name: told.pop((None, name), None) for name in SETTINGS}
    reranker = found["rerank"]
    bare = {name: told.pop((None, name)) for arm, name in list(told) if arm is None}
    if bare and reranker is None and len(arms) > 1:
        raise WinnowError(
            f"the system {written!r:.100} has {next(iter(bare))}, and does not say of which arm; write it as {arms[-1]}.{next(iter(bare))}=..."
        )
    options: dict[str, dict[str, Any]] = {}
    for (arm, name), value in told.items():
        options.setdefault(str(arm), {})[name] = value
    if reranker is None and bare:
        twice = options.setdefault(arms[0], {}).keys() & bare.keys()
        if twice:
            raise WinnowError(f"the system {written!r:.100} has {min(twice)} twice; give it once.")
        options[arms[0]] |= bare
    return {
        "arms": tuple(arms),
        "fusion": found["fusion"],
        "reranker": reranker,
        "depth": None if found["depth"] is None else as_value(found["depth"]),
        "options": options,
        "reranker_options": {} if reranker is None else bare,
        "is_saved": is_saved,
    }


def cut(written: str, is_saved_folder: IsSaved) -> Cut:
    """A folder on the disk is one arm, whatever signs its name has; else the arms end where the first setting begins."""
    ends = [*(match.start() for match in re.finditer(",", written)), len(written)]
    for end in reversed(ends):
        path, settings = written[:end], re.compile(setting_after([written[:end]]))
        if end < len(written) and not settings.match(written, end):
            continue
        is_saved = is_saved_folder(path)
        if is_saved or is_checkpoint(path):
            return Cut([path], is_saved, settings.split(written[end:])[1:])
    for end in ends[:-1]:
        arms = split_names(written[:end])
        settings = re.compile(setting_after(arms))
        if settings.match(written, end):
            return Cut(arms, False, settings.split(written[end:])[1:])
    return Cut(split_names(written), False, [])


def setting_after(arms: Iterable[str]) -> str:
    """A pattern of the comma before a setting. A name before a dot should be one of the arms; what is none is told, not taken for part of a value."""
    known = "|".join(map(re.escape, arms))
    return rf",(?=(?:(?:{known}|[^\s,=]+)\.)?\w+=)"


def fusion_of(written: str, depth: int = 1000) -> Fusion:
    """The fusion that a text such as "rrf" or "z-score/per-query" stands for. Raises WinnowError."""
    known = get_args(Normalisation) + get_args(Method)
    how, slash, per_query = written.partition("/") if isinstance(written, str) else (written, "", "")
    if (slash and per_query != "per-query") or how not in known:
        raise WinnowError(
            f"fusion is {written!r:.60}; it must be one of {', '.join(known)}, perhaps with /per-query after it."
        )
    field = "method" if how in get_args(Method) else "normalisation"
    return Fusion(**{field: how}, per_query=bool(slash), depth=depth)  # type: ignore[arg-type]


def checked_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """Raises WinnowError unless they are names, at least one, each once."""
    if isinstance(arms, str) or not isinstance(arms, Sequence) or not all(isinstance(arm, str) for arm in arms):
        raise WinnowError(f"the arms are {arms!r:.60}; give a list of names, as in ['bm25', 'minilm'].")
    if not arms or not all(arms):
        raise WinnowError(
            f"the arms of a system are {'+'.join(arms)!r:.60}, one of them without a name; write them as bm25 or bm25+minilm."
        )
    if twice := next((arm for arm in arms if list(arms).count(arm) > 1), None):
        raise WinnowError(f"the system {'+'.join(arms)!r:.100} has the arm {twice} twice; give it once.")
    return tuple(arms)


def checked_options_of_arms(arms: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Raises WinnowError for options of what is no arm."""
    for arm, own in options.items():
        if arm not in arms or not isinstance(own, Mapping):
            raise WinnowError(f"the options {own!r:.60} are of {arm!r:.60}; give them by arm, of {', '.join(arms)}.")
    return {arm: checked for arm in arms if (checked := checked_options(options.get(arm, {})))}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as one line says them: a text that looks like a number is one. Raises WinnowError for names and values that it cannot say."""
    return {name: checked_value(name, options[name]) for name in sorted(options)}


def checked_value(name: str, value: Any) -> Any:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in SETTINGS:
        raise WinnowError(f"there is no option {name!r:.60}; give one that docs/models.md names.")
    is_text = name.endswith(TEXTS)
    read = as_value(value) if isinstance(value, str) and not is_text else value
    if is_plain(read) and (isinstance(read, str) or not is_text):
        return read
    kinds = "a text" if is_text else "a text, a number, true, false, null or a list of these"
    raise WinnowError(f"the option {name} is {value!r:.60}; it must be {kinds}.")


def as_settings(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value if isinstance(value, str) else as_json(value)}" for name, value in options.items()]


def as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def united(own: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Both. Raises WinnowError for an option that both have."""
    if not isinstance(beside, Mapping):
        raise WinnowError(
            f"the options of a model are {beside!r:.60}; give them by name, as in minilm={{'max_length': 128}}."
        )
    if twice := own.keys() & beside.keys():
        raise WinnowError(f"{min(twice)} is given within the system's name and beside it; give it once.")
    return {**own, **beside}
