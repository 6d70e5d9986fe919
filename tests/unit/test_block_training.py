"""Training of BlockRank: losses by hand, lists, the trainer, and learning on a toy task."""

import json
import math

import pytest
import torch

from index.errors import CorpusError, LockedError, WinnowError
from retrieval.training.lists import Candidates, candidates_of, held_out, read_lists
from retrieval.training.losses import IGNORED, contrastive_attention_loss, irpo_loss, next_token_loss
from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import TrainingError
from retrieval.training.trainer import Losses, train


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


class Line:
    """Fits y = a * x + b with noise that depends on torch's random state, as dropout does."""

    measure = "closeness"

    def __init__(self, fail_at=None):
        torch.manual_seed(5)
        self.model = torch.nn.Linear(1, 1)
        self.fail_at, self.calls, self.saved = fail_at, 0, []

    def __len__(self):
        return 7

    def losses(self, number, epoch):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        x = torch.tensor([number / 7 + epoch])
        loss = (self.model(x) - (3 * x + 1) + torch.randn(1) / 10).square().sum()
        return Losses(loss, {"x": x.item()}, tokens=1)

    def evaluate(self):
        return {"closeness": -abs(self.model.weight.item() - 3), "bias": self.model.bias.item()}

    def save(self, folder):
        (folder / "weight.txt").write_text(repr(self.model.weight.item()))

    def describe(self):
        return {"data": "line"}


OPTIONS = TrainingOptions(steps=25, learning_rate=0.1, warmup=3, accumulation=2, evaluate_every=4, save_every=6)


def untimed(folder):
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]


@pytest.mark.parametrize("fail_at", [1, 9, 12, 13, 30, 50])
def test_an_interrupted_run_that_is_resumed_equals_one_that_was_not(tmp_path, fail_at):
    whole, again = Line(), Line()
    ended = train(whole, OPTIONS, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at), OPTIONS, tmp_path / "cut", progress=False)
    torch.manual_seed(99)  # what another process begins with
    resumed = train(again, OPTIONS, tmp_path / "cut", resume=True, progress=False)
    assert torch.equal(whole.model.weight, again.model.weight)
    assert torch.equal(whole.model.bias, again.model.bias)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "cut")
    assert resumed[1:] == ended[1:]
    assert (ended.model / "weight.txt").read_text() == (resumed.model / "weight.txt").read_text()
    assert [path.name for path in (tmp_path / "cut" / "run").glob("checkpoint*")] == ["checkpoint-00000025"]


def test_the_model_of_the_best_evaluation_is_kept(tmp_path):
    task = Line()
    ended = train(task, OPTIONS, tmp_path / "run", progress=False)
    evaluations = {
        line["step"]: line["evaluation"]["closeness"] for line in untimed(tmp_path / "run") if "evaluation" in line
    }
    assert list(evaluations) == [0, 4, 8, 12, 16, 20, 24, 25]
    assert ended.first == evaluations[0]
    assert ended.best == max(evaluations.values()) == evaluations[ended.best_step]
    assert -abs(float((ended.model / "weight.txt").read_text()) - 3) == ended.best


def test_without_evaluation_the_last_model_is_kept(tmp_path):
    task = Line()
    ended = train(task, TrainingOptions(steps=3, evaluate_every=0), tmp_path / "run", progress=False)
    assert ended.best_step is ended.best is ended.first is None
    assert float((ended.model / "weight.txt").read_text()) == task.model.weight.item()


def test_every_example_is_seen_once_an_epoch_in_an_order_of_its_own(tmp_path):
    seen = []

    class Seen(Line):
        def losses(self, number, epoch):
            seen.append((epoch, number))
            return super().losses(number, epoch)

    train(Seen(), TrainingOptions(steps=7, accumulation=2, evaluate_every=0), tmp_path / "run", progress=False)
    assert sorted(seen) == [(epoch, number) for epoch in range(2) for number in range(7)]
    assert [number for epoch, number in seen if epoch == 0] != [number for epoch, number in seen if epoch == 1]


def test_the_rate_grows_then_falls():
    options = TrainingOptions(steps=110, warmup=10, learning_rate=1.0)
    assert [options.rate(step) for step in (0, 4, 9, 10, 60)] == pytest.approx([0.1, 0.5, 1, 1, 0.5])
    assert options.rate(109) < 0.001
    linear = TrainingOptions(steps=110, warmup=10, learning_rate=1.0, schedule="linear")
    assert [linear.rate(step) for step in (10, 35, 85)] == pytest.approx([1, 0.75, 0.25])


def test_gradients_are_averaged_and_clipped(tmp_path):
    class Steep(Line):
        def losses(self, number, epoch):
            return Losses(self.model.weight.sum() * (1 + 2 * (self.calls_so_far() % 2)), {}, 1)

        def calls_so_far(self):
            self.calls += 1
            return self.calls

    train(
        Steep(),
        TrainingOptions(steps=1, accumulation=2, max_gradient_norm=0.5, evaluate_every=0),
        tmp_path / "run",
        progress=False,
    )
    assert untimed(tmp_path / "run")[0]["gradient_norm"] == pytest.approx(2)  # of 3 and 1


def test_a_folder_of_something_else_or_of_another_run_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(TrainingError, match="is not empty and holds no training run"):
        train(Line(), OPTIONS, tmp_path / "mine", progress=False)
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    with pytest.raises(TrainingError, match="holds a training run; resume it"):
        train(Line(), OPTIONS, tmp_path / "run", progress=False)
    other = TrainingOptions(steps=26, learning_rate=0.1, warmup=3, accumulation=2, evaluate_every=4, save_every=6)
    with pytest.raises(TrainingError, match=r"holds a run with steps 25, this one has 26; resume it with the same"):
        train(Line(), other, tmp_path / "run", resume=True, progress=False)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    class Twice(Line):
        def losses(self, number, epoch):
            with pytest.raises(LockedError, match="run"):
                train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)
            return super().losses(number, epoch)

    train(Twice(), OPTIONS, tmp_path / "run", progress=False)


def test_what_a_killed_process_left_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(20), OPTIONS, tmp_path / "run", progress=False)
    for left in ("run/run/.checkpoint-00000012.ab.partial", "run/.model.cd.partial", "run/.model.ef.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "weights.safetensors").write_bytes(b"half")
    train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model", "run"]
    assert not list((tmp_path / "run" / "run").glob(".*.partial"))


def test_a_damaged_description_is_told(tmp_path):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    (tmp_path / "run" / "run" / "run.json").write_text("[")
    with pytest.raises(TrainingError, match=r"run.json cannot be read"):
        train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sha256.json"]
)
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_told(tmp_path, name, damage):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "run" / "checkpoint-00000025" / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-3])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(TrainingError, match="checkpoint-00000025 is damaged"):
        train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_are_changed(tmp_path):
    class Broken(Line):
        def losses(self, number, epoch):
            found = super().losses(number, epoch)
            return found._replace(total=found.total * (math.nan if self.calls == 5 else 1))

    task = Broken()
    with pytest.raises(TrainingError, match="the loss of step 3 is nan"):
        train(task, OPTIONS, tmp_path / "run", progress=False)
    assert task.model.weight.isfinite().all()


def test_options_are_checked():
    for changes, message in (
        ({"steps": 0}, "the steps of a training run is 0; it must be above 0"),
        ({"learning_rate": math.nan}, "the learning rate .* is nan"),
        ({"warmup": -1}, "the warmup .* is -1; it must be 0 or more"),
        ({"schedule": "sine"}, "the schedule .* is 'sine'; it must be cosine, linear, constant"),
        ({"precision": "half"}, "the precision .* is 'half'"),
    ):
        with pytest.raises(WinnowError, match=message):
            TrainingOptions(**changes)
