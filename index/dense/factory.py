"""FAISS's words for how an index finds candidates, read without FAISS: which forms there are, what they need and take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from index.errors import WinnowError

TRANSFORM = re.compile(r"(OPQ)([0-9]+)(?:_([0-9]+))?|(PCAR?)([0-9]+)|(RR)([0-9]+)?")
CODEC = re.compile(r"(Flat)|SQ(4|6|8|fp16|bf16)|PQ([0-9]+)(?:x([0-9]+)(fs)?)?|RaBitQ(fs)?([2-8])?")
LISTS, GRAPH = re.compile(r"IVF([0-9]+)"), re.compile(r"HNSW([0-9]+)")
NUMBER = 8  # digits, at most
MOST_LISTS, MOST_LINKS, MOST_CODE_BITS = 1 << 20, 512, 12
POINTS_PER_CENTROID = 39  # below, FAISS itself warns that clusters will be poor
KNOWN = (
    '"Flat", "SQ8" (or 4, 6, fp16, bf16), "PQ48" (or "PQ48x4fs"), "RaBitQ" (or "RaBitQ2" to "RaBitQ8", "RaBitQfs"), each also after "IVF256,", '
    'or "HNSW32" (or "HNSW32,SQ8"); and any of these after "OPQ48,", "PCA128,", "PCAR128," or "RR,"'
)


@dataclass(frozen=True, slots=True)
class Factory:
    """One of the forms, taken apart."""

    words: str  # as FAISS is told
    given_dimension: int  # of the vectors that come in
    dimension: int  # of the vectors as they are coded
    transform: str | None = None  # OPQ, PCA, PCAR or RR: what is done to vectors before
    blocks: int = 0  # of OPQ
    lists: int = 0  # of IVF; 0: none
    links: int = 0  # of HNSW; 0: no graph
    codec: str = "Flat"  # or SQ, PQ, RaBitQ
    bits: float = 32  # of a number (Flat, SQ), of a sub-vector's code (PQ), of a number besides factors (RaBitQ)
    sub_vectors: int = 0  # of PQ
    fast_scan: bool = False  # codes side by side in registers

    @classmethod
    def parse(cls, words: object, dimension: int) -> Factory:
        """Raises WinnowError for what is none of the forms, and for one that does not fit the dimension."""
        if not isinstance(words, str) or re.search(rf"[0-9]{{{NUMBER},}}", words):
            raise unknown(words)
        steps, own = words.split(","), dimension
        found: dict[str, Any] = {}
        if match := TRANSFORM.fullmatch(steps[0]):
            found, own = read_transform(match, words, dimension)
            steps = steps[1:]
        kept = steps[0] if steps else ""
        if match := LISTS.fullmatch(kept):
            found["lists"] = within("the lists of IVF", int(match[1]), 1, MOST_LISTS, words)
            steps = steps[1:]
        elif match := GRAPH.fullmatch(kept):
            found["links"] = within("the links of HNSW", int(match[1]), 2, MOST_LINKS, words)
            steps = steps[1:] or ["Flat"]
        if len(steps) != 1 or not (match := CODEC.fullmatch(steps[0])):
            raise unknown(words)
        factory = cls(words, dimension, own, **found, **read_codec(match, words, own))
        if factory.links and factory.codec not in ("Flat", "SQ"):  # FAISS has the others for Euclidean distance only
            raise unknown(words)
        return factory

    @property
    def is_exact(self) -> bool:
        """True for the search without codes."""
        return self.words == "Flat"

    @property
    def tables_bytes(self) -> int:
        """What FAISS sizes up, beside what is in the file, when it reads PQ in lists: a table for each list."""
        return 4 * self.lists * self.sub_vectors * (1 << int(self.bits)) if self.codec == "PQ" else 0

    @property
    def centroids(self) -> int:
        """The most that one clustering of its training makes; 0 where nothing is clustered."""
        of_codes = 1 << int(self.bits) if self.codec == "PQ" else 0
        return max(self.lists, of_codes, 256 if self.transform == "OPQ" else 0)

    @property
    def least_vectors(self) -> int:
        """Without so many, FAISS cannot train it."""
        return max(self.centroids, self.dimension if self.transform in ("PCA", "PCAR") else 1)

    @property
    def enough_vectors(self) -> int:
        """With fewer, its codes would be poor."""
        return max(self.least_vectors, POINTS_PER_CENTROID * self.centroids)

    @property
    def code_bytes(self) -> int:
        """What it keeps in memory for each vector: code, number in its list, links; not what all vectors share."""
        if self.codec == "PQ":
            code = -(-self.sub_vectors * int(self.bits) // 8)
        elif self.codec == "RaBitQ":  # signs, factors, and more bits with factors of their own
            code = -(-self.dimension // 8) + (
                8 if self.bits == 1 else 20 + -(-self.dimension * int(self.bits - 1) // 8)
            )
        else:
            code = -(-self.dimension * int(self.bits) // 8)
        return code + (8 if self.lists else 0) + (4 * 2 * self.links + 16 if self.links else 0)

    @property
    def shared_bytes(self) -> int:
        """What it keeps in memory for all vectors together: rotation, centres of lists, centroids of codes."""
        rows = (
            self.given_dimension if self.transform in ("PCA", "PCAR") else self.dimension
        )  # PCA keeps all of its axes
        matrix = 4 * self.given_dimension * rows if self.transform else 0
        return matrix + 4 * self.dimension * (self.lists + (1 << int(self.bits) if self.codec == "PQ" else 0))


def read_transform(match: re.Match[str], words: str, dimension: int) -> tuple[dict[str, Any], int]:
    """(what it says, the dimension after it)"""
    name = match[1] or match[4] or match[6]
    own = int(match[3] or match[5] or match[7] or dimension)
    within("the dimension after " + name, own, 1, dimension, words)
    if name == "RR" and own != dimension:
        raise WinnowError(
            f"factory={words!r:.60} turns vectors into {own} dimensions; RR keeps {dimension}, so write RR."
        )
    blocks = int(match[2] or 0)
    if name == "OPQ":
        within("the blocks of OPQ", blocks, 1, own, words)
        check_divides("the blocks of OPQ", blocks, own, words)
    return {"transform": name, "blocks": blocks}, own


def read_codec(match: re.Match[str], words: str, dimension: int) -> dict[str, Any]:
    if match[1]:
        return {"codec": "Flat", "bits": 32}
    if match[2]:
        bits = 16 if match[2] in ("fp16", "bf16") else int(match[2])
        return {"codec": "SQ", "bits": bits}
    if match[3]:
        sub_vectors, bits = int(match[3]), int(match[4] or 8)
        within("the sub-vectors of PQ", sub_vectors, 1, dimension, words)
        check_divides("the sub-vectors of PQ", sub_vectors, dimension, words)
        within("the bits of PQ", bits, 4, MOST_CODE_BITS, words)
        if match[5] and bits != 4:
            raise unknown(words)
        return {"codec": "PQ", "bits": bits, "sub_vectors": sub_vectors, "fast_scan": bool(match[5])}
    return {"codec": "RaBitQ", "bits": int(match[7] or 1), "fast_scan": bool(match[6])}


def within(name: str, value: int, least: int, most: int, words: str) -> int:
    if not least <= value <= most:
        raise WinnowError(f"factory={words!r:.60} has {value:,} as {name}; it must be from {least:,} to {most:,}.")
    return value


def check_divides(name: str, parts: int, dimension: int, words: str) -> None:
    if dimension % parts:
        fitting = max(count for count in range(1, parts) if dimension % count == 0)
        raise WinnowError(
            f"factory={words!r:.60} has {parts} as {name}, which {dimension} dimensions cannot be cut into; {fitting} would do."
        )


def unknown(words: object) -> WinnowError:
    return WinnowError(f"factory is {words!r:.60}; the known forms are {KNOWN}.")
