"""What differs between what a folder was begun with and what is asked for now, in words."""

from __future__ import annotations

import filecmp
import json
from typing import Any

from index.manifest import MARKER, as_json
from index.storage import Part
from retrieval.written_system import WrittenSystem


def difference(stored: Any, now: Any, name: str = "") -> str | None:
    """The first value of two JSON objects that is not the same, as in "shard_documents 16000, and now it is 4000"; None: they are equal.

    >>> difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    'a.c = 2, and now it is 3'
    """
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in sorted({*stored, *now}):
            found = difference(stored.get(key), now.get(key), f"{name}.{key}" if name else key)
            if found is not None:
                return found
        return None
    return None if stored == now else f"{name} = {stored!r:.80}, and now it is {now!r:.80}"


def model_difference(stored: Part, now: Part, system: WrittenSystem) -> str | None:
    """The same of two model parts. Fusion and reranker, which can be changed in the folder (`winnow tune`), count where `system` says them."""
    names = ["model", "encoder"]
    names += ["fusion"] if system.fusion is not None else []
    names += ["reranker"] if system.reranker is not None else []
    contents = json.loads(as_json(now.contents))
    for name in names:
        found = difference(stored.contents.get(name), contents.get(name), name)
        if found is not None:
            return found
    for path in sorted(now.path.rglob("*")):
        own = path.relative_to(now.path)
        if path.is_file() and own.as_posix() != MARKER:
            old = stored.path / own
            if not old.is_file() or not filecmp.cmp(path, old, shallow=False):
                return f"another {own.as_posix()} of the model"
    return None
