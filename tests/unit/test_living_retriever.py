"""A retriever in a folder: staged changes, commits, several handles on one folder, verification and repair."""

import json
import os
import shutil
import threading

import pytest
from encoders_for_tests import WordEncoder

from index.errors import CorpusError, IndexFormatError, LockedError, WinnowError
from index.folder_writer import FolderWriter
from index.verification import find_damage
from retrieval import Document, Retriever
from retrieval.inspection import describe
from retrieval.repair import repair

TEAS = [
    Document("green", text="green tea", fields={"year": 1}),
    Document("black", text="black tea", fields={"year": 2}),
]


@pytest.fixture
def folder(tmp_path):
    Retriever.from_pretrained("bm25").index(TEAS, progress=False).save_pretrained(tmp_path / "i")
    return tmp_path / "i"


def add(retriever, *ids, text="tea"):
    return retriever.add([Document(doc_id, text=text) for doc_id in ids], progress=False)


def ids(retriever, query="tea"):
    return [hit.doc_id for hit in retriever.search(query, 100)]


def parts(folder):
    return sorted(path.name for path in folder.glob("part-*"))


def test_staged_changes_are_seen_after_the_commit_and_by_others_after_a_refresh(folder):
    writer, reader = Retriever.from_folder(folder), Retriever.from_folder(folder)
    add(writer, "new")
    writer.delete("green")
    assert ids(writer) == ids(reader) == ["green", "black"]
    writer.commit()
    assert sorted(ids(writer)) == ["black", "new"]
    assert ids(reader) == ["green", "black"]
    assert (reader.refresh(), reader.refresh()) == (True, False)
    assert reader.search("tea") == writer.search("tea")
    assert ids(Retriever.from_folder(folder, verify="full")) == ids(writer)


def test_a_rollback_forgets_and_lets_others_write(folder):
    first, second = Retriever.from_folder(folder), Retriever.from_folder(folder)
    add(first, "new")
    with pytest.raises(LockedError, match="this process is already writing to"):
        add(second, "other")
    first.rollback()
    add(second, "other").commit()
    first.commit()  # of nothing
    assert sorted(ids(Retriever.from_folder(folder))) == ["black", "green", "other"]


def test_a_writer_builds_on_what_others_committed_meanwhile(folder):
    first, second = Retriever.from_folder(folder), Retriever.from_folder(folder)
    add(first, "new").commit()
    with pytest.raises(CorpusError, match="the id 'new' is in the index already"):
        add(second, "new")
    add(second, "newer").commit()
    assert sorted(ids(second)) == ["black", "green", "new", "newer"]


def test_an_upsert_replaces_by_id_and_moves_to_the_end(folder):
    retriever = Retriever.from_folder(folder)
    retriever.upsert([{"_id": "green", "text": "tea"}, {"_id": "x", "text": "tea"}, {"_id": "x", "text": "tea tea"}])
    retriever.commit()
    assert len(retriever) == 3
    assert ids(retriever) == ["x", "green", "black"]


def test_documents_are_deleted_by_id_field_or_function(folder):
    retriever = Retriever.from_folder(folder)
    assert retriever.delete(["nobody", "green", "green"]) == ["green"]
    assert retriever.delete("green") == []  # it is gone already, though not yet committed
    assert retriever.delete(where={"year": 2, "month": 1}) == []
    assert retriever.delete(where={"year": 2}) == ["black"]
    retriever.rollback()
    assert retriever.delete(where=lambda document: "green" in document.text) == ["green"]
    retriever.commit()
    assert ids(retriever) == ["black"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "delete takes ids, or where="),
        ({"doc_ids": ["a"], "where": {}}, "delete takes ids, or where="),
        ({"doc_ids": 7}, "doc_ids is 7; it must be an id or a list of ids"),
        ({"doc_ids": [7]}, "doc_id is int 7; it must be a string"),
        ({"where": 7}, "where is 7; it must be a mapping of fields, or a function"),
    ],
)
def test_a_deletion_that_says_nothing_sensible_is_one_sentence(folder, arguments, message):
    retriever = Retriever.from_folder(folder)
    with pytest.raises(WinnowError, match=message):
        retriever.delete(**arguments)
    assert add(retriever, "new").commit() is retriever  # no lock was left behind


def test_an_index_whose_documents_are_all_deleted_can_be_filled_again(folder):
    retriever = Retriever.from_folder(folder)
    retriever.delete(["green", "black"])
    retriever.commit()
    assert len(Retriever.from_folder(folder, verify="full")) == len(retriever) == 0
    with pytest.raises(WinnowError, match="there are no documents to search"):
        retriever.search("tea")
    add(retriever, "green").commit()
    assert ids(Retriever.from_folder(folder)) == ["green"]
    assert retriever.statistics().segments == 1


def test_segments_are_merged_as_they_become_many_and_their_files_go(folder):
    retriever = Retriever.from_folder(folder)
    for number in range(40):
        add(retriever, f"d{number}").commit()
        assert retriever.statistics().segments <= 3
    assert len(retriever) == 42
    assert len(parts(folder)) == 1 + retriever.statistics().segments  # the model's part
    assert json.loads((folder / "winnow.json").read_text())["contents"]["segments"]
    assert find_damage(folder) == []


def test_a_segment_of_which_much_is_deleted_is_written_anew(folder):
    retriever = Retriever.from_folder(folder)
    retriever.delete("green")
    retriever.commit()
    assert retriever.statistics().deleted == 0
    assert parts(folder) == ["part-000001", describe(folder)["segments"][0]["part"]]


def test_without_merging_deletes_are_kept_beside_the_segment(folder):
    retriever = Retriever.from_folder(folder)
    retriever.delete("green")
    retriever.commit(merge=False)
    assert (retriever.statistics().deleted, parts(folder)) == (1, ["part-000001", "part-000002", "part-000003"])
    assert ids(Retriever.from_folder(folder, verify="full")) == ["black"]
    assert retriever.merge().statistics().deleted == 0


def test_a_snapshot_keeps_its_files_while_it_is_searched(folder):
    old, writer = Retriever.from_folder(folder), Retriever.from_folder(folder)
    before = old.search("tea")
    for number in range(5):
        add(writer, f"d{number}").commit()
    writer.merge()
    assert "part-000002" in parts(folder)
    assert old.search("tea") == before
    del old
    add(writer, "last").commit()
    assert "part-000002" not in parts(folder)


def test_merging_refuses_staged_changes(folder):
    retriever = add(Retriever.from_folder(folder), "new")
    with pytest.raises(WinnowError, match=r"there are staged changes; commit\(\) or rollback\(\) before merge"):
        retriever.merge()
    with pytest.raises(WinnowError, match=r"there are staged changes; commit\(\) or rollback\(\) before saving a copy"):
        retriever.save_pretrained(folder.parent / "copy")


def test_the_first_folder_saved_to_is_the_retrievers_own(tmp_path):
    retriever = Retriever.from_pretrained("bm25").index(TEAS, progress=False)
    add(retriever, "staged")
    retriever.save_pretrained(tmp_path / "own")
    assert len(retriever) == len(Retriever.from_folder(tmp_path / "own")) == 3
    retriever.save_pretrained(tmp_path / "copy")
    add(retriever, "later").commit()
    assert len(Retriever.from_folder(tmp_path / "own", verify="full")) == 4
    assert len(Retriever.from_folder(tmp_path / "copy", verify="full")) == 3


def test_a_copy_holds_the_deletes_too(folder):
    retriever = Retriever.from_folder(folder)
    retriever.delete("green")
    retriever.commit(merge=False)
    retriever.save_pretrained(folder.parent / "copy")
    assert ids(Retriever.from_folder(folder.parent / "copy", verify="full")) == ["black"]


def test_an_index_of_another_model_that_takes_the_folder_is_searched_after_a_refresh(folder):
    reader = Retriever.from_folder(folder)
    Retriever(WordEncoder()).index([Document("word", text="tea cup")], progress=False).save_pretrained(folder)
    assert reader.refresh()
    assert (reader.model, ids(reader)) == ("words", ["word"])


def test_threads_search_one_retriever_while_another_commits(folder):
    retriever, done, failures = Retriever.from_folder(folder), threading.Event(), []

    def search_often():
        while not done.is_set():
            found = [hit.doc_id for hit in retriever.search("tea", 1_000)]
            numbers = [int(doc_id) for doc_id in found if doc_id.isdigit()]
            if sorted(numbers) != list(range(len(numbers))) or len(found) != len(numbers) + 2:
                failures.append(found)

    threads = [threading.Thread(target=search_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(0, 60, 3):
        add(retriever, *map(str, range(number, number + 3))).commit()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(retriever) == 62


def test_the_folder_is_described(folder):
    retriever = Retriever.from_folder(folder)
    retriever.delete("green")
    retriever.commit(merge=False)
    found = describe(folder)
    assert (found["documents"], found["deleted_documents"], found["model"], found["format_version"]) == (
        1,
        1,
        "bm25",
        2,
    )
    (segment,) = found["segments"]
    assert (segment["part"], segment["arms"]["bm25"]["postings"]) == ("part-000002", 4)
    on_disk = sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "winnow.json.copy"
    )
    assert sum(found["bytes"].values()) == on_disk


def damage_file(file, position=-1):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("model", ["bm25", "words"])
def test_a_damaged_index_is_built_again_from_its_documents(tmp_path, model):
    folder = tmp_path / "i"
    retriever = Retriever(WordEncoder()) if model == "words" else Retriever.from_pretrained("bm25")
    retriever.index(TEAS, progress=False).save_pretrained(folder)
    add(retriever, "new", "newer").commit()
    retriever.delete("newer")
    retriever.commit(merge=False)
    expected = retriever.search("tea")
    del retriever
    damage_file(folder / "part-000002" / model / "forward.levels.npy")
    assert [one.part for one in find_damage(folder)] == ["part-000002"]
    (report,) = repair(folder)
    assert (report.part, report.documents, report.lost) == ("part-000002", 2, 0)
    assert Retriever.from_folder(folder, verify="full").search("tea") == expected
    assert repair(folder) == []


def test_of_damaged_documents_the_sound_ones_are_saved(folder):
    file = folder / "part-000002" / "documents.sqlite"
    damage_file(file, file.read_bytes().index(b"black tea") + 3)
    (report,) = repair(folder)
    assert (report.documents, report.lost) == (1, 1)
    assert ids(Retriever.from_folder(folder, verify="full")) == ["green"]


def test_a_segment_without_its_documents_is_lost_and_the_others_stay(folder):
    retriever = add(Retriever.from_folder(folder), "new").commit()
    del retriever
    (folder / "part-000002" / "documents.sqlite").write_bytes(b"nothing of the kind")
    (report,) = repair(folder)
    assert (report.part, report.documents, report.lost) == ("part-000002", 0, 2)
    assert ids(Retriever.from_folder(folder, verify="full")) == ["new"]


def test_where_deletes_are_damaged_documents_come_back_unless_they_were_replaced(folder):
    retriever = Retriever.from_folder(folder)
    retriever.upsert([{"_id": "green", "text": "green tea leaves"}])
    retriever.delete("black")
    add(retriever, "x")
    retriever._writer._deleted[0].discard(1)  # black stays, so that the segment does
    retriever.commit(merge=False)
    del retriever
    (deletes,) = folder.glob("part-*/live.npy")
    damage_file(deletes)
    (report,) = repair(folder)
    assert (report.returned, report.what) == (0, "built again from its documents; deleted documents that came back: 0")
    opened = Retriever.from_folder(folder, verify="full")
    assert sorted(ids(opened)) == ["black", "green", "x"]
    assert opened.search("leaves")[0].text == "green tea leaves"


def test_a_damaged_manifest_is_taken_from_its_copy(folder):
    damage_file(folder / "winnow.json", 10)
    with pytest.raises(IndexFormatError):
        Retriever.from_folder(folder)
    assert repair(folder) == []  # no segment was touched
    assert ids(Retriever.from_folder(folder, verify="full")) == ["green", "black"]


def test_a_damaged_model_has_to_be_named(folder):
    damage_file(folder / "part-000001" / "part.json", 20)
    with pytest.raises(WinnowError, match=r"which says what model the index was built with; name it \(--model\)"):
        repair(folder)
    assert repair(folder, model="bm25") == []
    assert ids(Retriever.from_folder(folder, verify="full")) == ["green", "black"]


@pytest.mark.parametrize(
    "name", ["tiers.docs", "tiers.codes", "tiers.edges", "tiers.counts", "forward.scales", "forward.low"]
)
def test_what_checksums_vouch_for_but_cannot_be_is_found_by_a_full_verification(tmp_path, name):
    """A defect of a writer: every checksum is right, and the parts contradict each other."""
    texts = [" ".join(f"w{number % 7}" for number in range(first, first + 5)) for first in range(40)]
    retriever = Retriever(WordEncoder()).index(
        [Document(str(i), text=text) for i, text in enumerate(texts)], progress=False
    )
    segment = retriever._opened.snapshot.segments[0].segment
    index = segment.arms["words"].index
    part, field = name.split(".")
    arrays = getattr(index, part)
    damaged = getattr(arrays, field).copy()
    damaged[:] = damaged / 2 if name == "tiers.edges" else 0
    setattr(index, part, arrays._replace(**{field: damaged}))
    retriever.save_pretrained(tmp_path / "i")
    Retriever.from_folder(tmp_path / "i")
    with pytest.raises(IndexFormatError, match="part-000002"):
        Retriever.from_folder(tmp_path / "i", verify="full")


def test_a_small_segment_keeps_few_files_open(folder):
    before = len(os.listdir("/proc/self/fd"))
    opened = Retriever.from_folder(folder)
    assert len(os.listdir("/proc/self/fd")) - before <= 3  # the leases of model and segment, and the documents
    assert ids(opened) == ["green", "black"]


def test_a_relative_folder_is_still_the_same_one_after_a_change_of_directory(tmp_path, monkeypatch):
    for name in "pq":
        (tmp_path / name).mkdir()
        Retriever.from_pretrained("bm25").index([Document(name, text="tea")], progress=False).save_pretrained(
            tmp_path / name / "i"
        )
    monkeypatch.chdir(tmp_path / "p")
    retriever = add(Retriever.from_pretrained("i"), "new")
    monkeypatch.chdir(tmp_path / "q")
    retriever.commit()
    retriever.merge()
    assert ids(Retriever.from_folder(tmp_path / "p" / "i", verify="full")) == ["p", "new"]
    assert ids(Retriever.from_folder(tmp_path / "q" / "i", verify="full")) == ["q"]


def test_a_commit_does_not_go_to_a_folder_that_took_the_place_of_the_one_opened(folder):
    retriever = add(Retriever.from_folder(folder), "new")
    folder.rename(folder.parent / "moved")
    Retriever.from_pretrained("bm25").index([Document("other", text="tea")], progress=False).save_pretrained(folder)
    with pytest.raises(WinnowError, match="is not the folder that this writer opened"):
        retriever.commit()
    retriever.rollback()
    assert ids(Retriever.from_folder(folder, verify="full")) == ["other"]
    assert ids(Retriever.from_folder(folder.parent / "moved", verify="full")) == ["green", "black"]


def test_an_index_built_anew_in_the_same_place_is_noticed_though_it_counts_commits_alike(folder):
    reader = Retriever.from_folder(folder)
    shutil.rmtree(folder)
    Retriever.from_pretrained("bm25").index([Document("new", text="tea")], progress=False).save_pretrained(folder)
    assert reader.refresh()
    assert ids(reader) == ["new"]


@pytest.mark.parametrize("staged", [False, True])
def test_saving_to_ones_own_folder_writes_everything_again_if_it_is_gone(folder, staged):
    retriever = Retriever.from_folder(folder)
    if staged:
        add(retriever, "new")
    shutil.rmtree(folder)
    retriever.save_pretrained(folder)
    expected = ["green", "black", "new"][: 2 + staged]
    assert sorted(ids(Retriever.from_folder(folder, verify="full"))) == sorted(ids(retriever)) == sorted(expected)
    assert len(add(retriever, "later").commit()) == len(expected) + 1


def test_documents_are_copied_from_the_file_that_was_opened_not_from_one_in_its_place(folder):
    retriever = Retriever.from_folder(folder)
    shutil.rmtree(folder)
    Retriever.from_pretrained("bm25").index(
        [Document("x", text="tea"), Document("y", text="tea")], progress=False
    ).save_pretrained(folder)
    retriever.save_pretrained(folder.parent / "copy")
    assert sorted(ids(Retriever.from_folder(folder.parent / "copy", verify="full"))) == ["black", "green"]


@pytest.mark.parametrize("step", ["_publish", "_adopt", "_tidy"])
@pytest.mark.parametrize("change", ["commit", "merge"])
def test_an_interruption_around_the_rename_leaves_a_whole_index_and_nothing_twice(folder, monkeypatch, step, change):
    retriever = add(Retriever.from_folder(folder), "new")
    if change == "merge":
        retriever.commit()
    real = getattr(FolderWriter, step)

    def interrupted(self, *arguments):
        monkeypatch.setattr(FolderWriter, step, real)
        if step != "_adopt":
            real(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderWriter, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(retriever, change)()
    assert sorted(ids(Retriever.from_folder(folder, verify="full"))) == ["black", "green", "new"]
    retriever.commit()  # again, as a user might
    assert sorted(ids(retriever)) == ["black", "green", "new"]
    assert sorted(ids(Retriever.from_folder(folder, verify="full"))) == ["black", "green", "new"]


def test_an_interruption_after_a_commit_leaves_nothing_staged(folder, monkeypatch):
    retriever = add(Retriever.from_folder(folder), "new")
    retriever.delete("green")
    writer = retriever._writer

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._folder, "_tidy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retriever.commit()
    assert not writer.is_changed
    retriever.commit()
    assert sorted(ids(Retriever.from_folder(folder, verify="full"))) == ["black", "new"]


def test_conditions_on_fields_are_strict(folder):
    retriever = Retriever.from_folder(folder)
    retriever.index([Document("t", text="x", fields={"year": True})], progress=False)
    assert retriever.delete(where={"year": 1}) == ["green"]
    assert retriever.delete(where={"_id": "t", "text": "x"}) == ["t"]
    with pytest.raises(WinnowError, match=r"where is \{\}; it must be"):
        retriever.delete(where={})
