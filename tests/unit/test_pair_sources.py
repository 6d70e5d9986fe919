"""What becomes of a record of each kind of source."""

from random import Random

from pairs_for_tests import SENTENCES, TEXT, asked, corpus, jsonl, judged, passages, words

from retrieval.training.sparse.pair_sources import without_sentences

PAGE = """# tar

> Archive files well.
> See also: `zip`.
> More information: <https://example.org>.

- [c]reate an archive:

`tar cf {{target.tar}} {{file1}}`

- E[x]tract an archive:

`tar xf {{source.tar}}`

- List what an archive holds:

`tar tf {{source.tar}}`
"""


def test_a_title_asks_for_the_text_below_it(tmp_path):
    corpus(tmp_path / "x", ("1", "[On tea].", "Tea is green."), ("2", "Milk", "Milk is white."))
    found = passages("title-abstract", tmp_path)
    assert [(one.doc_id, one.title, one.text, asked(one)) for one in found] == [
        ("1", "", "Tea is green.", ["On tea"]),
        ("2", "", "Milk is white.", ["Milk"]),
    ]
    assert found[1].where.endswith("corpus.jsonl:2")


def test_sentences_that_are_asked_leave_the_text(tmp_path):
    corpus(tmp_path / "x", ("1", "Six", TEXT))
    (found,) = passages("title-abstract", tmp_path, cloze=2)
    title, *sentences = asked(found)
    assert title == "Six"
    assert len(set(sentences)) == 2
    assert set(sentences) < set(SENTENCES)
    assert found.text == " ".join(one for one in SENTENCES if one not in sentences)


def test_a_text_keeps_three_sentences_and_those_that_are_too_long_or_short_to_ask():
    assert without_sentences(" ".join(SENTENCES[:3]), 1, Random(0)) == (" ".join(SENTENCES[:3]), [])
    assert len(without_sentences(TEXT, 99, Random(0))[1]) == 3
    assert without_sentences("One. Two. Three. Four. Five.", 2, Random(0)) == ("One. Two. Three. Four. Five.", [])
    long = " ".join(f"S {words(40)}." for _ in range(5))
    assert without_sentences(long, 1, Random(0))[1] == []


def test_only_the_first_eight_sentences_are_asked():
    many = [f"Sentence {words(4, letter)}." for letter in "abcdefghijkl"]
    found = {without_sentences(" ".join(many), 1, Random(seed))[1][0].text for seed in range(200)}
    assert found == set(many[:8])


def test_a_question_asks_for_its_answer(tmp_path):
    jsonl(tmp_path / "x.jsonl", [{"id": "7", "question": "What is tea?", "answer": "A drink.", "source": "s"}])
    (found,) = passages("question-answer", tmp_path, "x.jsonl")
    assert (found.doc_id, found.text, asked(found)) == ("7", "A drink.", ["What is tea?"])


def test_a_page_is_asked_for_by_its_description_and_one_example_that_leave_it(tmp_path):
    corpus(tmp_path / "x", ("tar", "tar", PAGE))
    purposes = ["create an archive", "Extract an archive", "List what an archive holds"]
    commands = ["tar cf {{target.tar}} {{file1}}", "tar xf {{source.tar}}", "tar tf {{source.tar}}"]
    seen = set()
    for seed in range(20):
        (found,) = passages("command-descriptions", tmp_path, seed=seed)
        description, purpose = asked(found)
        assert description == "Archive files well."
        place = purposes.index(purpose)
        others = [f"{p}: {c}." for p, c in zip(purposes, commands, strict=True) if p != purpose]
        assert found.text == f"tar. {commands[place]} {others[0]} {others[1]}"
        seen.add(purpose)
    assert seen == set(purposes)


def test_a_page_without_examples_is_asked_for_nothing_and_a_short_description_does_not_ask(tmp_path):
    corpus(tmp_path / "x", ("a", "a", "# a\n\n> Does it.\n"), ("b", "b", "# b\n\n> Does it.\n\n- Do it:\n\n`b`\n"))
    assert [asked(one) for one in passages("command-descriptions", tmp_path)] == [[], ["Do it"]]


def test_inverse_cloze_takes_a_sentence_out_or_leaves_it(tmp_path):
    corpus(tmp_path / "x", ("1", "T", TEXT), ("2", "", "Too short. Really."))
    one, none = passages("inverse-cloze", tmp_path)
    assert (one.title, len(one.queries), none.queries) == ("T", 1, [])
    assert one.text == " ".join(sentence for sentence in SENTENCES if sentence != asked(one)[0])
    (kept, _) = passages("inverse-cloze", tmp_path, kept=1.0)
    assert kept.text == TEXT
    left = [
        asked(p)[0] in p.text
        for seed in range(200)
        for p in passages("inverse-cloze", tmp_path, seed=seed, kept=0.3)[:1]
    ]
    assert 0.15 < sum(left) / len(left) < 0.45


def test_the_first_sentence_asks_for_the_rest(tmp_path):
    corpus(tmp_path / "x", ("1", "T", TEXT), ("2", "", "Short. Rest of it all."), ("3", "", SENTENCES[0]))
    one, short, alone = passages("body-first", tmp_path)
    assert (one.text, asked(one)) == (" ".join(SENTENCES[1:]), [SENTENCES[0]])
    assert short.queries == alone.queries == []


def test_crops_are_two_spans_of_the_text(tmp_path):
    corpus(tmp_path / "x", ("1", "Head", words(200)), ("2", "", words(10)))
    whole = f"Head {words(200)}"
    lengths, overlaps, ends = set(), set(), set()
    for seed in range(200):
        one, none = passages("crops", tmp_path, seed=seed)
        assert none.queries == []
        spans = [one.text, asked(one)[0]]
        assert all(f" {span} " in f" {whole} " for span in spans)
        lengths |= {len(span.split()) for span in spans}
        ends |= {span.split()[place] for span in spans for place in (0, -1)}
        overlaps.add(bool(set(spans[0].split()) & set(spans[1].split())))
    assert (min(lengths), max(lengths), overlaps) == (10, 100, {True, False})  # 0.05 and 0.5 of 201
    assert {"Head", "w199"} < ends


def test_judged_documents_come_with_their_queries_but_for_titles_kept_for_testing(tmp_path):
    judged(
        tmp_path / "x",
        [("a", "Tea", "1"), ("b", "Tea", "2"), ("c", "Milk", "3"), ("d", "Rum", "4"), ("e", "", "5")],
        {"q1": "one", "q2": "two", "q3": "three", "q4": "four", "q5": "five"},
        all=[("q2", "b", 1), ("q1", "b", 2), ("q1", "a", 0), ("q3", "c", 1), ("q4", "a", 1), ("q4", "d", 1), ("q5", "e", 1)],
        test=[("q3", "c", 1), ("q4", "a", 0), ("q5", "e", 1)],
    )  # fmt: skip
    found = passages("judged", tmp_path, split="all", exclude_titles_of="test")
    assert [(one.doc_id, one.title, one.text, asked(one), one.group) for one in found] == [
        ("b", "Tea", "2", ["two", "one"], "Tea"),
        ("a", "Tea", "1", ["four"], "Tea"),
        ("d", "Rum", "4", ["four"], "Rum"),
        ("e", "", "5", ["five"], None),
    ]


def test_a_query_is_left_out_whole_where_one_of_its_documents_has_a_title_kept_for_testing(tmp_path):
    judged(tmp_path / "x", [("a", "Tea", "1"), ("b", "Milk", "2")], {"1": "one", "2": "two"},
           all=[("1", "a", 1), ("1", "b", 1), ("2", "b", 1)], test=[("1", "a", 1)])  # fmt: skip
    assert [asked(one) for one in passages("judged", tmp_path, split="all", exclude_titles_of="test")] == [["two"]]


def test_a_limit_draws_records_by_chance(tmp_path):
    corpus(tmp_path / "x", *((str(i), f"t{i}", f"text {i}") for i in range(50)))
    drawn = [[one.doc_id for one in passages("title-abstract", tmp_path, seed=seed, limit=10)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    assert len(set(drawn[0])) == 10
    assert len(passages("title-abstract", tmp_path, limit=99)) == 50
