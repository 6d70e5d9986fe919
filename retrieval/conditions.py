"""Which documents a `where=` means: stored fields with their values, or a function of a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from index.documents import Document

Where = Mapping[str, Any] | Callable[[Document], bool]


def fits(document: Document, where: Where) -> bool:
    """True where the document has all the fields, or the function says so. True is not 1; `_id`, `title` and `text` are fields too."""
    if not isinstance(where, Mapping):
        return bool(where(document))
    fields = {"_id": document.doc_id, "title": document.title, "text": document.text, **document.fields}
    return all(
        name in fields and fields[name] == value and isinstance(fields[name], bool) == isinstance(value, bool)
        for name, value in where.items()
    )
