"""The dials of one search: what `Exact`, `Recall` and `Budget` come down to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

K = 10  # hits for which settings are found; more hits scale them up
NO_LIMIT = 2**62
NO_FLOOR = np.float32(0)  # of the scores that are wanted


class Setting(NamedTuple):
    """Of the first tier: see kernels/cpu/anytime.py; no candidates: the exact search."""

    left_out: float
    max_postings: int
    candidates: int

    def for_hits(self, k: int) -> Setting:
        """The same for k hits."""
        return self._replace(candidates=scaled(self.candidates, k))


class ClusterSetting(NamedTuple):
    """Of the second tier: see kernels/cpu/cluster_search.py."""

    max_postings: int
    groups: int
    rows: int
    leaders: int
    expanded: int

    def for_hits(self, k: int) -> ClusterSetting:
        """The same for k hits: all but the postings and leaders grow with k."""
        groups, rows, expanded = (scaled(width, k) for width in (self.groups, self.rows, self.expanded))
        return self._replace(groups=groups, rows=rows, expanded=expanded)


AnySetting = Setting | ClusterSetting
EXACTLY = Setting(0.0, NO_LIMIT, 0)


def scaled(count: int, k: int) -> int:
    """A count that suits K hits, for k of them."""
    return max(count, -(-count * k // K))
