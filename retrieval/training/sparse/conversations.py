"""Conversations, and the last turn of each rewritten so that it stands for itself.

    [{"History": [...], "Question": ..., "Rewrite": ..., "QuAC_dialog_id": ..., "Question_no": n}, ...]       a .json file, as CANARD's
    {"id": "c1", "turns": [text, or {"speaker", "text"}, ...], "rewrites": [text, ...], "dialogue": "c"}      a line of a .jsonl file

CANARD (Elgohary et al., EMNLP 2019) has the title and the section of an article as the oldest turns. In a .jsonl file (also .gz) the last two
are optional: without rewrites nothing can be learned, but conversations can be searched; without `dialogue` it is what comes before
`<::>` in the id, as MTRAG has it. A `rewrite` beside or instead of `rewrites` is one more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.errors import CorpusError, WinnowError
from retrieval.corpus import ending_of, records_of
from retrieval.queries import conversation_text

OF_CANARD = ("History", "Question", "Rewrite", "QuAC_dialog_id", "Question_no")
WITHIN_DIALOGUE = "<::>"


@dataclass(frozen=True)
class Conversation:
    """
    dialogue  what it is a beginning of: others of the same share its turns
    turns     oldest first; the last is what is asked
    rewrites  of the last turn, each by another person or model, the same one always at the same place
    """

    conversation_id: str
    dialogue: str
    turns: tuple[str, ...]
    rewrites: tuple[str, ...]

    @property
    def text(self) -> str:
        """As an encoder reads it."""
        return conversation_text(self.turns)


def read_conversations(path: str | Path) -> list[Conversation]:
    """In the order of the file. Raises CorpusError, with the record, for what is no conversation and for an id that occurs twice."""
    path = Path(path)
    if not path.is_file() or ending_of(path) not in (".json", ".jsonl"):
        raise CorpusError(
            f"{str(path)!r:.200} is no .json file as CANARD's and no .jsonl file of conversations; give one of them."
        )
    found: dict[str, Conversation] = {}
    for where, record in canard_records(path) if ending_of(path) == ".json" else records_of(path):
        if not isinstance(record, dict):
            raise CorpusError(f"{where} is {record!r:.60}; a conversation must be an object.")
        try:
            one = of_canard(record) if ending_of(path) == ".json" else of_line(record)
            _ = one.text
        except (WinnowError, ValueError) as error:
            raise CorpusError(f"{where}: {error}") from error
        if one.conversation_id in found:
            raise CorpusError(f"{where} has the id {one.conversation_id!r:.60} of an earlier one; give each its own.")
        found[one.conversation_id] = one
    if not found:
        raise CorpusError(f"{path} holds no conversations; give at least one.")
    return list(found.values())


def canard_records(path: Path) -> Iterator[tuple[str, Any]]:
    """(file, record n; what it is)"""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{path} is not valid JSON ({error!s:.100}); fetch it again.") from error
    if not isinstance(records, list):
        raise CorpusError(f"{path} holds {type(records).__name__}; CANARD's files are lists, so fetch it again.")
    for number, record in enumerate(records, 1):
        yield f"{path}, record {number}", record


def of_canard(record: dict[str, Any]) -> Conversation:
    """Raises ValueError for what is none."""
    missing = [name for name in OF_CANARD if name not in record]
    if missing:
        raise ValueError(f"it lacks {missing[0]}; a record of CANARD has {', '.join(OF_CANARD)}.")
    history, dialogue = texts_in(record["History"], "History"), record["QuAC_dialog_id"]
    question, rewrite = texts_in([record["Question"], record["Rewrite"]], "Question and Rewrite")
    name = f"{dialogue}{WITHIN_DIALOGUE}{record['Question_no']}"
    return Conversation(name, str(dialogue), (*history, question), (rewrite,))


def of_line(record: dict[str, Any]) -> Conversation:
    """Raises ValueError for what is none."""
    name = record.get("id", record.get("_id"))
    if not isinstance(name, str) or not name:
        raise ValueError(f"the id is {name!r:.60}; it must be a string that is not empty.")
    turns = record.get("turns")
    said = (
        [turn.get("text") if isinstance(turn, dict) else turn for turn in turns] if isinstance(turns, list) else turns
    )
    rewrites = record.get("rewrites", [])
    if "rewrite" in record and isinstance(rewrites, list):
        rewrites = [*rewrites, record["rewrite"]]
    dialogue = record.get("dialogue", name.partition(WITHIN_DIALOGUE)[0])
    if not isinstance(dialogue, str):
        raise ValueError(f"the dialogue is {dialogue!r:.60}; it must be a string.")
    return Conversation(name, dialogue, tuple(texts_in(said, "turns")), tuple(texts_in(rewrites, "rewrites")))


def texts_in(values: Any, name: str) -> list[str]:
    """Raises ValueError for what is no list of texts, and for a rewrite without words."""
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"{name} is {values!r:.60}; it must be a list of texts.")
    if name == "rewrites" or name.endswith("Rewrite"):
        empty = next((one for one in values if not one.strip()), None)
        if empty is not None:
            raise ValueError(f"{name} has {empty!r:.20}, which has no words; leave it out.")
    return values
