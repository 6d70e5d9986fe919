"""Anserini and Pyserini: a JsonVectorCollection, whose impacts are whole numbers (`retrieval.anserini_files`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from index.errors import WinnowError
from retrieval.anserini_files import MOST_WORDS, check_term, write_lines
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.protocol import Sizes
from retrieval.exports.whole_numbers import WholeNumbers, in_steps


class Anserini(WholeNumbers):
    name = "anserini"

    def check_terms(self, terms: Iterable[str]) -> None:
        for term in terms:
            check_term(term, "the collection")

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        write_lines(documents_of(batches, terms), folder)

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        """A line of topics, `-topicReader TsvString`."""
        impacts = in_steps(query.weights, self.scale)
        if impacts.sum() > MOST_WORDS:
            raise WinnowError(
                f"the query would be {impacts.sum():,} words, each impact so many; give a smaller scale than {self.scale}."
            )
        words = (
            " ".join([terms[n]] * impact) for n, impact in zip(query.numbers.tolist(), impacts.tolist(), strict=True)
        )
        return "1\t" + " ".join(filter(None, words))


def documents_of(batches: Iterator[Batch], terms: Sequence[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """(id, impact by term) of each document; impacts of 0 are left out."""
    for ids, (indptr, numbers, impacts) in batches:
        named, whole = [terms[n] for n in numbers.tolist()], impacts.tolist()
        for doc_id, first, end in zip(ids, indptr.tolist(), indptr[1:].tolist(), strict=False):
            entries = zip(named[first:end], whole[first:end], strict=True)
            yield doc_id, {term: impact for term, impact in entries if impact}
