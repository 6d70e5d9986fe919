"""The second tier of a large index: finds documents by groups and clusters, for a recall below 1 (kernels/cpu/cluster_search.py)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from index.calibration import ROW_COST
from index.files import save_array
from index.second_tier_building import NAME, count_group_windows, type_of_terms
from index.settings import NO_FLOOR, ClusterSetting
from index.storage import open_array, read_only
from index.vectors import SparseQuery
from kernels.cpu import cluster_search
from kernels.cpu.cluster_groups import GROUP, GROUP_TIERS, GROUP_WINDOW, ClusterGroups, record_bytes, view_records
from kernels.cpu.cluster_search import ClusterWorkspace
from kernels.cpu.forward_rows import SIEVE, ForwardRows
from kernels.cpu.group_plan import MOST_TERMS
from kernels.cpu.sketch_scores import ROOM, SCORE_BINS

GROUP_POSTING_COST, SKETCH_COST, GROUP_WINDOW_COST = 0.9, 50.0, 600.0  # in postings of the first tier
SHARES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.1)  # postings of groups read, for each document of the collection
WIDTHS = (  # groups, rows, leaders, rows of their clusters
    (300, 100, 3, 60),
    (600, 100, 3, 60),
    (600, 150, 3, 60),
    (1_000, 150, 3, 60),
    (1_000, 150, 5, 100),
    (1_000, 400, 3, 100),
    (1_500, 400, 5, 200),
)
MOST_K = 100  # more hits need so many groups that the first tier finds them faster


class SecondTier:
    """The arrays, and a workspace for each thread that searches them."""

    def __init__(self, groups: ClusterGroups):
        self.groups = ClusterGroups(*map(read_only, groups))
        self.num_docs = len(groups.nearest)
        self.records = view_records(self.groups.records, type_of_terms(len(groups.steps)))
        self._workspaces = threading.local()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.groups)

    def answers(self, num_terms: int, k: int) -> bool:
        """Whether such a query is worth asking here."""
        return num_terms <= MOST_TERMS and k <= MOST_K

    def settings(self) -> list[ClusterSetting]:
        """Those that calibration tries."""
        return [ClusterSetting(max(int(share * self.num_docs), 1), *widths) for share in SHARES for widths in WIDTHS]

    def search(
        self, forward: ForwardRows, query: SparseQuery, k: int, setting: ClusterSetting, floor: np.float32 = NO_FLOOR
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, docs) of length k, empty slots last; all scores are exact and at least `floor`."""
        work = self._workspace(len(query.terms), setting)
        found: tuple[np.ndarray, np.ndarray] = cluster_search.search(
            self.groups, self.records, forward, *query, floor, k, *setting, work
        )
        return found

    def cost(self) -> float:
        """What the searches of this thread have cost so far, in postings of the first tier."""
        work: ClusterWorkspace | None = getattr(self._workspaces, "arrays", None)
        return 0.0 if work is None else float(np.dot(work.counters, (GROUP_POSTING_COST, SKETCH_COST, ROW_COST)))

    def write(self, path: Path) -> None:
        for name, array in self.groups._asdict().items():
            save_array(path / f"{NAME}.{name}.npy", array)

    def description(self) -> dict[str, Any]:
        """What `read` needs besides the arrays."""
        return {"postings": len(self.groups.groups), "clusters": len(self.groups.cluster_starts) - 2}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any] | None, num_docs: int, num_terms: int) -> SecondTier | None:
        """Map what `write` wrote; None without a description. Raises IndexFormatError."""
        if description is None:
            return None
        cells, num_windows = num_terms * GROUP_TIERS, count_group_windows(num_docs)
        arrays = {
            "starts": ("int64", cells * num_windows + 1),
            "groups": ("uint16", description["postings"]),
            "means": ("float32", cells),
            "counts": ("int64", cells),
            "records": ("uint8", -(-num_docs // GROUP) * record_bytes(np.dtype(type_of_terms(num_terms)).itemsize)),
            "steps": ("float32", num_terms),
            "nearest": ("int32", num_docs),
            "second": ("int32", num_docs),
            "cluster_starts": ("int64", description["clusters"] + 2),
        }
        return cls(ClusterGroups(*(open_array(path / f"{NAME}.{name}.npy", *arrays[name]) for name in arrays)))

    def _workspace(self, num_terms: int, setting: ClusterSetting) -> ClusterWorkspace:
        """The scratch arrays of this thread, grown where this query needs more."""
        work: ClusterWorkspace | None = getattr(self._workspaces, "arrays", None)
        groups, rows = setting.groups, setting.rows + setting.expanded
        positions = max(groups * GROUP, 4 * ROOM * setting.leaders)
        if (
            work is None
            or len(work.lists) < num_terms * GROUP_TIERS
            or len(work.found_groups) < 4 * groups
            or len(work.found) < positions
            or len(work.chosen) < rows
            or len(work.spans) < 4 * setting.leaders
        ):
            lists = max(num_terms, 64) * GROUP_TIERS
            num_windows, num_terms = count_group_windows(self.num_docs), len(self.groups.steps)
            vocabulary = 1 << (max(num_terms, 2) - 1).bit_length()
            counters = np.zeros(3, np.int64) if work is None else work.counters
            work = ClusterWorkspace(
                accumulators=np.zeros(GROUP_WINDOW, np.uint8),
                bins=np.zeros(SCORE_BINS, np.int32),
                noted=np.empty(GROUP_WINDOW + 1, np.uint16),
                lists=np.empty(lists, np.int64),
                adds=np.empty(lists, np.uint8),
                begins=np.empty(num_windows * lists, np.int64),
                ends=np.empty(num_windows * lists, np.int64),
                table=np.zeros(max(vocabulary, 65_536), np.uint8),
                found_groups=np.empty(max(4 * groups, 16_384), np.int32),
                partials=np.empty(max(4 * groups, 16_384), np.uint8),
                found=np.empty(max(positions, 16_384), np.int32),
                scores=np.empty(max(positions, 16_384), np.int32),
                seen=np.zeros(self.num_docs // 8 + 1, np.uint8),
                chosen=np.empty(max(rows, 1_024), np.int32),
                docs=np.empty(max(rows, 1_024), np.int32),
                row_scores=np.empty(max(rows, 1_024), np.float32),
                query_weights=np.zeros(vocabulary, np.float32),
                sieve=np.zeros(SIEVE, np.uint8),
                spans=np.empty(max(4 * setting.leaders, 64), np.int64),
                matches=np.empty(num_terms + 2, np.uint64),
                counters=counters,
            )
            self._workspaces.arrays = work
        return work
