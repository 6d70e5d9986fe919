import pytest

from retrieval import Hit
from winnow.display import hit_lines, printable


@pytest.mark.parametrize(
    ("hit", "head"),
    [
        (Hit(1, "csv.reader", 1.0, "csv.reader(...)"), "  1     1.000  csv.reader(...)"),
        (Hit(1, "5", 1.0, "5G networks"), "  1     1.000  5  5G networks"),
        (Hit(1, "a", 1.0), "  1     1.000  a"),
        (Hit(12, "x" * 300, 1.0, "title"), " 12     1.000  " + "x" * 81 + " ..."),
        (Hit(1, "a\tb\nc", 1.0), "  1     1.000  a b c"),
    ],
)
def test_the_id_is_always_seen(hit, head, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert hit_lines(hit)[0] == head


def test_documents_cannot_steer_the_terminal():
    assert (
        printable("\x1b[31mred\x07 \0é")
        == "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}é"
    )


def test_a_document_without_text_says_so():
    assert hit_lines(Hit(1, "a", 1.0))[1].strip() == "(no text)"
