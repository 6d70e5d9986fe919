"""Vespa: a feed of documents with a mapped tensor, a put a line, and the schema whose rank profile is the dot product.

Weights are float32 and scores exact: the query matches every document, and the first phase ranks them all, which is what parity needs and
no large collection can pay for; there, let a `weakAnd` or `wand` over another field choose the candidates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from index.errors import WinnowError
from index.files import write_file
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.lines import FIELD, as_json, json_rows, query_terms, write_parts
from retrieval.exports.protocol import Format, Sizes

DOCUMENT = "document"
LONGEST_ID = 0xFF00  # bytes
UNTYPED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufdd0-\ufddf" + "".join(chr(0x10000 * n + 0xFFFE) + chr(0x10000 * n + 0xFFFF) for n in range(17)) + "]"
)  # code points that Vespa's strings do not take  # fmt: skip
SCHEMA = f"""schema {DOCUMENT} {{
    document {DOCUMENT} {{
        field id type string {{
            indexing: summary | attribute
        }}
        field {FIELD} type tensor<float>(t{{}}) {{
            indexing: attribute
        }}
    }}
    rank-profile dot_product {{
        inputs {{
            query(q) tensor<float>(t{{}})
        }}
        first-phase {{
            expression: sum(query(q) * attribute({FIELD}))
        }}
    }}
}}
"""


class Vespa(Format):
    name = "vespa"

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        for doc_id in doc_ids:
            if UNTYPED.search(doc_id) or len(doc_id.encode()) > LONGEST_ID:
                raise WinnowError(
                    f"the document {doc_id!r:.60} has a control character in its id or more than {LONGEST_ID:,} bytes, which vespa does not take; "
                    "rename it."
                )

    def check_terms(self, terms: Iterable[str]) -> None:
        for term in terms:
            if not term or UNTYPED.search(term):
                raise WinnowError(
                    f"the term {term!r:.60} is empty or has a control character, which vespa does not take; leave it out."
                )

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        write_file(folder / f"{DOCUMENT}.sd", SCHEMA.encode())
        keys = [json.dumps(term, ensure_ascii=False) for term in terms]
        lines = (
            f'{{"put":{put_id(doc_id)},"fields":{{"id":{doc_id},"{FIELD}":{vector}}}}}\n'
            for batch in batches
            for doc_id, vector in json_rows(batch, keys)
        )
        write_parts(folder, "feed-{}.jsonl", lines)

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        tensor = {terms[number]: weight for number, weight in query_terms(query)}
        asked = {"yql": f"select id from {DOCUMENT} where true", "hits": k, "ranking": "dot_product"}
        return as_json({**asked, "input.query(q)": tensor})


def put_id(doc_id: str) -> str:
    """The document's name in Vespa, from its id, both as JSON."""
    return f'"id:winnow:{DOCUMENT}::{doc_id[1:]}'
