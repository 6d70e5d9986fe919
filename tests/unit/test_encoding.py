"""Encoding once: a folder of vectors that grows part by part, is checked, repaired, and makes indexes."""

import json

import pytest
from forgery import edit_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from index.encoded_vectors import read_parts
from index.errors import CorpusError, IndexFormatError, ModelError, WinnowError
from index.verification import find_damage
from retrieval import Retriever, encode_corpus, encoding
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.mini import OPTIONS, mini, of
from retrieval.encoders.minilm import WEIGHTS_SHA256
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.text_stream import TruncationWarning
from retrieval.repair import repair
from winnow.cli import main

TEXTS = ["the moon pulls the sea", "bread and salt", "walking dogs", "tea", "", "rain on the hills", "lunar tides"]
CORPUS = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(encoding, "DOCUMENTS_A_PART", 2)


@pytest.fixture(scope="module")
def encoded_once(tmp_path_factory):
    """One folder of the whole corpus, not to be changed."""
    folder = tmp_path_factory.mktemp("encoded") / "v"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "DOCUMENTS_A_PART", 2)
        encode_corpus(CORPUS, folder, "mini", progress=False)
    return folder


def ids(folder):
    return [part.ids for _, part in read_parts(folder)]


def all_hits(retriever):
    return [retriever.search(query) for query in ("moon", "sea salt", "dog walks", "lunar rain tea", {"##s": 1.0})]


def test_the_vectors_are_those_of_the_encoder_in_parts_of_their_own(encoded_once):
    assert ids(encoded_once) == [["d0", "d1"], ["d2", "d3"], ["d4", "d5"], ["d6"]]
    (_, part), *_ = read_parts(encoded_once)
    encoder = mini()
    rows = encoder.encode_documents(retriever_documents(CORPUS[:2])).vectors
    expected = dict(zip([encoder.terms[n] for n in rows.indices[: rows.indptr[1]]], rows.data.tolist(), strict=False))
    first = slice(0, int(part.rows.indptr[1]))
    names = list(part.vocabulary)
    assert {
        names[n]: w for n, w in zip(part.rows.indices[first], part.rows.data[first].tolist(), strict=True)
    } == expected
    assert any(name.startswith("##") for name in names)  # as the vocabulary spells it, not as it is shown


def retriever_documents(records):
    from retrieval.corpus import read_corpus

    return list(read_corpus(records))


def test_parts_grow_with_the_collection_so_that_they_stay_few(monkeypatch):
    monkeypatch.setattr(encoding, "DOCUMENTS_A_PART", 4_096)
    assert [encoding.part_size(before) for before in (0, 262_143, 524_288, 8_841_823)] == [4_096, 4_096, 8_192, 135_168]
    parts, documents = 0, 0
    while documents < 8_841_823:
        documents, parts = documents + encoding.part_size(documents), parts + 1
    assert parts < 400  # each holds a file descriptor while it is read


def test_a_run_that_was_stopped_goes_on_where_it_stopped(encoded_once, tmp_path, monkeypatch):
    encode = LearnedSparseEncoder.encode_documents
    calls = []

    def stopping(self, documents):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, documents)

    monkeypatch.setattr(LearnedSparseEncoder, "encode_documents", stopping)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(CORPUS, tmp_path / "v", "mini", progress=False)
    assert ids(tmp_path / "v") == [["d0", "d1"], ["d2", "d3"]]
    assert encode_corpus(CORPUS, tmp_path / "v", "mini", progress=False) == (7, 4)
    assert len(calls) == 5
    for (_, own), (_, other) in zip(read_parts(tmp_path / "v"), read_parts(encoded_once), strict=True):
        assert own.ids == other.ids
        assert [array.tobytes() for array in own.rows] == [array.tobytes() for array in other.rows]
    assert encode_corpus(CORPUS, tmp_path / "v", "mini", progress=False) == (7, 7)  # nothing is left to do
    more = [*CORPUS, {"_id": "new", "text": "more"}]
    assert encode_corpus(more, tmp_path / "v", "mini", progress=False) == (8, 7)
    assert find_damage(tmp_path / "v") == []


def test_a_folder_of_other_documents_or_another_model_is_not_gone_on_with(encoded_once, tmp_path, monkeypatch):
    for corpus, message in [
        ([CORPUS[0], {"_id": "other"}], "has document 2 as 'd1', and the corpus has 'other' there"),
        (CORPUS[:3], "has document 4 as 'd3', and the corpus ends there"),
    ]:
        with pytest.raises(WinnowError, match=message):
            encode_corpus(corpus, encoded_once, "mini", progress=False)
    write = LearnedSparseEncoder.write

    def other_threshold(self, path):
        description = write(self, path)
        description["document"]["options"]["threshold"] = 9.0
        return description

    def other_tokenizer(self, path):
        description = write(self, path)
        (path / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes() + b" ")
        return description

    for other in (other_threshold, other_tokenizer):
        monkeypatch.setattr(LearnedSparseEncoder, "write", other)
        with pytest.raises(
            WinnowError, match="holds vectors of mini with other options or files than those of mini now"
        ):
            encode_corpus(CORPUS, encoded_once, "mini", progress=False)
    assert find_damage(encoded_once) == []
    assert len(list(encoded_once.glob("part-*"))) == 5  # the model's and those of vectors: nothing else is left behind


@pytest.mark.parametrize("model", ["bm25", "vectors"])
def test_a_model_whose_vocabulary_is_that_of_a_segment_is_refused(tmp_path, model):
    with pytest.raises(
        WinnowError, match=f"{model} has a vocabulary of its own in each segment, so nothing can be encoded"
    ):
        encode_corpus(CORPUS, tmp_path / "v", model, progress=False)
    assert not (tmp_path / "v").exists()


def test_a_corpus_that_cannot_be_encoded_is_told(tmp_path):
    with pytest.raises(CorpusError, match="document 4 of the corpus has the id 'd0' of one before it"):
        encode_corpus([*CORPUS[:3], CORPUS[0]], tmp_path / "v", "mini", progress=False)
    assert ids(tmp_path / "v") == [["d0", "d1"]]  # what was whole stays
    with pytest.raises(CorpusError, match="the corpus holds no documents"):
        encode_corpus([], tmp_path / "w", "mini", progress=False)
    assert not (tmp_path / "w").exists()
    with pytest.raises(IndexFormatError, match="holds a vectors, not a retriever"):
        Retriever.from_folder(tmp_path / "v")


def test_an_index_is_made_without_the_model_and_the_folder_names_it(encoded_once, monkeypatch):
    def fail(*_):
        raise AssertionError("nothing is to be encoded again")

    expected = {
        impacts: all_hits(Retriever.from_pretrained("mini", impacts=impacts).index(CORPUS, vectors=encoded_once, progress=False))
        for impacts in ("u8", "f32")
    }  # fmt: skip
    monkeypatch.setattr(NeuralSide, "encode", fail)
    for impacts in ("u8", "f32"):
        retriever = Retriever.from_pretrained(encoded_once, impacts=impacts)
        assert (retriever.model, len(retriever)) == ("mini", 0)
        retriever.index(CORPUS[:4], vectors=encoded_once, progress=False)
        retriever.index(list(reversed(CORPUS[4:])), vectors=encoded_once, progress=False)
        assert [sorted(hit.doc_id for hit in found) for found in all_hits(retriever)] == [
            sorted(hit.doc_id for hit in found) for found in expected[impacts]
        ]
    assert expected["u8"] != expected["f32"]
    plain = Retriever.from_pretrained("vectors", impacts="f32").index(encoded_once, progress=False)
    assert [hit.doc_id for hit in plain.search({"moon": 1.0})] == [
        hit.doc_id for hit in retriever.search({"moon": 1.0})
    ]


def test_vectors_of_another_vocabulary_are_refused(encoded_once):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "moon": 1}, unk_token="[UNK]"))
    retriever = Retriever(of(tokenizer, "u8", OPTIONS, WEIGHTS_SHA256))
    message = r"holds vectors of mini, whose vocabulary of 30,522 terms is not that of mini, 2 terms"
    with pytest.raises(ModelError, match=message):
        retriever.add(CORPUS, vectors=encoded_once, progress=False)
    assert retriever._writer is None


@pytest.mark.parametrize(
    "file", ["ids.text.npy", "rows.weights.npy", "rows.starts.npy", "vocabulary.text.npy", "part.json"]
)
def test_damage_is_found_and_repair_keeps_the_parts_before_it(tmp_path, file, capsys):
    encode_corpus(CORPUS, tmp_path / "v", "mini", progress=False)
    path = tmp_path / "v" / "part-000003" / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [damage.part for damage in find_damage(tmp_path / "v")] == ["part-000003"]
    assert main(["verify", str(tmp_path / "v"), "--full"]) == 1
    assert f"`winnow repair {tmp_path / 'v'}` saves what is sound" in capsys.readouterr().out
    assert main(["repair", str(tmp_path / "v")]) == 1
    out = capsys.readouterr().out
    assert "part-000003: `winnow encode` encodes it anew, and the parts after it, from where the vectors end now" in out
    assert f"{tmp_path / 'v'} is sound and has 2 documents" in out
    assert repair(tmp_path / "v") == []
    assert encode_corpus(CORPUS, tmp_path / "v", "mini", progress=False) == (7, 2)


FORGED = {
    "ids.starts.npy": (-8, "its ids do not follow one another, or one is empty"),
    "rows.terms.npy": (-1, "holds vectors that cannot be: term"),
    "rows.weights.npy": (-1, "holds vectors that cannot be: weight -"),
    "vocabulary.starts.npy": (-8, "its starts do not span the text"),
    "ids.text.npy": (-1, "does not describe its vectors as this release does"),
}


@pytest.mark.parametrize("file", FORGED)
def test_parts_that_lie_are_found_by_what_they_hold(tmp_path, file):
    encode_corpus(CORPUS[:2], tmp_path / "v", "mini", progress=False)
    place, message = FORGED[file]

    def change(data):
        data[place] ^= 0x80

    edit_file(tmp_path / "v", file, change, "part-000002")
    (damage,) = find_damage(tmp_path / "v")
    assert message in damage.message
    with pytest.raises(IndexFormatError, match=message):
        Retriever.from_pretrained("mini").index(CORPUS[:2], vectors=tmp_path / "v", progress=False)


def write_corpus(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    return str(tmp_path / "c.jsonl")


def test_the_commands_encode_once_and_index_from_it(tmp_path, capsys):
    corpus, folder, index = write_corpus(tmp_path), str(tmp_path / "v"), str(tmp_path / "i")
    assert main(["encode", corpus, "--out", folder, "--model", "mini", "--no-progress"]) == 0
    assert "encoded 7 documents with mini, all of them now\n" in capsys.readouterr().out
    assert main(["encode", corpus, "--out", folder, "--model", "mini", "--no-progress"]) == 0
    assert "encoded 7 documents with mini, 0 of them now\n" in capsys.readouterr().out
    assert main(["verify", folder, "--full"]) == 0
    assert capsys.readouterr().out == f"{folder} is sound (every byte, row and id)\n"
    assert main(["info", folder]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: vectors of 7 documents, to make indexes from (--vectors)\nmodel mini (")
    assert "part-000005             1" in out
    assert main(["info", folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["documents"], len(told["parts"])) == ("vectors", 7, 4)
    assert main(["index", corpus, "--vectors", folder, "--out", index, "--impacts", "f32", "--no-progress"]) == 0
    assert "indexed 7 documents with mini:" in capsys.readouterr().out
    assert main(["search", index, "--vector", '{"moon": 1.5, "unheard": 2}', "--json", "--explain"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == {"moon": 1.5, "unheard": 2}
    assert {hit["doc_id"] for hit in answer["hits"]} == {"d0", "d6"}
    assert {term["weight"] for hit in answer["hits"] for term in hit["terms"]} == {1.5}
    (tmp_path / "new.jsonl").write_text('{"_id": "new", "text": "x", "vector": {"moon": 100}}')
    assert (
        main(["add", index, str(tmp_path / "new.jsonl"), "--vectors", str(tmp_path / "new.jsonl"), "--no-progress"])
        == 0
    )
    assert main(["search", index, "--vector", '{"moon": 1}', "-k", "1"]) == 0
    assert "100.000  new" in capsys.readouterr().out


def test_the_model_follows_from_where_the_vectors_come(tmp_path, capsys):
    record = '{"_id": "a", "vector": {"tea leaf": 2}}'
    (tmp_path / "c.jsonl").write_text(record)
    corpus, index = str(tmp_path / "c.jsonl"), str(tmp_path / "i")
    for arguments in (["--vectors", corpus], ["--model", "vectors"], ["--model", "vectors", "--vectors", corpus]):
        assert main(["index", corpus, "--out", index, "--restart", *arguments]) == 0
        assert "indexed 1 documents with vectors: 1 postings" in capsys.readouterr().out
    assert main(["index", corpus, "--vectors", corpus, "--out", index, "--restart", "--model", "mini"]) == 1
    assert "has the term 'tea leaf' in its vector, which the vocabulary of mini lacks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "i"], "nothing says what to look for; give a question in words, or --vector JSON"),
        (["search", "i", "tea", "--vector", "{}"], "nothing says what to look for"),
        (
            ["search", "i", "--vector", "[1]"],
            "the query is list [1]; it must be a string, or a mapping of terms to weights",
        ),
        (["search", "i", "--vector", '{"a": NaN}'], "cannot be used (NaN is not JSON)"),
        (["search", "i", "--vector", '{"a": "1"}'], "the query has the weight '1' of the term 'a'"),
        (["index", "c.jsonl", "--vectors", "no.ciff", "--out", "n"], "'no.ciff' is no file of vectors"),
        (["index", "c.ciff", "--out", "n"], "c.ciff does not exist; give files of"),
        (
            ["index", "c.jsonl", "--vectors", "c.jsonl", "--model", "splade", "--out", "n"],
            "'splade' is neither a folder",
        ),
        (["encode", "c.jsonl", "--out", "i"], "holds a retriever, not a vectors"),
        (["encode", "c.jsonl", "--out", "n", "--model", "bm25"], "bm25 has a vocabulary of its own in each segment"),
        (["encode", "c.jsonl", "--out", "n", "--model", "splade"], "'splade' is neither a folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "vector": {"tea": 2}}')
    assert main(["index", "c.jsonl", "--vectors", "c.jsonl", "--out", "i"]) == 0
    capsys.readouterr()
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert (out, len(err.splitlines())) == ("", 1)
    assert not (tmp_path / "n").exists()


def test_an_interrupted_command_says_that_it_goes_on(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LearnedSparseEncoder, "encode_documents", interrupt)
    assert main(["encode", write_corpus(tmp_path), "--out", str(tmp_path / "v"), "--no-progress"]) == 130
    assert (
        capsys.readouterr().err == "winnow encode: interrupted; the same command goes on after the last whole part.\n"
    )


def test_vectors_of_other_options_are_refused(encoded_once):
    for options, told in [({"threshold": 3.0}, r"other threshold \(2.5\)"), ({"top_k": 3}, r"other top_k \(None\)")]:
        retriever = Retriever.from_pretrained("mini", **options)
        with pytest.raises(ModelError, match=f"holds vectors that mini made with {told} than those of mini here"):
            retriever.add(CORPUS, vectors=encoded_once, progress=False)


def test_texts_that_were_cut_are_told_once_of_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "DOCUMENTS_A_PART", 2)
    corpus = [{"_id": str(number), "text": "moon " * (300 * (number % 2))} for number in range(6)]
    with pytest.warns(TruncationWarning) as told:
        encode_corpus(corpus, tmp_path / "v", "mini", progress=False)
    assert [str(one.message) for one in told] == [
        "3 of 6 texts have more than max_length = 256 tokens; what comes after was not read."
    ]
