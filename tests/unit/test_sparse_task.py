"""Batches, losses and the measure of sparse training, on examples that are small enough to count by hand."""

from itertools import chain
from math import log2

import numpy as np
import pytest
import torch
from sparse_training_for_tests import WORDS, beir_folder, recipe
from tiny_checkpoints import bert

from index.errors import CorpusError, WinnowError
from retrieval.training.run_folder import TrainingError
from retrieval.training.sparse.beginning import beginning
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.losses import contrastive_loss, ensemble, kl_distillation_loss, margin_mse_loss
from retrieval.training.sparse.model import QueryTable, SparseTowers
from retrieval.training.sparse.options import SparseOptions
from retrieval.training.sparse.preparation import hold_out, of_model, pairs_of, prepare
from retrieval.training.sparse.regularisers import anti_zero, flops
from retrieval.training.sparse.task import HeldOut, SparseTask, ndcg
from retrieval.training.sparse.teacher_cache import TeacherError

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_TERMS = len(WORDS)


class Words(torch.nn.Module):
    """A document tower: each word of a text has the same weight, and one parameter more than that is not needed."""

    num_terms = NUM_TERMS

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, texts):
        rows = torch.zeros(len(texts), NUM_TERMS)
        for row, text in zip(rows, texts, strict=True):
            row[[WORDS.index(word) for word in text.split() if word in WORDS]] = 0.5
        return rows * self.scale


class Texts:
    """A reader that reads nothing: the towers of these tests are given texts."""

    def of(self, texts):
        return [Text(text) for text in texts]


class Text(str):
    ids = (0, 0)  # two tokens

    @property
    def own(self):
        return np.array([WORDS.index(word) for word in self.split() if word in WORDS], np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return beir_folder(tmp_path_factory.mktemp("data") / "words")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def examples(data):
    return Examples.read(data, negatives=data / "negatives.jsonl")


NO_TEACHER = {"distillation": 0.0}


def task_of(examples, *, table=True, options=None, **more):
    query = QueryTable(np.ones(NUM_TERMS, np.float32), learned=False) if table else Words()
    options = SparseOptions(**{"answers": 3, "negatives": 1, **NO_TEACHER, **(options or {})})
    return SparseTask(SparseTowers(Words(), query), (Texts(), Texts()), examples, options, **more)


def test_an_epoch_gives_each_answer_a_batch(examples):
    task = task_of(examples)
    assert len(task) == 3  # nine documents are answers: d0 to d7, d11
    found = [task.batch(number, 0) for number in range(3)]
    firsts = [reasons(task, number, 0) for number in range(3)]
    assert sorted(chain.from_iterable(firsts)) == [0, 1, 2, 3, 4, 5, 6, 7, 11]
    for batch, reason in zip(found, firsts, strict=True):
        assert set(reason) <= set(batch.documents)
    assert sorted(chain.from_iterable(reasons(task, number, 1) for number in range(3))) == [0, 1, 2, 3, 4, 5, 6, 7, 11]
    assert firsts != [reasons(task, number, 1) for number in range(3)]


def reasons(task, number, epoch):
    """The answers that a batch is for: without negatives nothing else is in it."""
    alone = task_of(task.examples, options={"negatives": 0}, seed=task.seed)
    return alone.batch(number, epoch).documents


def test_the_last_batch_may_be_smaller(examples):
    task = task_of(examples, options={"answers": 4, "negatives": 0})
    assert [len(task.batch(number, 0).documents) for number in range(len(task))] == [4, 4, 1]


def test_a_batch_is_a_function_of_seed_epoch_and_number(examples):
    one, other, third = (task_of(examples, seed=seed) for seed in (5, 5, 6))
    key = [(number, epoch) for epoch in range(3) for number in range(3)]
    drawn = [one.batch(*at)[:2] for at in key]
    assert drawn == [other.batch(*at)[:2] for at in reversed(key)][::-1]  # whatever was drawn before
    assert drawn != [third.batch(*at)[:2] for at in key]
    assert len({str(batch) for batch in drawn}) == len(drawn)


@pytest.mark.parametrize(("negatives", "expected"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_an_answer_comes_with_as_many_negatives_as_said_of_one_of_its_queries(examples, negatives, expected):
    task = task_of(examples, options={"answers": 1, "negatives": negatives})
    seen = set()
    for epoch in range(6):
        for number in range(len(task)):
            answer, *found = task.batch(number, epoch).documents
            assert len(found) == expected
            allowed = [examples.negatives[query].tolist() for query in task.of_document[answer]]
            assert any(set(found) <= set(of_query) for of_query in allowed)
            seen |= {(answer, one) for one in found}
    if expected == 1:
        assert len(seen) > 14  # either negative of most of the nine


def test_queries_are_those_that_the_documents_answer_and_no_more_than_said_of_each():
    none = np.empty(0, np.int32)
    many = Examples(
        [f"q{i}" for i in range(6)],
        [f"q{i}" for i in range(6)],
        ["a", "b", "c"],
        ["a", "b", "c"],
        [np.array([0], np.int32)] * 5 + [np.array([1, 0], np.int32)],
        [np.array([1, 2], np.int32)] * 5 + [none],
    )
    for at_most in (1, 2, 6):
        task = task_of(many, options={"answers": 1, "negatives": 2, "queries_a_document": at_most})
        for epoch in range(5):
            for number in range(2):
                batch = task.batch(number, epoch)
                assert len(set(batch.queries)) == len(batch.queries)
                of_a = [query for query in batch.queries if query < 5]
                if 0 in batch.documents and 1 in batch.documents:
                    # a has six queries, b one of these six; c none
                    assert len(batch.queries) in (at_most, min(at_most + 1, 6))
                    assert len(of_a) <= at_most
    drawn = {
        tuple(task_of(many, options={"answers": 1, "negatives": 2}).batch(0, epoch).queries) for epoch in range(40)
    }
    assert len(drawn) > 5


def test_positives_are_all_answers_in_the_batch_whatever_they_came_as(examples):
    """The negatives of a query are the answers of others; query 0 has two answers."""
    task = task_of(examples, options={"answers": 4, "negatives": 2})
    came_as_negative = two = 0
    for epoch in range(8):
        for number in range(len(task)):
            batch = task.batch(number, epoch)
            assert len(set(batch.documents)) == len(batch.documents)
            expected = torch.tensor(
                [
                    [f"d{document}" == f"d{query}" or (query, document) == (0, 11) for document in batch.documents]
                    for query in batch.queries
                ]
            )
            assert torch.equal(batch.positives, expected)
            assert batch.positives.any(1).all()
            first = set(reasons_of_four(task, number, epoch))
            came_as_negative += sum(1 for query in batch.queries if query not in first and query != 0)
            two += int((batch.positives.sum(1) == 2).any())
    assert came_as_negative > 10
    assert two > 3


def reasons_of_four(task, number, epoch):
    return task_of(task.examples, options={"answers": 4, "negatives": 0}).batch(number, epoch).documents


class Known:
    """A teacher of some pairs."""

    def __init__(self, name, table):
        self.name, self.table, self.asked = name, table, []

    def scores(self, query_ids, document_ids):
        self.asked.append((list(query_ids), list(document_ids)))
        return torch.tensor([[self.table.get((q, d), float("nan")) for d in document_ids] for q in query_ids])


def test_teachers_are_asked_by_ids_and_count_by_their_weights(examples):
    rng = np.random.default_rng(3)
    everything = [(q, d) for q in examples.query_ids for d in examples.document_ids]
    tables = [
        {pair: float(rng.normal()) for pair in everything},
        {pair: float(rng.normal()) for pair in everything[::2]},
    ]
    teachers = [Known(f"t{i}", table) for i, table in enumerate(tables)]
    options = {"distillation": 1.0, "teacher_weights": (3.0, 1.0), "teacher_scale": 12.0}
    task = task_of(examples, options=options, teachers=teachers)
    batch = task.batch(1, 0)
    found = task.targets(batch)
    ids = [f"q{q}" for q in batch.queries], [f"d{d}" for d in batch.documents]
    assert [teacher.asked for teacher in teachers] == [[ids], [ids]]
    given = [Known("", table).scores(*ids) for table in tables]
    torch.testing.assert_close(found, ensemble(given, [3.0, 1.0], 12.0), equal_nan=True)
    assert task.describe()["teachers"] == ["t0", "t1"]


def test_the_loss_is_the_weighted_sum_of_what_is_asked_for(examples):
    rng = np.random.default_rng(3)
    table = {(q, d): float(rng.normal()) for q in examples.query_ids for d in examples.document_ids}
    options = {
        "contrastive": 0.5,
        "distillation": 2.0,
        "margin_mse": 0.25,
        "anti_zero": 3.0,
        "temperature": 0.5,
        "distillation_temperature": 2.0,
        "document_weight": 0.1,
        "document_terms": None,
        "query_weight": 0.7,
        "sparsity_warmup": 0.0,
    }
    task = task_of(examples, table=False, options=options, teachers=[Known("t", table)])
    losses = task.losses(2, 0)
    batch = task.batch(2, 0)
    queries = Words()(Texts().of([examples.queries[q] for q in batch.queries]))
    documents = Words()(Texts().of([examples.documents[d] for d in batch.documents]))
    scores, targets = queries @ documents.T, task.targets(batch)
    parts = {
        "contrastive": contrastive_loss(scores, batch.positives, 0.5),
        "distillation": kl_distillation_loss(scores, targets, 2.0),
        "margin_mse": margin_mse_loss(scores, targets, batch.positives),
        "flops": flops(documents),
        "query_flops": flops(queries),
        "terms": torch.tensor(3.0),  # three words a document
        "query_terms": torch.tensor(1.0),
        "weight": torch.tensor(0.1),
        "query_weight": torch.tensor(0.7),
    }
    assert losses.parts == pytest.approx({name: one.item() for name, one in parts.items()}, rel=1e-5)
    expected = (
        0.5 * parts["contrastive"]
        + 2 * parts["distillation"]
        + 0.25 * parts["margin_mse"]
        + 0.1 * parts["flops"]
        + 0.7 * parts["query_flops"]
        + 3 * anti_zero(queries, documents)
    )
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.tokens == 2 * (len(batch.queries) + len(batch.documents))


def test_queries_without_a_model_have_no_regulariser_and_no_tokens(examples):
    task = task_of(examples, options={"sparsity_warmup": 0.0})
    losses = task.losses(0, 0)
    assert set(losses.parts) == {"contrastive", "terms", "weight", "flops"}
    assert losses.tokens == 2 * len(task.batch(0, 0).documents)
    assert list(task.sparsity) == ["document"]


def test_a_learned_table_has_a_rate_of_its_own(examples):
    def rates(learned):
        table = QueryTable(np.ones(NUM_TERMS, np.float32), learned=learned)
        options = SparseOptions(**NO_TEACHER, query_learning_rate=0.25)
        return SparseTask(SparseTowers(Words(), table), (Texts(), Texts()), examples, options).learning_rates

    assert rates(True) == {"towers.query.table": 0.25}
    assert rates(False) == {}


def test_the_schedule_of_sparsity_is_a_part_of_the_run(examples):
    task = task_of(
        examples, options={"sparsity_warmup": 0.25, "document_weight": 0.8, "document_terms": None}, steps=16
    )
    found = [task.losses(0, 0).parts["weight"] for _ in range(6)]
    assert found == pytest.approx([0, 0.8 / 16, 0.8 * 4 / 16, 0.8 * 9 / 16, 0.8, 0.8])
    assert task.sparsity["document"].watch.warmup == 4


def test_it_counts_batches_where_several_make_a_step(model, data, tmp_path):
    def warmup(**changes):
        made = recipe(model, data, training__steps=10, teachers=[], loss__distillation=0.0, **changes)
        return prepare(made, cache=tmp_path, device="cpu", progress=False).sparsity["document"].weight.warmup

    assert warmup() == 5
    assert warmup(training__accumulation=4) == 20


@pytest.mark.parametrize(
    ("scale", "told"),
    [(0.0, "documents had 0.0 of 12 terms on average at step 100 .* the sparsity weight of documents"), (1.0, None)],
)
def test_a_collapse_ends_the_run_with_the_weight_to_change(examples, scale, told):
    task = task_of(examples, options={"document_weight": 0.5, "document_terms": None}, steps=10)
    with torch.no_grad():
        task.towers.document.scale.fill_(scale)
    for _ in range(99):
        task.losses(0, 0)
    if told is None:
        task.losses(0, 0)
    else:
        with pytest.raises(TrainingError, match=told):
            task.losses(0, 0)


def test_documents_of_all_terms_end_the_run_too(examples):
    class All(Words):
        def forward(self, texts):
            return super().forward(texts) + 0.1

    options = SparseOptions(answers=3, negatives=1, **NO_TEACHER)
    table = QueryTable(np.ones(NUM_TERMS, np.float32), learned=False)
    task = SparseTask(SparseTowers(All(), table), (Texts(), Texts()), examples, options, steps=10)
    for _ in range(102):  # three of them are warm-up
        task.losses(0, 0)
    with pytest.raises(
        TrainingError, match=r"more than half in each of 100 steps: .* is too low; train anew with a higher"
    ):
        task.losses(0, 0)


def test_ndcg_is_the_sum_of_discounts_over_the_best_that_could_be():
    scores = np.array([0.1, 0.9, 0.5, 0.7], np.float32)
    # order: 1, 3, 2, 0; answers 3 and 0 are second and fourth
    assert ndcg(scores, [3, 0]) == pytest.approx((1 / log2(3) + 1 / log2(5)) / (1 / log2(2) + 1 / log2(3)))
    assert ndcg(scores, [1]) == 1
    tied = np.zeros(500, np.float32)
    assert ndcg(tied, [0]) == 0  # what answers comes last among equal scores: a model without weights finds nothing
    assert ndcg(tied[:10], [4]) == pytest.approx(1 / log2(11))
    halves = np.array([0, 1] * 5, np.float32)
    assert ndcg(halves, [1]) == pytest.approx(1 / log2(6))  # 3, 5, 7, 9, 1
    many = list(range(12))
    assert ndcg(np.arange(12, dtype=np.float32), many) == pytest.approx(1)  # ten are enough


def library_ndcg(scores, answers):
    import ir_measures

    qrels = {"q": {f"d{answer}": 1 for answer in answers}}
    run = {"q": {f"d{number}": float(score) for number, score in enumerate(scores)}}
    measure = ir_measures.parse_measure("nDCG@10")
    return ir_measures.calc_aggregate([measure], qrels, run)[measure]


def test_ndcg_is_that_of_the_library_that_measures():
    rng = np.random.default_rng(2)
    for _ in range(20):
        scores = rng.permutation(30).astype(np.float32)
        answers = rng.permutation(30)[: rng.integers(1, 14)].tolist()
        assert ndcg(scores, answers) == pytest.approx(library_ndcg(scores, answers), abs=1e-6)


def test_an_evaluation_is_the_mean_over_held_out_queries(examples, monkeypatch):
    documents = [*(f"{word} open" for word in WORDS[:3]), *["open"] * 87]  # more than are encoded at a time
    held_out = HeldOut(["moon", "sea water", "month"], documents, [[0], [1], [2]])
    task = task_of(examples, held_out=held_out)
    found = task.evaluate()
    # moon: one document has it. sea water: documents 1 and 2 tie, so the answer is second. month: nobody has it, all tie
    assert found == {"nDCG@10": pytest.approx((1 + 1 / log2(3) + 0) / 3), "terms": pytest.approx((3 * 2 + 87) / 90)}
    both = task_of(examples, table=False, held_out=held_out).evaluate()
    assert both == {**found, "query_terms": pytest.approx(4 / 3)}


def test_an_evaluation_without_held_out_queries_is_told(examples):
    with pytest.raises(TrainingError, match="there are 0 queries to evaluate on"):
        task_of(examples).evaluate()


def test_held_out_queries_are_searched_in_their_answers_and_so_many_others(data, examples):
    judged = Examples.read(data, "dev")
    found = hold_out(judged, 3, 7, examples)
    assert found.queries == list(WORDS[8:])
    assert [[found.documents[one] for one in answers] for answers in found.answers] == [
        [judged.documents[i]] for i in range(8, 12)
    ]
    assert len(set(found.documents)) == len(found.documents) == 4 + 3
    assert hold_out(judged, 3, 7, examples) == found
    assert len({tuple(hold_out(judged, 3, seed, examples).documents) for seed in range(6)}) > 3
    assert len(hold_out(judged, 100, 7, examples).documents) == 12
    with pytest.raises(WinnowError, match="8 queries, 'q0' first, are both trained and evaluated on"):
        hold_out(examples, 3, 7, examples)


def test_a_cross_encoder_is_asked_of_answers_and_negatives(examples):
    found = list(pairs_of(examples))
    assert len(found) == 9 + 8 * 2
    assert [document for query, document in found if query == "q0"] == ["d0", "d11", "d3", "d5"]


def test_the_description_tells_examples_and_options_apart(examples, data):
    plain = Examples.read(data)
    described = [
        task_of(given, options=options, held_out=held_out).describe()
        for given, options, held_out in (
            (examples, None, None),
            (plain, None, None),
            (examples, {"negatives": 2}, None),
            (examples, None, HeldOut(["moon"], ["a"], [[0]])),
        )
    ]
    assert described[0] == task_of(examples).describe()
    for other in described[1:]:
        assert other != described[0]


def test_options_of_teachers_are_a_part_of_the_description(model, data):
    def described(**options):
        made = recipe(model, data, teachers=[{"name": "minilm", "options": options}])
        return of_model(made, beginning(made.model))

    assert described(max_length=64)["teacher_options"] == [{"max_length": 64}]
    assert "teacher_options" not in described()


def test_teachers_whose_ids_do_not_match_are_told(model, data, tmp_path):
    lines = "".join(f'{{"query_id": "q{i}", "document_id": "x{i}", "score": 1.5}}\n' for i in range(3))
    (tmp_path / "scores.jsonl").write_text(lines)
    made = recipe(model, data, teachers=[{"name": f"scores:{tmp_path / 'scores.jsonl'}"}])
    with pytest.raises((TeacherError, CorpusError), match=r"x0"):
        prepare(made, cache=tmp_path, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", "of which no document is relevant"),
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgments"),
        ("queries.jsonl", '{"_id": "q0", "text": " "}\n', "whose text is empty"),
        (
            "negatives.jsonl",
            '{"query_id": "q0", "negatives": ["d0"]}\n',
            "'d0' as a negative of the query 'q0', which is",
        ),
        ("negatives.jsonl", '{"query_id": "q0", "negatives": ["d99"]}\n', "'d99', which corpus.jsonl lacks"),
    ],
)
def test_pairs_that_teach_nothing_or_something_wrong_are_told(model, tmp_path, file, text, told):
    data = beir_folder(tmp_path / "data")
    (data / file).write_text(text)
    with pytest.raises(CorpusError, match=told):
        prepare(recipe(model, data), cache=tmp_path, device="cpu", progress=False)


def test_options_that_fit_neither_data_nor_model_are_told(model, data, tmp_path):
    for changes, told in (
        ({"data__held_out": ""}, "training.evaluate_every is 3, and data.held_out names nothing"),
        ({"data__max_length": 41}, "data.max_length is 41, and .* reads 40 tokens"),
        ({"data__held_out": "train"}, "8 queries, 'q0' first, are both trained and evaluated on"),
        ({"data__split": "gone"}, "gone"),
    ):
        with pytest.raises(WinnowError, match=told):
            prepare(recipe(model, data, **changes), cache=tmp_path, device="cpu", progress=False)


def test_documents_are_read_as_long_as_said_while_training_and_as_long_as_the_encoder_reads_after(
    model, data, tmp_path
):
    def prepared(**changes):
        return prepare(recipe(model, data, **changes), cache=tmp_path, device="cpu", progress=False)

    whole, cut = prepared(), prepared(data__max_length=4)
    assert [len(one.ids) for one in whole.reads[0].of(["moon sea water tide"])] == [6]
    assert [len(one.ids) for one in cut.reads[0].of(["moon sea water tide"])] == [4]
    assert cut.describe()["document_tokens"] == 4
    assert "document_tokens" not in whole.describe()


def test_answers_are_told_by_text_under_whatever_id(tmp_path):
    data = beir_folder(tmp_path / "data")
    with (data / "queries.jsonl").open("a") as file:
        file.write('{"_id": "same", "text": " MOON "}\n')
    with (data / "corpus.jsonl").open("a") as file:
        file.write(
            '{"_id": "copy", "title": "Moon", "text": "the  water and sea"}\n'
        )  # d0, but for case and white space
    judgments = data / "qrels" / "train.tsv"
    judgments.write_text(judgments.read_text() + "same\td5\t1\nq3\tcopy\t1\n")
    examples = Examples.read(data)
    assert examples.answered_by_text()["moon"] == {
        "moon the water and sea",
        "open the moon and water",
        "yeast the bread and rain",
    }
    task = task_of(examples, options={"answers": 20, "negatives": 0, "queries_a_document": 5})
    batch = task.batch(0, 0)
    ids = [examples.document_ids[document] for document in batch.documents]
    for query, row in zip(batch.queries, batch.positives, strict=True):
        if examples.queries[query].strip().lower() == "moon":
            assert {ids[place] for place in row.nonzero()[:, 0].tolist()} == {"d0", "copy", "d11", "d5"}
