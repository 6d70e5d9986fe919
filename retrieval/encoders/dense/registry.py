"""Dense models by name: where they are, what their files may not say, and under whose terms they come.

Licences, prompts and poolings as their pages on the hub told in 2025 and 2026; the page of the day counts.
"""

from __future__ import annotations

from typing import Any

from retrieval.encoders.minilm import HUB_NAME
from retrieval.encoders.registry import APACHE, Known

MIT = "MIT"
NON_COMMERCIAL = "CC BY-NC 4.0"
MINILM = ("minilm", HUB_NAME)  # whose weights may also come from a package

MEAN: dict[str, Any] = {"pooling": "mean"}
CLS: dict[str, Any] = {"pooling": "cls"}
E5 = MEAN | {"query_prefix": "query: ", "document_prefix": "passage: "}
SEARCHING = CLS | {"query_prefix": "Represent this sentence for searching relevant passages: "}
INSTRUCTED = {
    "pooling": "last",
    "end_token": "</s>",
    "query_prefix": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
}
DOT: dict[str, Any] = {"similarity": "dot"}

SHORT_NAMES = {
    "e5-small-v2": Known("intfloat/e5-small-v2", MIT, E5),
    "e5-base-v2": Known("intfloat/e5-base-v2", MIT, E5),
    "e5-large-v2": Known("intfloat/e5-large-v2", MIT, E5),
    "multilingual-e5-small": Known("intfloat/multilingual-e5-small", MIT, E5),
    "multilingual-e5-base": Known("intfloat/multilingual-e5-base", MIT, E5),
    "multilingual-e5-large": Known("intfloat/multilingual-e5-large", MIT, E5),
    "e5-mistral-7b": Known("intfloat/e5-mistral-7b-instruct", MIT, INSTRUCTED),
    "bge-small-en": Known("BAAI/bge-small-en-v1.5", MIT, SEARCHING),
    "bge-base-en": Known("BAAI/bge-base-en-v1.5", MIT, SEARCHING),
    "bge-large-en": Known("BAAI/bge-large-en-v1.5", MIT, SEARCHING),
    "gte-small": Known("thenlper/gte-small", MIT, MEAN),
    "gte-base": Known("thenlper/gte-base", MIT, MEAN),
    "gte-large": Known("thenlper/gte-large", MIT, MEAN),
    "arctic-embed-xs": Known("Snowflake/snowflake-arctic-embed-xs", APACHE, SEARCHING),
    "arctic-embed-s": Known("Snowflake/snowflake-arctic-embed-s", APACHE, SEARCHING),
    "arctic-embed-m": Known("Snowflake/snowflake-arctic-embed-m", APACHE, SEARCHING),
    "all-mpnet-base": Known("sentence-transformers/all-mpnet-base-v2", APACHE, MEAN),
    "gtr-t5-base": Known("sentence-transformers/gtr-t5-base", APACHE, MEAN),
    "contriever": Known("facebook/contriever", NON_COMMERCIAL, MEAN | DOT),
    "contriever-msmarco": Known("facebook/contriever-msmarco", NON_COMMERCIAL, MEAN | DOT),
}
# a model is known by its name on the hub too
KNOWN: dict[str, Known] = {**{known.hub_name: known for known in SHORT_NAMES.values()}, **SHORT_NAMES}


def table() -> list[str]:
    """The models as rows of a Markdown table."""
    return [
        f"| `{name}` | `{known.hub_name}` | {known.licence} | {known.options['pooling']} | {shown(known, 'query')} | "
        f"{shown(known, 'document')} |"
        for name, known in SHORT_NAMES.items()
    ]


def shown(known: Known, side: str) -> str:
    prefix = known.options.get(f"{side}_prefix")
    return f"`{prefix}`".replace("\n", "\\n") if prefix else ""
