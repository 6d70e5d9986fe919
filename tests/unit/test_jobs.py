import contextlib
import json
import os
import shutil

import pytest
from jobs_for_tests import contents, job, records, tree, write_jsonl

from index.errors import CorpusError, IndexFormatError, LockedError, ModelError, StorageError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import read_manifest
from index.verification import find_damage
from retrieval import Retriever
from retrieval.corpus import FieldNames
from retrieval.jobs.description import JobDescription
from retrieval.jobs.differences import difference
from retrieval.jobs.estimate import estimate
from retrieval.jobs.job_folder import JobFolder
from retrieval.jobs.shards import build_shard
from retrieval.opened import KIND


@pytest.fixture
def source(tmp_path):
    return write_jsonl(tmp_path / "c.jsonl", records(10))


@pytest.fixture
def folder(source, tmp_path):
    job(source, tmp_path / "i")
    return tmp_path / "i"


def counts(result):
    return result.added, result.changed, result.unchanged, result.removed, result.rejected


def test_a_job_finds_what_a_retriever_finds(source, folder):
    whole = Retriever.from_pretrained("bm25").index(str(source), progress=False)
    found = Retriever.from_folder(folder, verify="full")
    for query in ("w1 w2", "w3", "w19 w4 w5"):
        assert [(hit.doc_id, hit.score) for hit in found.search(query, 20)] == [
            (hit.doc_id, hit.score) for hit in whole.search(query, 20)
        ]
    assert find_damage(folder, "full") == []
    progress = read_manifest(folder).contents["job"]
    assert (progress["shards"], progress["is_done"]) == (4, True)  # 3 + 3 + 3 + 1 documents
    assert progress["description"]["shard_documents"] == 3


def test_what_is_there_is_not_encoded_again_and_leaves_every_byte_alone(source, folder, monkeypatch):
    before = tree(folder)
    monkeypatch.setattr("retrieval.encoders.bm25.analyze", lambda text: 1 / 0)
    assert counts(job(source, folder)) == (0, 0, 10, 0, 0)
    assert tree(folder) == before


def test_a_grown_source_adds_what_is_new_and_replaces_what_has_changed(source, folder, monkeypatch):
    from retrieval.encoders import bm25

    some = records(12)
    some[4]["text"], some[5]["n"] = "quite other words", 5.5
    encoded, real = [], bm25.analyze
    monkeypatch.setattr(bm25, "analyze", lambda text: encoded.append(text) or real(text))
    result = job(write_jsonl(source, some), folder)
    assert counts(result) == (2, 2, 8, 0, 0)
    assert encoded == [some[n]["text"] for n in (4, 5, 10, 11)]
    assert contents(folder) == {one["_id"]: one["text"] for one in some}
    assert find_damage(folder, "full") == []
    assert Retriever.from_folder(folder).search("quite")[0].doc_id == "d4"


def test_what_vanished_stays_unless_the_index_is_to_mirror_its_sources(source, folder):
    write_jsonl(source, records(10)[2:])
    assert counts(job(source, folder)) == (0, 0, 8, 0, 0)
    assert len(contents(folder)) == 10
    assert counts(job(source, folder, mirror=True)) == (0, 0, 8, 2, 0)
    assert sorted(contents(folder)) == sorted(f"d{n}" for n in range(2, 10))
    before = tree(folder)
    assert counts(job(source, folder, mirror=True)) == (0, 0, 8, 0, 0)
    assert tree(folder) == before


def test_an_id_that_changes_its_vector_alone_is_a_changed_document(tmp_path):
    some = [{"_id": "a", "vector": {"tea": 1.0}}, {"_id": "b", "vector": {"milk": 2.0}}]
    source = write_jsonl(tmp_path / "v.jsonl", some)
    job(source, tmp_path / "i", "vectors", shard_documents=1)
    assert counts(job(source, tmp_path / "i", "vectors", shard_documents=1)) == (0, 0, 2, 0, 0)
    some[0]["vector"]["tea"] = 3.0
    assert counts(job(write_jsonl(source, some), tmp_path / "i", "vectors", shard_documents=1)) == (0, 1, 1, 0, 0)


def test_vectors_by_id_are_taken_instead_of_encoding(tmp_path):
    texts = write_jsonl(tmp_path / "t.jsonl", [{"_id": "a", "text": "green tea"}, {"_id": "b", "text": "milk"}])
    vectors = write_jsonl(tmp_path / "v.jsonl", [{"id": "b", "vector": {"x": 1}}, {"id": "a", "vector": {"y": 2}}])
    job(texts, tmp_path / "i", None, vectors=str(vectors))
    assert Retriever.from_folder(tmp_path / "i").search({"y": 1.0})[0].text == "green tea"
    write_jsonl(texts, [{"_id": "a", "text": "green tea"}, {"_id": "z", "text": "nothing"}])
    with pytest.raises(CorpusError, match="has no vector for the document 'z'"):
        job(texts, tmp_path / "i", None, vectors=str(vectors))


BAD = [
    ('{"_id": "d1"', "is not valid JSON"),
    ('{"_id": 7}', "has the id 7"),
    ('{"_id": "d0", "text": "again"}', "has the id 'd0' of one before it"),
    ('{"_id": "x", "text": ["no"]}', "has list \\['no'\\] as its text"),
    ('{"_id": "x", "note": "\\ud800"}', "holds text that is not valid Unicode"),
    ('{"_id": "x", "deep": ' + "[" * 150 + "]" * 150 + "}", "is nested more than 100 deep"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_record_ends_the_job_with_its_place_and_what_was_committed_stays(tmp_path, line, message):
    source = write_jsonl(tmp_path / "c.jsonl", records(4))
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:3], "", line, lines[3]]))
    with pytest.raises(CorpusError, match=rf"c.jsonl:5.*{message}"):
        job(source, tmp_path / "i", shard_documents=2)
    assert sorted(contents(tmp_path / "i")) == ["d0", "d1"]
    source.write_text("\n".join(lines))
    assert counts(job(source, tmp_path / "i", shard_documents=2)) == (2, 0, 2, 0, 0)
    assert sorted(contents(tmp_path / "i")) == ["d0", "d1", "d2", "d3"]


def test_bad_records_go_to_a_file_with_the_reason_if_asked(tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", records(4))
    source.write_bytes(source.read_bytes() + "\n".join(line for line, _ in BAD).encode() + b'\n{"_id": "\xff"}')
    for _ in range(2):  # a run that goes on tells them all again
        result = job(source, tmp_path / "i", rejects=tmp_path / "bad.jsonl")
        assert result.rejected == len(BAD) + 1
        told = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        told.sort(
            key=lambda one: int(one["where"].rpartition(":")[2])
        )  # an id used twice is found later than a bad line
        assert [one["where"].rpartition(":")[2] for one in told] == [str(5 + n) for n in range(len(BAD) + 1)]
        assert "is not valid JSON" in told[0]["reason"]
        assert told[0]["record"].strip() == BAD[0][0]
        assert told[1]["record"] == {"_id": 7}
        assert told[-1]["record"] == '{"_id": "�"}'
    assert sorted(contents(tmp_path / "i")) == ["d0", "d1", "d2", "d3"]


def test_a_source_without_a_single_document_is_refused_and_leaves_nothing(tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", [])
    with pytest.raises(CorpusError, match="the corpus holds no documents; give"):
        job(source, tmp_path / "i")
    source.write_text("{}")
    with pytest.raises(CorpusError, match="no documents, all its records were rejected"):
        job(source, tmp_path / "i", rejects=tmp_path / "bad.jsonl")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"model": "vectors"}, r"was begun with model = 'bm25', and now it is 'vectors'; give what it was begun with"),
        ({"shard_documents": 4}, r"was begun with shard_documents = 3, and now it is 4"),
        (
            {"names": FieldNames(text=("body",))},
            r"was begun with names.text = \['text', 'contents'\], and now it is \['body'\]",
        ),
    ],
)
def test_a_folder_of_another_model_or_other_options_is_refused_and_says_what_differs(source, folder, how, message):
    before = tree(folder)
    with pytest.raises(WinnowError, match=message):
        job(source, folder, **how)
    assert tree(folder) == before


def test_a_folder_goes_on_with_the_shards_it_was_begun_with_and_restart_forgets_it(source, folder):
    assert counts(job(source, folder, shard_documents=None)) == (0, 0, 10, 0, 0)
    assert counts(job(source, folder, shard_documents=5, restart=True)) == (10, 0, 0, 0, 0)
    assert read_manifest(folder).contents["job"]["shards"] == 2


def test_an_index_that_no_job_wrote_is_refused(source, tmp_path):
    Retriever.from_pretrained("bm25").index([{"_id": "a"}], progress=False).save_pretrained(tmp_path / "i")
    with pytest.raises(WinnowError, match="holds an index that no job wrote; add to it with `winnow add`"):
        job(source, tmp_path / "i")
    assert counts(job(source, tmp_path / "i", restart=True)) == (10, 0, 0, 0, 0)


def test_what_others_commit_to_the_folder_keeps_its_job(source, folder):
    retriever = Retriever.from_folder(folder)
    retriever.add([{"_id": "new", "text": "tea"}], progress=False).delete("d3")
    retriever.commit(progress=False)
    retriever.merge(progress=False)
    del retriever
    assert counts(job(source, folder)) == (1, 0, 9, 0, 0)  # d3 is in the source
    assert sorted(contents(folder)) == sorted([*(f"d{n}" for n in range(10)), "new"])


def test_a_folder_that_somebody_writes_to_names_the_process(source, folder):
    with FolderWriter(folder, KIND), pytest.raises(LockedError, match="is already writing to"):
        job(source, folder)


def test_a_damaged_shard_is_named_and_built_again_if_asked(source, folder):
    (segment,) = [path for path in folder.glob("part-*/documents.sqlite")]
    os.truncate(segment, 100)
    with pytest.raises(IndexFormatError, match=rf"{segment} has 100 bytes"):
        job(source, folder)
    assert counts(job(source, folder, rebuild=True)) == (10, 0, 0, 0, 0)
    assert find_damage(folder, "full") == []
    assert len(contents(folder)) == 10
    before = tree(folder)
    assert counts(job(source, folder, rebuild=True)) == (0, 0, 10, 0, 0)  # nothing is damaged any more
    assert tree(folder) == before


def test_of_several_shards_only_the_damaged_one_is_built_again(tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", records(6))
    job(source, tmp_path / "i", shard_documents=2)  # three: too few to be merged
    stores = sorted((tmp_path / "i").glob("part-*/documents.sqlite"))
    assert len(stores) == 3
    data = bytearray(stores[1].read_bytes())
    data[len(data) // 2] ^= 1  # which no quick look finds
    stores[1].write_bytes(data)
    assert counts(job(source, tmp_path / "i", shard_documents=2, rebuild=True)) == (2, 0, 4, 0, 0)
    assert list(contents(tmp_path / "i")) == ["d0", "d1", "d4", "d5", "d2", "d3"]


def test_a_full_disk_stops_the_job_cleanly_and_it_goes_on_afterwards(source, tmp_path, monkeypatch):
    job(source, tmp_path / "whole")
    commits, real = [], FolderWriter.commit

    def commit(writer, *arguments):
        commits.append(1)
        if len(commits) == 3:
            raise StorageError("the disk is full")
        return real(writer, *arguments)

    monkeypatch.setattr(FolderWriter, "commit", commit)
    with pytest.raises(StorageError, match="the disk is full"):
        job(source, tmp_path / "i")
    assert len(contents(tmp_path / "i")) == 6
    assert not (tmp_path / "i" / "winnow-scratch").exists()
    job(source, tmp_path / "i")
    assert tree(tmp_path / "i") == tree(tmp_path / "whole")


def test_a_merge_that_was_due_when_the_job_was_killed_comes_before_the_next_shard(source, tmp_path, monkeypatch):
    job(source, tmp_path / "whole", shard_documents=2)  # the fourth of five shards makes a merge due
    with monkeypatch.context() as patch:
        patch.setattr("index.writer.Writer._merge", lambda *_: (_ for _ in ()).throw(StorageError("the disk is full")))
        with pytest.raises(StorageError):
            job(source, tmp_path / "i", shard_documents=2)
    assert len(contents(tmp_path / "i")) == 8
    job(source, tmp_path / "i", shard_documents=2)
    assert tree(tmp_path / "i") == tree(tmp_path / "whole")


def test_the_result_depends_on_neither_threads_nor_memory(source, tmp_path):
    for number, how in enumerate([{}, {"threads": 1}, {"threads": 3, "memory_limit": "1GB"}]):
        job(source, tmp_path / str(number), **how)
        assert tree(tmp_path / str(number)) == tree(tmp_path / "0")
    with pytest.raises(WinnowError, match="memory_limit is 1 bytes; building this collection needs at least"):
        job(source, tmp_path / "i", memory_limit=1)
    with pytest.raises(WinnowError, match="threads is 0"):
        job(source, tmp_path / "i", threads=0)


def test_shards_that_were_built_elsewhere_and_copied_make_the_same_folder(source, folder, tmp_path):
    description = JobDescription((str(source),), "bm25", shard_documents=3)
    opened = description.opened()
    encoders = {encoder.arm: encoder for encoder in opened.encoders}
    documents = list(Retriever.from_folder(folder)._opened.snapshot.documents())
    built = [
        build_shard(encoders, n, documents[3 * n : 3 * n + 3], tmp_path / f"worker-{n}") for n in reversed(range(4))
    ]
    with JobFolder(tmp_path / "j", description, opened) as open_folder:
        with pytest.raises(WinnowError, match=r"shard 3 was to be committed to .*, whose next one is 0"):
            open_folder.commit_shard(built[0])
        for shard in reversed(built):
            open_folder.commit_shard(shard)
        open_folder.finish()
    assert tree(tmp_path / "j") == tree(folder)


def test_a_job_that_is_given_up_early_stops_its_threads(tmp_path, monkeypatch):
    import threading

    source, before = write_jsonl(tmp_path / "c.jsonl", records(200)), set(threading.enumerate())
    monkeypatch.setattr(JobFolder, "commit_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        job(source, tmp_path / "i")
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("winnow-")]
    assert not (tmp_path / "i").exists()


def test_a_dry_run_tells_about_what_comes_of_it_and_writes_nothing(tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", records(3000))
    description = JobDescription((str(source),), "bm25")
    found = estimate(description)
    assert found.sample == 1000
    assert 2500 < found.documents < 3500
    size = sum(path.stat().st_size for path in source.parent.rglob("*"))
    job(source, tmp_path / "i", shard_documents=None)
    built = sum(path.stat().st_size for path in (tmp_path / "i").rglob("*"))
    assert 0.5 < found.bytes / built < 2
    assert size == source.stat().st_size
    with pytest.raises(CorpusError, match="nobody knows how much is in standard input"):
        estimate(JobDescription(("-",), "bm25"))


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path):
    """Between shards the job holds nothing of documents that are done: the objects alive stay as many."""
    import gc

    from index.documents import Document

    alive, real = [], JobFolder.commit_shard

    def commit(open_folder, shard):
        real(open_folder, shard)
        alive.append(sum(isinstance(one, Document) for one in gc.get_objects()))

    source = write_jsonl(tmp_path / "c.jsonl", records(4000))
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(JobFolder, "commit_shard", commit)
        job(source, tmp_path / "i", shard_documents=500)
    assert len(alive) == 8
    assert max(alive) <= 2 * 500 + 100  # a page that is read, some that are encoded


def test_a_model_that_cannot_be_had_is_told_before_the_folder_is_touched(source, tmp_path):
    with pytest.raises(ModelError, match="'splade-9' is neither a folder"):
        job(source, tmp_path / "i", "splade-9")
    assert not (tmp_path / "i").exists()
    shutil.rmtree(tmp_path / "i", ignore_errors=True)


def test_a_difference_names_the_first_value():
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "a.b = [1], and now it is [2]"
    assert difference({}, {"c": 2}) == "c = None, and now it is 2"


def test_rejects_destroy_nothing(tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", records(20))
    other = tmp_path / "other.tsv"
    other.write_text("a\tb\n")
    job(source, tmp_path / "i")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for place, told in (
        (source, "which is a source"),
        (tmp_path / "i" / "winnow.json", "which lies in the index"),
        (tmp_path / "i" / "new.jsonl", "which lies in the index"),
        (other, "holds something other than records that a job refused"),
    ):
        with pytest.raises(WinnowError, match=told):
            job(source, tmp_path / "i", rejects=place)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):  # a run begins its own file anew
        job(
            write_jsonl(tmp_path / "c.jsonl", [*records(20), {"text": "no id"}]), tmp_path / "i", rejects=tmp_path / "r"
        )
        assert len((tmp_path / "r").read_text().splitlines()) == 1


def test_a_changed_digest_is_told_before_a_document_is_written_again_for_it(source, folder):
    path = next(folder.rglob("digests.npy"))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(IndexFormatError, match=r"digests.npy.* With --rebuild the job builds again what is damaged"):
        job(source, folder)
    assert counts(job(source, folder, rebuild=True))[2] < 10
    assert find_damage(folder, "full") == []
