"""Training of BlockRank: losses by hand, lists."""

import json
import math

import pytest
import torch

from index.errors import CorpusError, WinnowError
from retrieval.training.lists import Candidates, candidates_of, held_out, read_lists
from retrieval.training.losses import IGNORED, contrastive_attention_loss, irpo_loss, next_token_loss


def log(*masses):
    return torch.tensor(masses, dtype=torch.float64).log()


def test_contrastive_loss_is_the_published_formula():
    found = contrastive_attention_loss(log(0.5, 0.3, 0.2), torch.tensor([False, True, True]), temperature=0.1)
    everything = math.exp(5) + math.exp(3) + math.exp(2)
    assert found.item() == pytest.approx(-math.log((math.exp(3) + math.exp(2)) / everything), rel=1e-12)
    published = contrastive_attention_loss(log(0.5, 0.5), torch.tensor([True, False]))
    assert published.item() == pytest.approx(math.log(2), rel=1e-12)  # whatever the temperature
    steep = contrastive_attention_loss(log(0.6, 0.4), torch.tensor([True, False]))
    assert steep.item() == pytest.approx(math.log1p(math.exp(-0.2 / 0.05)), rel=1e-12)  # .05, as published


def test_contrastive_loss_is_finite_where_one_document_has_all_the_mass():
    log_mass = torch.tensor([0.0, -200.0, -300.0], requires_grad=True)
    loss = contrastive_attention_loss(log_mass, torch.tensor([False, True, False]))
    loss.backward()
    assert loss.item() == pytest.approx(20.0, abs=1e-3)  # 1 / .05 against 0
    assert log_mass.grad.isfinite().all()


def test_irpo_without_a_reference_and_with_one_relevant_document_is_the_logarithm_of_its_mass():
    found = irpo_loss(log(0.5, 0.3, 0.2), torch.tensor([0, 1, 0]))
    assert found.item() == pytest.approx(-math.log(0.3), rel=1e-12)


def test_irpo_weighs_gain_by_position_and_compares_with_lower_documents_alone():
    # by relevance: document 2 (gain 3), then 0 and 3 (gain 1 each), 3 ahead by its mass; document 1 is below them all
    found = irpo_loss(log(0.1, 0.2, 0.3, 0.4), torch.tensor([1, 0, 2, 1]))
    losses = [-math.log(0.3 / 1.0), -math.log(0.4 / 0.6), -math.log(0.1 / 0.3)]
    weights = [3 / math.log2(2), 1 / math.log2(3), 1 / math.log2(4)]
    expected = sum(w * one for w, one in zip(weights, losses, strict=True)) / sum(weights)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_irpo_measures_against_the_reference_and_sharpens_by_beta():
    mass, reference = log(0.5, 0.3, 0.2), log(0.25, 0.5, 0.25)
    found = irpo_loss(mass, torch.tensor([1, 0, 0]), reference, beta=2.0)
    rewards = [(0.5 / 0.25) ** 2, (0.3 / 0.5) ** 2, (0.2 / 0.25) ** 2]
    assert found.item() == pytest.approx(-math.log(rewards[0] / sum(rewards)), rel=1e-12)
    same = irpo_loss(mass, torch.tensor([1, 0, 0]), mass)
    assert same.item() == pytest.approx(
        math.log(3), rel=1e-12
    )  # nothing gained on the reference: three equal documents


@pytest.mark.parametrize(
    "loss",
    [
        lambda mass: contrastive_attention_loss(mass, torch.tensor([True, False, True, False])),
        lambda mass: irpo_loss(mass, torch.tensor([2, 0, 1, 0])),
        lambda mass: irpo_loss(mass, torch.tensor([1, 0, 1, 0]), log(0.1, 0.2, 0.3, 0.4), beta=0.5),
    ],
)
def test_losses_have_the_gradients_of_their_values(loss):
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x.log_softmax(0)), logits)


def test_next_token_loss_leaves_out_what_is_ignored():
    logits = torch.tensor([[0.0, 0.0], [5.0, -5.0], [1.0, 2.0]])
    found = next_token_loss(logits, torch.tensor([1, IGNORED, 0]))
    assert found.item() == pytest.approx((math.log(2) + math.log1p(math.exp(1))) / 2, rel=1e-6)


BEIR = {
    "corpus.jsonl": [
        {"_id": "moon", "title": "Moon", "text": "the moon moves the tide"},
        {"_id": "tide", "title": "Tide", "text": "the tide of the sea"},
        {"_id": "bread", "title": "Bread", "text": "bread of flour and the salt of the sea"},
        {"_id": "tea", "title": "Moon", "text": "the tea"},
    ],
    "queries.jsonl": [],
}
QUERIES = {"q1": "moon sea", "q2": "the sea", "q3": "the tea", "none": "nothing here", "blank": " "}


@pytest.fixture
def corpus(tmp_path):
    lines = "".join(json.dumps(one) + "\n" for one in BEIR["corpus.jsonl"])
    (tmp_path / "corpus.jsonl").write_text(lines)
    return tmp_path


def test_negatives_are_what_bm25_finds_without_what_is_judged_relevant(corpus):
    qrels = {"q1": {"moon": 1, "tea": 2, "tide": 0}, "blank": {"tea": 1}, "none": {"tea": 1}, "q2": {"gone": 1}}
    [found] = candidates_of(corpus, QUERIES, qrels, progress=False)
    assert found.query == "moon sea"
    assert found.relevant == ("Moon the moon moves the tide", "Moon the tea")
    assert found.relevance == (1, 2)
    assert found.negatives == (
        "Tide the tide of the sea",
        "Bread bread of flour and the salt of the sea",
    )  # shorter first


def test_queries_on_a_title_that_is_tested_are_left_out(corpus):
    qrels = {"q1": {"moon": 1}, "q2": {"tide": 1}}
    kept = candidates_of(corpus, QUERIES, qrels, exclude_titles_of={"t": {"tea": 1, "tide": 0}}, progress=False)
    assert [one.query for one in kept] == [
        "the sea"
    ]  # "tea" has the title of "moon"; what is judged 0 counts for nothing
    with pytest.raises(WinnowError, match=r"none of the 5 queries .* kept for testing"):
        candidates_of(corpus, QUERIES, {"q1": {"moon": 1}}, exclude_titles_of={"t": {"tea": 1}}, progress=False)


def test_documents_of_a_title_that_is_tested_are_no_negatives(corpus):
    given = {"q2": {"tide": 1}}
    [free] = candidates_of(corpus, {"q2": "sea tea"}, given, progress=False)
    assert free.negatives == ("Moon the tea", "Bread bread of flour and the salt of the sea")
    [found] = candidates_of(corpus, {"q2": "sea tea"}, given, exclude_titles_of={"t": {"moon": 1}}, progress=False)
    assert found.negatives == ("Bread bread of flour and the salt of the sea",)


def test_a_list_is_drawn_anew_each_time_and_equally_for_a_seed():
    given = Candidates("q", ("a", "b", "c"), (1, 2, 3), tuple(map(str, range(50))))
    one = given.drawn(8, (0, 1, 2))
    assert one == given.drawn(8, (0, 1, 2))
    assert len({given.drawn(8, (0, 1, n)).documents for n in range(20)}) == 20
    assert len(one.documents) == len(set(one.documents)) == 8
    assert {(text, grade) for text, grade in zip(one.documents, one.relevance, strict=True) if grade} == {
        ("a", 1),
        ("b", 2),
        ("c", 3),
    }
    first = [given.drawn(8, (0, 1, n)).relevance[0] > 0 for n in range(400)]
    assert 0.3 < sum(first) / 400 < 0.45  # 3 of 8, wherever they stand
    few = given.drawn(4, (0, 0))
    assert sum(grade > 0 for grade in few.relevance) == 2  # half the places
    assert sum(grade > 0 for grade in Candidates("q", ("a", "b"), (1, 1), ("x",)).drawn(9, (0,)).relevance) == 2
    assert sum(grade > 0 for grade in given.drawn(2, (0,)).relevance) == 1


def test_an_evaluation_list_has_the_best_negatives():
    given = Candidates("q", ("a",), (1,), tuple(map(str, range(50))))
    assert sorted(given.whole(4, (0,)).documents) == ["0", "1", "2", "a"]
    assert len({given.whole(4, (n,)).documents for n in range(30)}) > 10


def test_held_out_queries_are_not_trained_on():
    lists = [Candidates(f"q{n % 7}", ("a",), (1,), ("b",)) for n in range(10)]
    training, kept = held_out(lists, 3, seed=1)
    assert len(kept) == 3
    assert not {one.query for one in training} & {one.query for one in kept}
    assert len(training) + sum(one.query in {k.query for k in kept} for one in lists) == 10
    assert held_out(lists, 3, seed=1)[1] == kept
    with pytest.raises(WinnowError, match="10 lists are to be held out of 10"):
        held_out(lists, 10, seed=0)


def test_published_lists_are_read_with_objects_and_with_texts(tmp_path):
    path = tmp_path / "lists.jsonl"
    documents = [
        {"doc_id": "x", "title": "T", "text": "one"},
        {"doc_id": 7, "text": "two"},
        {"doc_id": "z", "text": ""},
    ]
    lines = [
        {"query": "q", "query_id": "1", "documents": documents, "answer_ids": ["z", 7]},
        {"query": "r", "documents": ["a", "b"], "answer_ids": [1]},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert read_lists(path) == [
        Candidates("q", ("two", ""), (1, 1), ("T one",)),
        Candidates("r", ("b",), (1,), ("a",)),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": ""}, r"lists.jsonl:1 has the query ''"),
        ({"query": None}, "has the query None"),
        ({"documents": []}, "has 0 documents"),
        ({"documents": None}, "has no list of documents"),
        ({"answer_ids": []}, r"has the answer_ids \[\]"),
        ({"answer_ids": [5]}, "names '5' among its answer_ids"),
        ({"answer_ids": [0, 1]}, "names all its 2 documents"),
        ({"documents": ["a", 3]}, "has int 3 as document 1"),
        ({"documents": ["a", {"doc_id": "0", "text": "b"}]}, "has a doc_id twice"),
        ({"documents": ["a", {"doc_id": "1"}]}, "has None as the text of document 1"),
    ],
)
def test_a_list_that_teaches_nothing_is_refused_with_its_line(tmp_path, changes, message):
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": ["a", "b"], "answer_ids": [0], **changes}))
    with pytest.raises(CorpusError, match=message):
        read_lists(path)
