"""Hits and explanations as lines for a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap

from retrieval import Explanation, Hit
from retrieval.hits import TermMatch

LINES_OF_TEXT = 2


def hit_lines(hit: Hit) -> list[str]:
    """Rank, score, id and title on one line, the start of the text below; of a reranked hit also where it was before."""
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    title_repeats_id = re.match(re.escape(hit.doc_id) + r"\b(?!\w)", hit.title)  # as csv.reader(...) does
    name = printable(hit.title if title_repeats_id else f"{hit.doc_id}  {hit.title}".rstrip())
    if len(name) > width - 15:
        name = name[: width - 19] + " ..."
    body = textwrap.wrap(printable(hit.text), width - 5, max_lines=LINES_OF_TEXT, placeholder=" ...") or ["(no text)"]
    if hit.first_rank is not None:
        body.append(f"before reranking: {hit.first_rank}. with {hit.first_score:.3f}")
    return [f"{hit.rank:>3}  {hit.score:8.3f}  {name}", *(f"     {line}" for line in body)]


def printable(text: str) -> str:
    """`text` without the characters that would move the cursor, ring or recolour the terminal; white space is a blank."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def explanation_lines(explanation: Explanation) -> list[str]:
    """What each arm gave, where there are several, and of sparse arms a row a term."""
    if len(explanation.arms) == 1 and explanation.terms:
        return term_lines(explanation.terms)
    lines = [f"     {'arm':<20} {'rank':>8} {'score':>8} {'as':>8} {'weight':>8} {'share':>7}"]
    for arm in explanation.arms:
        rank = "-" if arm.rank is None else f"{arm.rank:,}"
        lines.append(
            f"     {arm.arm:<20} {rank:>8} {arm.score:8.3f} {arm.normalised:8.3f} {arm.weight:8.3f} {arm.share:7.1%}"
        )
        lines += [f"  {line}" for line in (term_lines(arm.terms) if arm.terms else [])]
    return lines


def term_lines(terms: list[TermMatch]) -> list[str]:
    """A row a term: query weight, stored impact, their product, its share; `+` marks a term the encoder added."""
    lines = [f"     {'term':<20} {'weight':>8} {'impact':>8} {'adds':>8} {'share':>7}"]
    for match in terms:
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
