"""What a cell cost in time and space, as columns of a table."""

from __future__ import annotations

from typing import Any, NamedTuple

from eval.reproduction.cells import Result


class Figure(NamedTuple):
    """One column: where the number stands in a result's `efficiency`, and the unit it is shown in."""

    label: str
    keys: tuple[str, ...]
    scale: float = 1

    def of(self, result: Result) -> float | None:
        """None where it means nothing or was not measured.

        >>> Figure("index MB", ("index_bytes",), 1e-6).of({"efficiency": {"index_bytes": 4_000_000}})
        4.0
        """
        found: Any = result.get("efficiency")
        for key in self.keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found * self.scale if isinstance(found, int | float) else None


BUILD, INDEX = Figure("build s", ("build_seconds",)), Figure("index MB", ("index_bytes",), 1e-6)
QUERY = Figure("query ms p50", ("query_ms", "p50")), Figure("query ms p99", ("query_ms", "p99"))
FIGURES = (
    Figure("documents/s", ("encode_documents_per_second",)),
    BUILD,
    INDEX,
    Figure("peak MB", ("peak_bytes",), 1e-6),
    Figure("encode ms p50", ("encode_ms", "p50")),
    Figure("encode ms p99", ("encode_ms", "p99")),
    Figure("search ms p50", ("search_ms", "p50")),
    Figure("search ms p99", ("search_ms", "p99")),
    *QUERY,
)


def as_text(number: float | None) -> str:
    """With two digits behind the point below 10, one below 1,000, none above.

    >>> as_text(0.347), as_text(12.34), as_text(5183.0), as_text(None)
    ('0.35', '12.3', '5,183', '')
    """
    if number is None:
        return ""
    return f"{number:,.{2 if number < 10 else 1 if number < 1000 else 0}f}"
