"""What `repair` saves where an index is damaged, and that it says no more than the truth."""

import os

import pytest
from forgery import edit_description, edit_file, edit_manifest

from index.verification import find_damage
from retrieval import Document, Retriever
from retrieval.repair import repair
from winnow.cli import main


@pytest.fixture
def folder(tmp_path):
    """Documents 0 to 9, of which 3 and 4 are deleted."""
    retriever = Retriever.from_pretrained("bm25")
    retriever.index([Document(str(number), text=f"tea {number}") for number in range(10)], progress=False)
    retriever.save_pretrained(tmp_path / "i")
    retriever.delete(["3", "4"])
    retriever.commit()
    return tmp_path / "i"


def damage_file(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def ids(folder):
    return sorted(hit.doc_id for hit in Retriever.from_folder(folder, verify="full").search("tea", 100))


LEFT = sorted("01256789")


def test_damaged_statistics_of_deletes_are_counted_anew(folder):
    expected = Retriever.from_folder(folder).search("tea", 100)
    damage_file(folder / "part-000003" / "bm25" / "document_frequency.npy")
    (report,) = repair(folder)
    assert report == ("part-000002", 8, 0, 0, "statistics counted anew", 0)
    assert Retriever.from_folder(folder, verify="full").search("tea", 100) == expected


def test_deleted_documents_stay_deleted_where_their_segment_is_built_again(folder):
    damage_file(folder / "part-000002" / "bm25" / "forward.scales.npy")
    (report,) = repair(folder)
    assert report == ("part-000002", 8, 0, 0, "built again from its documents", 0)
    assert ids(folder) == LEFT


def test_deleted_documents_that_come_back_are_counted_and_told(folder, capsys):
    damage_file(folder / "part-000003" / "live.npy")
    assert main(["repair", str(folder)]) == 1
    assert "deleted documents that came back: 2; documents saved: 10, lost: 0" in capsys.readouterr().out
    assert ids(folder) == sorted("0123456789")


def test_without_the_description_of_the_deletes_nobody_can_tell_how_many_came_back(folder, capsys):
    damage_file(folder / "part-000003" / "part.json", 30)
    assert main(["repair", str(folder)]) == 1
    assert "deleted documents may have come back" in capsys.readouterr().out


@pytest.mark.parametrize("lost_bytes", [1, 4_096])
def test_documents_are_saved_from_a_file_that_lost_its_end(folder, lost_bytes):
    file = folder / "part-000002" / "documents.sqlite"
    os.truncate(file, file.stat().st_size - lost_bytes)
    (report,) = repair(folder)
    assert (report.documents, report.lost) == (8, 0)  # the end is the index of the ids
    assert ids(folder) == LEFT


def test_of_two_documents_with_one_id_the_later_stays(folder):
    retriever = Retriever.from_folder(folder)
    retriever.upsert([Document("5", text="tea leaves"), Document("new", text="tea")], progress=False)
    retriever.commit(merge=False)
    del retriever

    def forget_the_last_deletes(fields):
        fields["contents"]["segments"][0]["deletes"] = None

    edit_manifest(folder, forget_the_last_deletes)
    assert [damage.message for damage in find_damage(folder)] == ["an id belongs to two documents"]
    (report,) = repair(folder)
    assert report == ("part-000002", 9, 0, 0, "documents dropped whose ids later ones have: 1", 0)
    assert ids(folder) == sorted(["new", *"0123456789"])
    assert Retriever.from_folder(folder).search("leaves")[0].doc_id == "5"


@pytest.mark.parametrize("key", ["documents", "arms"])
def test_a_description_that_contradicts_its_files_costs_no_document(folder, key):
    edit_description(folder, lambda fields: fields["contents"].pop(key), "part-000002")
    (report,) = repair(folder)
    assert (report.documents, report.lost, report.returned) == (8, 0, 0)
    assert ids(folder) == LEFT


def flip(position):
    def change(data):
        data[position] ^= 1

    return change


def one_less(name):
    def change(fields):
        fields["contents"]["statistics"]["bm25"][name] -= 1

    return change


FORGED = {
    "documents of the segment": (
        lambda folder: edit_description(
            folder, lambda fields: fields["contents"]["arms"]["bm25"]["statistics"].update(documents=9), "part-000002"
        ),
        "its statistics are not those of its rows",
        "built again from its documents",
    ),
    "length of the segment": (
        lambda folder: edit_description(
            folder, lambda fields: fields["contents"]["arms"]["bm25"]["statistics"].update(length=21), "part-000002"
        ),
        "its statistics are not those of its rows",
        "built again from its documents",
    ),
    "documents left": (
        lambda folder: edit_description(folder, one_less("documents"), "part-000003"),
        "its statistics are not those of the documents that are left",
        "statistics counted anew",
    ),
    "length left": (
        lambda folder: edit_description(folder, one_less("length"), "part-000003"),
        "its statistics are not those of the documents that are left",
        "statistics counted anew",
    ),
    "document frequency left": (
        lambda folder: edit_file(folder, "bm25/document_frequency.npy", flip(-4), "part-000003"),
        "its statistics are not those of the documents that are left",
        "statistics counted anew",
    ),
    "bits behind the last document": (
        lambda folder: edit_file(folder, "live.npy", lambda data: data.append(data.pop() | 0x80), "part-000003"),
        "it has a document that the segment has not got",
        "statistics counted anew",
    ),
    "another arm": (
        lambda folder: edit_description(folder, lambda fields: fields["contents"].update(statistics={}), "part-000003"),
        None,  # found on opening
        "statistics counted anew",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_contradicts_the_documents_is_found_and_put_right(folder, name):
    expected = Retriever.from_folder(folder).search("tea", 100)
    forge, message, what = FORGED[name]
    forge(folder)
    found = find_damage(folder)
    assert found
    assert message is None or message in {damage.message for damage in found}
    (report,) = repair(folder)
    assert report == ("part-000002", 8, 0, 0, what, 0)
    assert find_damage(folder) == []
    assert Retriever.from_folder(folder, verify="full").search("tea", 100) == expected


def given_folder(tmp_path, model):
    """Documents 0 to 9 that brought their vectors, of which 3 is deleted; impacts as they are stored by default."""
    retriever = Retriever.from_pretrained(model)
    documents = [
        Document(str(number), text=f"text {number}", vector={"tea": number + 1, "milk": 3 * number})
        for number in range(10)
    ]
    retriever.index(documents, progress=False)
    retriever.save_pretrained(tmp_path / "i")
    retriever.delete("3")
    retriever.commit()
    return tmp_path / "i"


def scores(folder):
    return Retriever.from_folder(folder, verify="full").search({"tea": 1.5, "milk": 0.25}, 100)


@pytest.mark.parametrize("model", ["vectors", "mini"])
@pytest.mark.parametrize("file", ["tiers.docs.npy", "tiers.edges.npy", "document_frequency.npy"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_given_vectors_are_kept_where_their_rows_are_sound(tmp_path, model, file, is_cut):
    folder = given_folder(tmp_path, model)
    expected = scores(folder)
    path = folder / "part-000002" / model / file
    if is_cut:
        os.truncate(path, 100)
    else:
        damage_file(path)
    (report,) = repair(folder)
    assert report == ("part-000002", 9, 0, 0, "built again from its documents and their vectors", 0)
    assert scores(folder) == expected  # to the bit: nothing was encoded or rounded anew
    assert find_damage(folder) == []


@pytest.mark.parametrize("model", ["vectors", "mini"])
def test_given_vectors_go_on_with_those_documents_that_can_be_read(tmp_path, model):
    folder = given_folder(tmp_path, model)
    expected = scores(folder)
    file = folder / "part-000002" / "documents.sqlite"
    damage_file(file, file.read_bytes().index(b"text 7"))
    (report,) = repair(folder)
    assert report == ("part-000002", 8, 1, 0, "built again from its documents and their vectors", 0)
    left = [(hit.doc_id, hit.score) for hit in expected if hit.doc_id != "7"]
    assert [(hit.doc_id, hit.score) for hit in scores(folder)] == left
    assert Retriever.from_folder(folder).search({"tea": 1.0}, 100)[0].text == "text 9"


@pytest.mark.parametrize("model", ["vectors", "mini"])
@pytest.mark.parametrize("file", ["forward.low.npy", "forward.scales.npy"])
def test_where_given_vectors_are_damaged_no_encoder_makes_others_and_the_documents_stay(tmp_path, capsys, model, file):
    folder = given_folder(tmp_path, model)
    damage_file(folder / "part-000002" / model / file)
    assert main(["repair", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "its vectors came with its documents and are damaged, and no encoder can make them again" in out
    assert "documents saved: 9, lost: 0" in out
    retriever = Retriever.from_folder(folder, verify="full")
    assert (len(retriever), retriever.search({"tea": 1.0}), retriever.search("text")) == (9, [], [])
    retriever.upsert([Document("5", text="text 5", vector={"tea": 2.0})], progress=False)
    retriever.commit(progress=False)
    assert [(hit.doc_id, hit.text) for hit in retriever.search({"tea": 1.0})] == [("5", "text 5")]
    retriever.merge()
    damage_file(
        next(folder.glob(f"part-*/{model}/forward.low.npy"))
    )  # the merged segment still says whence it has its vectors
    (report,) = repair(folder)
    assert report.without_vectors == 9


def test_where_nobody_can_tell_whether_vectors_were_given_that_is_said(tmp_path):
    folder = given_folder(tmp_path, "mini")
    damage_file(folder / "part-000002" / "part.json", 30)
    (report,) = repair(folder)
    assert report.what == (
        "built again from its documents, all encoded anew: whether vectors had come with them nobody can tell"
    )


def test_a_segment_that_mini_encoded_is_encoded_again(tmp_path):
    retriever = Retriever.from_pretrained("mini").index([Document("a", text="moon")], progress=False)
    retriever.save_pretrained(tmp_path / "i")
    damage_file(tmp_path / "i" / "part-000002" / "mini" / "forward.low.npy")
    (report,) = repair(tmp_path / "i")
    assert report == ("part-000002", 1, 0, 0, "built again from its documents", 0)
    assert Retriever.from_folder(tmp_path / "i").search("moon")[0].doc_id == "a"
