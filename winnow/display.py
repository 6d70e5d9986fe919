"""Hits and explanations as lines for a terminal."""

from __future__ import annotations

import shutil
import textwrap

from retrieval import Explanation, Hit

LINES_OF_TEXT = 2


def hit_lines(hit: Hit) -> list[str]:
    """Rank, score, id and title on one line, the start of the text below."""
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    name = hit.title if hit.title.startswith(hit.doc_id) else f"{hit.doc_id}  {hit.title}"
    head = f"{hit.rank:>3}  {hit.score:8.3f}  " + textwrap.shorten(name, width - 15, placeholder=" ...")
    body = textwrap.wrap(hit.text, width - 5, max_lines=LINES_OF_TEXT, placeholder=" ...") or ["(no text)"]
    return [head, *(f"     {line}" for line in body)]


def explanation_lines(explanation: Explanation) -> list[str]:
    """A row a term: query weight, stored impact, their product, its share; `+` marks a term the encoder added."""
    lines = [f"     {'term':<20} {'weight':>8} {'impact':>8} {'adds':>8} {'share':>7}"]
    for match in explanation.terms:
        term = f"+{match.term}" if match.is_expansion else match.term
        lines.append(
            f"     {term:<20} {match.weight:8.3f} {match.impact:8.3f} {match.contribution:8.3f} {match.share:7.1%}"
        )
    return lines


def matching_terms(explanation: Explanation) -> str:
    """All matching terms on one line, the strongest first."""
    return "  ".join(
        f"{'+' if match.is_expansion else ''}{match.term} {match.share:.0%}" for match in explanation.terms
    )
