"""Expected tokens are what Lucene gives: Anserini 1.7.1, DefaultEnglishAnalyzer("porter"), run once on these texts.

On every document of SciFact, Cranfield and CACM (9,787 documents, 1.1 million tokens) both gave the same tokens.
"""

import pytest

from retrieval.encoders.lucene_english import analyze


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S.A. isn't 3.14 can't foo_bar's e-mail x'y", "u.s.a isn't 3.14 can't foo_bar e mail x'y"),
        ("naïve 1,000 IL-2 HUMAN’S dog＇s café's", "naïv 1,000 il 2 human dog café"),  # noqa: RUF001
        ("possibly geology us as AS is Über İstanbul a", "possibl geologi us über istanbul"),
        ("alpha‑beta TGF‐β1 ΣΑΣ ½ x² H₂O 10µm CO₂ 5′-end", "alpha beta tgf β1 σασ x h o 10µm co 5 end"),  # noqa: RUF001
        ("日本語 คำไทย 😀", "日 本 語 คำไทย 😀"),
        ("not a to the with", ""),
        ("", ""),
    ],
)
def test_tokens_are_lucenes(text, expected):
    assert analyze(text) == expected.split()


def test_long_runs_of_underscores_take_no_longer_than_their_length():
    assert analyze("_" * 200_000 + " a_b __c tea") == ["a_b", "__c", "tea"]  # hours, if every start were tried


def test_a_long_word_is_cut_into_pieces_of_255_characters():
    assert list(map(len, analyze("x" * 300))) == [255, 45]
