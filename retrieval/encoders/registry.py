"""Models by name: where they are, what their files may not say, and under whose terms they come.

Licences and layouts as their pages on the hub told in 2025 and 2026; the page of the day counts.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from index.errors import WinnowWarning

NON_COMMERCIAL = "CC BY-NC-SA 4.0"
APACHE = "Apache-2.0"
NOT_STATED = "not stated"


class LicenceWarning(WinnowWarning):
    """A model may not be used for everything."""


class Known(NamedTuple):
    """options  what holds where neither the checkpoint's files nor the user say otherwise"""

    hub_name: str
    licence: str
    options: dict[str, Any]

    def tell_licence(self) -> None:
        """Warns where the licence forbids something, or there is none."""
        if self.licence.startswith("CC BY-NC"):
            told = f"is licensed under {self.licence}, not for commercial use"
        elif self.licence == NOT_STATED:
            told = "states no licence on its page; ask its author before you rely on it"
        else:
            return
        warnings.warn(f"{self.hub_name} {told}.", LicenceWarning, stacklevel=3)

    @property
    def queries(self) -> str:
        """What encodes its queries, for a table."""
        if "query_model" in self.options:
            return "a smaller model"
        if self.options.get("query_own_terms"):
            return "the model, own terms only"
        kinds = {"table": "a table of token weights", "binary": "their tokens, each once"}
        return kinds.get(self.options.get("queries", ""), "the model")


ONE_LOG: dict[str, Any] = {"activation": "log1p"}
TWO_LOGS: dict[str, Any] = {"activation": "log1p_log1p"}
BY_TABLE: dict[str, Any] = {"queries": "table"}


def naver(name: str, **options: Any) -> Known:
    return Known(f"naver/{name}", NON_COMMERCIAL, {**ONE_LOG, **options})


def opensearch(name: str, options: dict[str, Any]) -> Known:
    return Known(f"opensearch-project/opensearch-neural-sparse-encoding-{name}", APACHE, options)


SHORT_NAMES = {
    "splade-v3": naver("splade-v3"),
    "splade-v3-distilbert": naver("splade-v3-distilbert"),
    "splade-v3-doc": naver("splade-v3-doc", queries="binary"),
    "splade-v3-lexical": naver("splade-v3-lexical", query_own_terms=True),
    "splade++-ensembledistil": naver("splade-cocondenser-ensembledistil"),
    "splade++-selfdistil": naver("splade-cocondenser-selfdistil"),
    "splade-v2-max": naver("splade_v2_max"),
    "splade-v2-distil": naver("splade_v2_distil"),
    "efficient-splade-v-large": naver(
        "efficient-splade-V-large-doc", query_model="naver/efficient-splade-V-large-query"
    ),
    "efficient-splade-vi-bt-large": naver(
        "efficient-splade-VI-BT-large-doc", query_model="naver/efficient-splade-VI-BT-large-query"
    ),
    "opensearch-v1": opensearch("v1", ONE_LOG),
    "opensearch-v2-distill": opensearch("v2-distill", ONE_LOG),
    "opensearch-doc-v1": opensearch("doc-v1", ONE_LOG | BY_TABLE),
    "opensearch-doc-v2-distill": opensearch("doc-v2-distill", ONE_LOG | BY_TABLE),
    "opensearch-doc-v2-mini": opensearch("doc-v2-mini", ONE_LOG | BY_TABLE),
    "opensearch-doc-v3-distill": opensearch("doc-v3-distill", TWO_LOGS | BY_TABLE),
    "opensearch-doc-v3-gte": opensearch("doc-v3-gte", TWO_LOGS | BY_TABLE),
    "granite-30m-sparse": Known("ibm-granite/granite-embedding-30m-sparse", APACHE, ONE_LOG),
    "splade-pp-en-v1": Known("prithivida/Splade_PP_en_v1", APACHE, ONE_LOG),
    "splade-pp-en-v2": Known("prithivida/Splade_PP_en_v2", APACHE, ONE_LOG),
    "splade-tiny": Known("rasyosef/splade-tiny", NOT_STATED, ONE_LOG),
    "splade-mini": Known("rasyosef/splade-mini", NOT_STATED, ONE_LOG),
}
# a model is known by its name on the hub too
KNOWN: dict[str, Known] = {**{known.hub_name: known for known in SHORT_NAMES.values()}, **SHORT_NAMES}


def table() -> list[str]:
    """The models as rows of a Markdown table."""
    return [
        f"| `{name}` | `{known.hub_name}` | {known.licence} | {known.queries} |" for name, known in SHORT_NAMES.items()
    ]
