"""How the score of one document comes about."""

from __future__ import annotations

from functools import partial as bound
from typing import Any

import numpy as np

from index.errors import WinnowError
from index.impact_search import Answer
from index.snapshot import Snapshot
from index.vectors import checked_count
from retrieval.arm_search import ArmSearch, Trying
from retrieval.hits import ArmShare, Explanation
from retrieval.hybrid import Hybrid
from retrieval.queries import Query, by_arm
from retrieval.side_by_side import side_by_side


def explained(hybrid: Hybrid, snapshot: Snapshot, query: Query, doc_id: str, k: int, trying: Trying) -> Explanation:
    """What each arm gives the document in a search for k hits, be it among them or not. Raises WinnowError for an id that is not there."""
    found = snapshot.find([doc_id])
    if doc_id not in found:
        raise WinnowError(
            f"no document has the id {doc_id!r:.60}, or none that the filter leaves; give the doc_id of a hit."
        )
    number = found[doc_id]
    position, doc = snapshot.place(number)
    (document,) = snapshot.get([number])
    asked, depth = by_arm(query, list(hybrid.arms)), hybrid.depth(checked_count("k", k))
    searches = {name: bound(searched, arm, asked[name], depth, trying) for name, arm in hybrid.arms.items()}
    answers, _ = side_by_side(searches)
    own = {name: arm.score(answers[name][0], position, doc, document) for name, arm in hybrid.arms.items()}
    if len(own) == 1:
        ((name, (score, terms)),) = own.items()
        at = np.flatnonzero(answers[name][1][1] == number)
        rank = int(at[0]) + 1 if len(at) else None
        return Explanation(doc_id, score, [ArmShare(name, rank, score, score, 1.0, float(score != 0), terms)])
    every = sum(len(docs) for _, (_, docs) in answers.values())
    fused = hybrid.fused({name: answer for name, (_, answer) in answers.items()}, max(every, 1))
    shares = [
        ArmShare(part.arm, part.rank, own[part.arm][0], part.normalised, part.weight, part.share, own[part.arm][1])
        for part in fused.parts(number)
    ]
    at = np.flatnonzero(fused.docs == number)
    return Explanation(doc_id, float(fused.scores[at[0]]) if len(at) else 0.0, shares)


def searched(arm: ArmSearch, query: Any, depth: int, trying: Trying) -> tuple[Any, Answer]:
    """(the query as the arm encodes it, what it finds)."""
    encoded: Any = arm.encoded(query)
    return encoded, arm.found(encoded, depth, trying)
