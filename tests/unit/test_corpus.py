import gzip
import json

import pytest

from index.documents import Document
from index.errors import CorpusError
from retrieval.corpus import FieldNames, read_corpus


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(*arguments):
    return list(read_corpus(*arguments))


def test_beir_jsonl_is_read_with_its_other_fields(tmp_path):
    line = json.dumps({"_id": "a", "title": "T", "text": "x", "metadata": {"year": 1}})
    file = write(tmp_path / "corpus.jsonl", line + "\n\n" + '{"_id": "b", "text": "y"}\r\n')
    expected = [Document("a", "T", "x", {"metadata": {"year": 1}}), Document("b", "", "y")]
    assert read(file) == read(str(file)) == read(tmp_path) == expected


def test_gzipped_and_bom_marked_files_are_read(tmp_path):
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress('\ufeff{"_id": "a", "text": "é"}'.encode()))
    assert read(tmp_path) == read(tmp_path / "corpus.jsonl.gz") == [Document("a", "", "é")]


def test_fields_can_be_named(tmp_path):
    file = write(tmp_path / "c.jsonl", '{"key": "a", "body": "x", "head": "h", "text": "kept"}')
    assert read(file, FieldNames.of(id="key", title="head", text="body")) == [Document("a", "h", "x", {"text": "kept"})]


def test_fields_that_might_have_been_the_id_or_text_but_are_not_are_stored():
    record = {"_id": "a", "id": 7, "text": "x", "contents": "y", "year": None}
    assert read([record]) == [Document("a", "", "x", {"id": 7, "contents": "y", "year": None})]
    assert read([Document("a", "", "x", {"id": 7, "text": "y"})]) == [Document("a", "", "x", {"id": 7, "text": "y"})]


def test_null_title_and_absent_text_are_empty(tmp_path):
    assert read([{"_id": "a", "title": None, "text": "x"}, {"id": "b"}]) == [Document("a", "", "x"), Document("b")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tx y\nb\tz\n", [Document("a", "", "x y"), Document("b", "", "z")]),
        ("a\tT\tx\n", [Document("a", "T", "x")]),
        ("year\tid\ttext\n1999\ta\tx\n", [Document("a", "", "x", {"year": "1999"})]),
    ],
)
def test_tsv_with_and_without_column_names(tmp_path, text, expected):
    assert read(write(tmp_path / "c.tsv", text)) == expected


def test_folder_of_text_files_is_named_by_path(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.md", "second")
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "image.png", b"\x89PNG")
    assert read(tmp_path) == [Document("a.txt", "a", "first"), Document("sub/b.md", "b", "second")]


def test_python_mappings_and_documents_are_read():
    by_id = {"a": {"title": "T", "text": "x"}}
    assert read(by_id) == read([Document("a", "T", "x")]) == [Document("a", "T", "x")]
    assert read([Document("a", fields={"year": 1})]) == [Document("a", fields={"year": 1})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "a"', r"c.jsonl:2 is not valid JSON"),
        ('{"_id": "a", "x": NaN}', r"c.jsonl:2 is not valid JSON \(NaN is not JSON\)"),
        ("[" * 100_000, r"c.jsonl:2 is not valid JSON"),
        ("[1]", r"c.jsonl:2 holds list \[1\]; a document must be an object"),
        ('{"text": "x"}', r"c.jsonl:2 has no _id or id or doc_id or docid; a document's id must be a string"),
        ('{"_id": 7, "text": "x"}', r"c.jsonl:2 has the id 7; a document's id must be a string"),
        ('{"_id": "", "text": "x"}', r"c.jsonl:2 has the id ''; a document's id must be a string that is not empty"),
        ('{"_id": "a", "n": 1e999}', r"c.jsonl:2 is not valid JSON \(1e999 is too large\)"),
        (
            '{"_id": "a", "text": "\\ud800"}',
            r"c.jsonl:2 holds text that is not valid Unicode \(surrogates not allowed\)",
        ),
        ('{"_id": "a", "text": ["x"]}', r"c.jsonl:2 has list \['x'\] as its text; it must be a string"),
        (b'{"_id": "a", "text": "\xff"}', r"c.jsonl:2 is not valid UTF-8 \(byte 22 of the line\)"),
    ],
)
def test_a_bad_record_is_named_with_file_and_line(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    file = write(tmp_path / "c.jsonl", b'{"_id": "ok", "text": "x"}\n' + line + b"\n")
    with pytest.raises(CorpusError, match=message):
        read(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tx\nb\n", r"c.tsv:2 has 1 columns, the first line has 2"),
        ("a\tb\tc\td\n", r"c.tsv:1 has 4 columns; without a first line of column names"),
        ("id\ttext\ttext\na\tx\ty\n", r"c.tsv:1 names a column twice: 'id, text, text'"),
        ("a\tx\n\t\n", r"c.tsv:2 has the id ''"),
    ],
)
def test_a_bad_tsv_line_is_named(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        read(write(tmp_path / "c.tsv", text))


def test_tsv_columns_that_were_named_must_be_there(tmp_path):
    file = write(tmp_path / "c.tsv", "key\tbody\nk1\tgreen tea\n")
    assert read(file, FieldNames.of(id="key", text="body")) == [Document("k1", "", "green tea")]
    with pytest.raises(CorpusError, match=r"c.tsv:1 has the columns 'key, body', which lack 'kee' or 'body2'"):
        read(file, FieldNames.of(id="kee", text="body2"))


def test_no_text_file_is_skipped_but_hidden_ones(tmp_path):
    for folder in (".git", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.txt", "x")
    write(tmp_path / "README.TXT", "upper")
    assert [document.doc_id for document in read(tmp_path)] == ["README.TXT", "b/x.txt"]
    (tmp_path / "b" / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"gone.txt"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl.gz", gzip.compress(b'{"_id": "a"}\n' * 999)[:-20], "is not a whole gzip file"),
        ("c.jsonl.gz", b"plain", "is not a whole gzip file"),
        (
            "c.tsv.gz",
            gzip.compress(b"a\tx\n" + bytes(5 << 20)),
            r"c.tsv.gz:2 unpacks to 4,194,304 bytes or more, from a file of",
        ),
        ("c.pdf", b"%PDF", "is of no known kind; give a .jsonl or .tsv file"),
        ("a.txt", b"\xff", "a.txt is not valid UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    file = write(tmp_path / name, content)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path if name.endswith(".txt") else file)


def test_a_path_that_does_not_exist_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl does not exist"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(CorpusError, match=r"holds neither corpus.jsonl nor text files"):
        read(tmp_path)
