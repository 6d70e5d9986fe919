"""What a BlockRank checkpoint needs beside its weights: the prompt, the layer and rows that are read, the positions.

A model's own files do not tell any of it (Gupta et al., arXiv:2510.05396), so it is kept in `blockrank.json` beside them.
Lengths are in tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from index.errors import ModelError, WinnowError
from index.files import write_file
from retrieval.encoders.model_files import read_json
from retrieval.encoders.options import LONGEST_TEXT, check_choice, check_whole

FILE = "blockrank.json"
FORMAT_VERSION = 1  # of the file
MOST_LAYERS = 10_000
PROMPT_VERSION = 1  # of what `prompt` makes of the same settings; states of documents kept by another are of no use

Chat = Literal["template", "none", "explicit"]
FIELD = re.compile(r"\{([a-z_]+)\}")
ALLOWED = {  # in each template: the fields it may have, those it must have once
    "instruction": ({"query"}, set()),
    "document": ({"id", "text"}, {"text"}),
    "last": ({"query"}, set()),
    "answer": (set(), set()),
    "completion": ({"ids"}, {"ids"}),
}
FRAMES = ("before", "between", "after")

# the words of the published prompt, which its checkpoint was trained with
READ = (
    "You need to read carefully and understand all of them and your goal is to find all document(s) from the list that can help "
    "answer the query."
)
INSTRUCTION = (
    "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: <content> | "
    f"END ID: <id>. {READ}\nQuery: {{query}}\n\nDocuments:"
)
DOCUMENT = "ID: {id} | CONTENT: {text} | END ID: {id}"
QUESTION = "Which document is most relevant to answer the query?"
LAST = (
    f"\n====== Now let's start! ======\n{QUESTION} Print out the ID of the document.\nQuery: {{query}}\n"
    "The following document(s) can help answer the query:"
)
# ours, for states of documents that serve every query
OF_ANY_QUERY = "You will be given a list of documents and then a query. Each document will be formatted as"
INSTRUCTION_WITHOUT_QUERY = f"{OF_ANY_QUERY} ID: <id> | CONTENT: <content> | END ID: <id>. {READ}\n\nDocuments:"
INSTRUCTION_WITHOUT_IDS = f"{OF_ANY_QUERY} CONTENT: <content> | END. {READ}\n\nDocuments:"
DOCUMENT_WITHOUT_IDS = "CONTENT: {text} | END"
LAST_WITHOUT_IDS = LAST.replace(" Print out the ID of the document.", "")


@dataclass(frozen=True)
class BlockRankSettings:
    """How a prompt is written and where in the model its scores are read.

    instruction      the first block, which all see; {query} is the query, and without it the documents' states serve every query
    document         a document's block; {text} is its text, {id} its number in the list from 0, which may be left out
    last             the block that asks; {query} is the query
    answer           the beginning of the model's turn, read with `last`
    completion       what the model is to go on with, tokenized apart; {ids} are the numbers of relevant documents. A prompt ends before
                     them.
    chat             what stands around the turns: the tokenizer's chat template; none: a new line between them, and the first token that
                     the tokenizer gives every text; explicit: `before`, `between` and `after`
    score_layer      the layer, from 0, whose attention is the score
    signal_tokens    the rows read there, counted from the end of the prompt; or "query", the query's own tokens in the last block
    last_position    of the first token of the last block; None: after the longest document that is allowed
    document_tokens  the most a document's block may have, marks included; texts are cut to fit
    query_tokens     the most of a query that is read

    >>> default_settings(32).score_layer, default_settings(32).signal_tokens, default_settings(32).is_query_free
    (20, 'query', True)
    """

    score_layer: int
    instruction: str = INSTRUCTION
    document: str = DOCUMENT
    last: str = LAST
    answer: str = "Final Answer: "
    completion: str = "[{ids}]"
    chat: Chat = "template"
    before: str = ""
    between: str = ""
    after: str = ""
    signal_tokens: tuple[int, ...] | Literal["query"] = (-2, -1)
    last_position: int | None = None
    document_tokens: int = 384
    query_tokens: int = 256

    def __post_init__(self) -> None:
        check_choice("chat", self.chat, get_args(Chat))
        for name in (*ALLOWED, *FRAMES):
            check_text(name, getattr(self, name))
        for name, (allowed, needed) in ALLOWED.items():
            check_template(name, getattr(self, name), allowed, needed)
        if "{query}" not in self.instruction + self.last:
            raise WinnowError(
                f"instruction is {self.instruction!r:.40} and last {self.last!r:.40}; one of them must have {{query}}, so put it there."
            )
        given = [name for name in FRAMES if getattr(self, name) and self.chat != "explicit"]
        if given:
            raise WinnowError(
                f"{given[0]} is {getattr(self, given[0])!r:.40} and chat {self.chat!r}; only chat='explicit' has it, so leave one out."
            )
        if type(self.score_layer) is not int or not 0 <= self.score_layer < MOST_LAYERS:
            raise WinnowError(
                f"score_layer is {self.score_layer!r:.40}; it must be a whole number from 0 to {MOST_LAYERS - 1:,}, so give one."
            )
        check_whole("document_tokens", self.document_tokens, LONGEST_TEXT)
        check_whole("query_tokens", self.query_tokens, LONGEST_TEXT)
        if self.last_position is not None:
            check_whole("last_position", self.last_position, 1 << 30)
        object.__setattr__(self, "signal_tokens", checked_signal(self.signal_tokens))
        if self.signal_tokens == "query" and "{query}" not in self.last:
            raise WinnowError(
                f"signal_tokens is 'query' and last is {self.last!r:.60}; it must have {{query}}, so put it there."
            )

    @property
    def is_query_free(self) -> bool:
        """Whether a document's states are the same for every query."""
        return "{query}" not in self.instruction

    @property
    def has_ids(self) -> bool:
        """Whether a document's block, and so its states, depends on where in the list it is."""
        return "{id}" in self.document

    def query_free(self, *, ids: bool = False) -> BlockRankSettings:
        """The same with our words for documents that are read before the query is known; without ids, in any place of a list too."""
        if ids:
            return replace(self, instruction=INSTRUCTION_WITHOUT_QUERY, document=DOCUMENT, last=LAST)
        return replace(self, instruction=INSTRUCTION_WITHOUT_IDS, document=DOCUMENT_WITHOUT_IDS, last=LAST_WITHOUT_IDS)

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of all settings that the states of a document depend on; not of the query, where they do on that."""
        names = ["instruction", "document", "chat", "before", "document_tokens", "score_layer"]
        if not self.is_query_free:
            names.append("query_tokens")
        content = {"prompt_version": PROMPT_VERSION} | {name: getattr(self, name) for name in names}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def position_of_last(self, num_instruction: int) -> int:
        """Of the last block's first token, after an instruction of so many tokens. Raises WinnowError where documents reach it."""
        stop = num_instruction + self.document_tokens
        if self.last_position is None:
            return stop
        if self.last_position < stop:
            raise WinnowError(
                f"last_position is {self.last_position:,}, and documents reach position {stop:,} (instruction {num_instruction:,}, "
                f"document_tokens {self.document_tokens:,}); give fewer document_tokens."
            )
        return self.last_position

    def check_layers(self, num_layers: int, name: str) -> None:
        """Raise ModelError where the model has no score layer."""
        if self.score_layer >= num_layers:
            raise ModelError(
                f"score_layer is {self.score_layer}, and {name} has {num_layers} layers; give one from 0 to {num_layers - 1}."
            )

    def save(self, folder: Path) -> None:
        """Write blockrank.json there. Raises StorageError."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_file(folder / FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def open(cls, folder: Path) -> BlockRankSettings:
        """As saved there. Raises ModelError."""
        path, known = folder / FILE, {field.name for field in fields(cls)}
        content = read_json(path)
        version = content.pop("format_version", None)
        if type(version) is not int or version < 1:
            raise ModelError(
                f"{path} has format_version {version!r:.40}; it must be {FORMAT_VERSION}, so get the file again."
            )
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{path} has format_version {version}, and this release reads up to {FORMAT_VERSION}; use a newer one."
            )
        strange, missing = sorted(content.keys() - known), sorted(known - content.keys())
        if strange or missing:
            said = f"holds {strange[0]!r:.40}, which is not known" if strange else f"has no {missing[0]}"
            raise ModelError(f"{path} {said}; it must hold {', '.join(sorted(known))}, so get the file again.")
        try:
            return cls(**content)
        except WinnowError as error:
            raise ModelError(f"{path} cannot be used: {error}") from error


def check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise WinnowError(f"{name} is {value!r:.60}; it must be a text, so put it in quotes.")
    if re.search("[\ud800-\udfff]", value):
        raise WinnowError(f"{name} is {value!r:.60}, which is not valid Unicode; write it again.")


def check_template(name: str, value: str, allowed: set[str], needed: set[str]) -> None:
    """Braces around anything but a small word are text."""
    found = FIELD.findall(value)
    strange = [field for field in found if field not in allowed]
    if strange:
        may = f"only {', '.join(f'{{{field}}}' for field in sorted(allowed))}" if allowed else "none"
        raise WinnowError(
            f"{name} has the field {{{strange[0]:.40}}}; it may have {may}, so write it without these braces."
        )
    for field in needed:
        if found.count(field) != 1:
            raise WinnowError(f"{name} is {value!r:.60}; it must have {{{field}}} once, so put it where it belongs.")


def checked_signal(given: Any) -> tuple[int, ...] | Literal["query"]:
    """JSON has lists only."""
    if given == "query":
        return "query"
    found = tuple(given) if isinstance(given, list | tuple) else ()
    if (
        not found
        or any(type(one) is not int or not -LONGEST_TEXT < one < 0 for one in found)
        or len(set(found)) < len(found)
    ):
        raise WinnowError(
            f"signal_tokens is {given!r:.60}; it must be 'query', or whole numbers below 0, each once, so give them as in [-2, -1]."
        )
    return found


PUBLISHED = "quicktensor/blockrank-msmarco-mistral-7b"
KNOWN = {PUBLISHED: BlockRankSettings(score_layer=20, last_position=16384)}


def default_settings(num_layers: int) -> BlockRankSettings:
    """For a decoder that nothing is known of: documents are read before the query, whose own tokens look for them at a layer about two
    thirds up, as published (20 of 32). What an untrained model attends to from the end of a prompt says less of relevance."""
    check_whole("num_layers", num_layers, 10_000)
    layer = min(round(0.64 * num_layers), num_layers - 1)
    return BlockRankSettings(layer, signal_tokens="query").query_free()


def load_settings(
    name: str,
    folder: Path | None,
    num_layers: int,
    options: Mapping[str, Any] | None = None,
    *,
    query_free: bool = False,
) -> BlockRankSettings:
    """Of a checkpoint: what `folder` says, else what is known of its name, else the defaults; single fields as `options` say.

    query_free  with our words for documents that are read before the query, unless the words found are so already

    Raises ModelError where the file is damaged or the model has no such layer, WinnowError for options that are not known or wrong.
    """
    if folder is not None and (folder / FILE).exists():
        found = BlockRankSettings.open(folder)
    else:
        found = KNOWN[name] if name in KNOWN else default_settings(num_layers)
    if query_free and not found.is_query_free:
        found = found.query_free()
    known = [field.name for field in fields(found)]
    for option in options or {}:
        if option not in known:
            raise WinnowError(f"{option!r:.40} is no setting of BlockRank; leave it out, or give {', '.join(known)}.")
    found = replace(found, **(options or {}))
    found.check_layers(num_layers, name)
    return found
