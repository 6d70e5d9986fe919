"""Several arms in one collection: a commit covers all of them or none."""

import numpy as np
import pytest
from encoders_for_tests import WordEncoder

from index.documents import Document
from index.folder_writer import FolderWriter
from index.snapshot import Snapshot
from index.storage import read_current
from index.verification import find_damage
from index.writer import Writer
from retrieval.encoders.bm25 import BM25Encoder

ENCODERS = {"bm25": BM25Encoder(), "words": WordEncoder()}
TEXTS = ["green tea", "black tea milk", "milk and rain", "rain on the sea", "tea tea sea", ""]
QUERIES = ["tea", "milk rain", "green sea"]


def documents(numbers):
    return [Document(str(number), text=TEXTS[number % len(TEXTS)]) for number in numbers]


def answers(snapshot):
    """(arm, query) -> the ids and scores of its hits."""
    found = {}
    for name, encoder in ENCODERS.items():
        for query in QUERIES:
            arm = snapshot.arms[name]
            scores, docs = arm.search(encoder.encode_query(query, arm), 20)
            found[name, query] = list(zip(snapshot.ids(docs.tolist()), scores.tolist(), strict=True))
    return found


def committed(writer):
    writer.commit()
    return writer.snapshot


def fresh(numbers):
    writer = Writer(Snapshot(), ENCODERS)
    writer.add(documents(numbers))
    return committed(writer)


@pytest.fixture
def files(tmp_path):
    with FolderWriter(tmp_path / "i", "two arms") as files:
        yield files


@pytest.fixture
def writer(files):
    model = files.new_part()
    return Writer(Snapshot(model=model), ENCODERS, files)


def test_both_arms_go_through_adding_deleting_and_merging_together(writer, files):
    for first in range(0, 18, 3):
        writer.add(documents(range(first, first + 3)))
        writer.commit()
    writer.delete(["1", "4", "17"])
    left = [number for number in range(18) if number not in (1, 4, 17)]
    expected = answers(fresh(left))
    assert answers(committed(writer)) == expected
    assert answers(writer.merge_due()) == expected
    assert answers(writer.merge_all()) == expected
    assert answers(read_current(files.folder, "two arms", Snapshot.read)) == expected
    assert find_damage(files.folder) == []


class Failing(WordEncoder):
    """Cannot encode."""

    def encode_documents(self, documents):
        raise RuntimeError("no memory for the model")


def test_where_one_arm_fails_neither_has_the_documents_and_they_stay_staged(writer, files):
    writer.add(documents(range(3)))
    before = answers(committed(writer))
    writer.add(documents(range(3, 6)))
    writer._encoders = {**ENCODERS, "words": Failing()}
    with pytest.raises(RuntimeError, match="no memory for the model"):
        writer.commit()
    assert answers(writer.snapshot) == answers(read_current(files.folder, "two arms", Snapshot.read)) == before
    assert len(list(files.folder.glob("part-*"))) == 2  # nothing of the other arm is left
    writer._encoders = ENCODERS
    assert answers(committed(writer)) == answers(fresh(range(6)))


def test_the_statistics_of_each_arm_are_its_own(writer):
    writer.add(documents(range(6)))
    arms = committed(writer).arms
    assert arms["bm25"].documents == 5  # the empty document does not count for BM25
    assert arms["words"].documents == 6
    assert np.array_equal(arms["bm25"].document_frequency(arms["bm25"].find(["tea", "unheard"])), [3, 0])
