import time

import numpy as np
import pytest
from dense_vectors_for_tests import FORMS, clumped

from index.dense import training as dense_training
from index.dense.codes import make, shapes_of
from index.dense.factory import Factory
from index.dense.index import DenseIndex
from index.dense.methods import FEW, MEASURED, choose, fitted, methods, within_budget
from index.dense.options import DenseIndexOptions
from index.dense.training import Plan, learn, most_rounds, plan, wanted_vectors
from index.errors import WinnowError

DIMENSIONS = (64, 100, 128, 256, 384, 768, 1024, 4096)


@pytest.mark.parametrize(
    ("words", "dimension", "expected"),
    [
        ("Flat", 384, {"codec": "Flat", "code_bytes": 4 * 384, "least_vectors": 1, "is_exact": True}),
        ("SQ8", 384, {"codec": "SQ", "code_bytes": 384, "centroids": 0, "is_exact": False}),
        ("SQfp16", 10, {"bits": 16, "code_bytes": 20}),
        (
            "PQ48",
            384,
            {"sub_vectors": 48, "bits": 8, "code_bytes": 48, "least_vectors": 256, "enough_vectors": 39 * 256},
        ),
        ("PQ96x4fs", 384, {"fast_scan": True, "code_bytes": 48, "least_vectors": 16}),
        (
            "IVF1000,PQ48x4fs",
            384,
            {"lists": 1000, "code_bytes": 24 + 8, "least_vectors": 1000, "enough_vectors": 39_000},
        ),
        ("RaBitQ", 384, {"bits": 1, "code_bytes": 48 + 8}),
        ("RaBitQfs4", 384, {"bits": 4, "fast_scan": True, "code_bytes": 4 * 48 + 20}),
        ("HNSW32", 384, {"links": 32, "codec": "Flat", "code_bytes": 4 * 384 + 4 * 64 + 16}),
        ("RR,IVF64,RaBitQ4", 64, {"transform": "RR", "lists": 64, "shared_bytes": 4 * 64 * 64 + 4 * 64 * 64}),
        (
            "PCA128,HNSW16,SQ8",
            384,
            {"transform": "PCA", "dimension": 128, "given_dimension": 384, "least_vectors": 128},
        ),
        ("OPQ16_64,PQ16", 384, {"transform": "OPQ", "blocks": 16, "dimension": 64, "code_bytes": 16}),
    ],
)
def test_a_factory_is_read_apart(words, dimension, expected):
    factory = Factory.parse(words, dimension)
    assert {name: getattr(factory, name) for name in expected} == expected


@pytest.mark.parametrize("form", FORMS)
def test_bytes_of_a_vector_are_those_that_faiss_takes(form):
    index = DenseIndex.build(clumped(2_000), DenseIndexOptions(32, "dot", form), progress=False)
    more = DenseIndex.build(clumped(4_000), DenseIndexOptions(32, "dot", form), progress=False)
    grown = (more.codes.stored().bytes - index.codes.stored().bytes) / 2_000
    factory = index.codes.factory
    # fast scan fills its blocks up to 32 vectors, those of each list too
    assert grown == pytest.approx(factory.code_bytes, rel=0.02 if "fs" in form else 0.001)
    rest = index.codes.stored().bytes - 2_000 * grown - factory.shared_bytes
    assert 0 < rest < (16 * 32 * factory.code_bytes if "fs" in form else 3_000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the known forms are"),
        ("flat", "the known forms are"),
        ("PQ8,RFlat", "the known forms are"),
        ("NSG32,Flat", "the known forms are"),
        ("BIVF32", "the known forms are"),
        ("BHNSW32", "the known forms are"),
        ("HNSW32,PQ8", "the known forms are"),
        ("HNSW32,RaBitQ", "the known forms are"),
        ("IVF64", "the known forms are"),
        ("IVF64,HNSW32", "the known forms are"),
        ("PQ8x8fs", "the known forms are"),
        ("LSH", "the known forms are"),
        ("SQ8,", "the known forms are"),
        (" SQ8", "the known forms are"),
        ("PQ99999999999999999999", "the known forms are"),
        (7, "the known forms are"),
        ("PQ7", "cannot be cut into; 4 would do"),
        ("PQ65", "must be from 1 to 32"),
        ("PQ0", "must be from 1 to 32"),
        ("PQ8x3", "the bits of PQ; it must be from 4 to 12"),
        ("IVF0,SQ8", "the lists of IVF; it must be from 1"),
        ("IVF9999999,SQ8", "the lists of IVF; it must be from 1"),
        ("HNSW1", "the links of HNSW; it must be from 2"),
        ("PCA64,SQ8", "must be from 1 to 32"),
        ("OPQ5,PQ8", "cannot be cut into; 4 would do"),
        ("OPQ8_16,PQ32", "must be from 1 to 16"),
        ("RR16,SQ8", "so write RR"),
    ],
)
def test_factories_that_cannot_be_are_refused_before_anything_is_built(words, said):
    with pytest.raises(WinnowError) as error:
        DenseIndexOptions(32, factory=words)
    assert said in str(error.value)
    assert str(error.value).endswith(".")
    assert repr(words)[:20] in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dimension": 0}, "dimension is 0"),
        ({"dimension": 65_537}, "from 1 to 65,536"),
        ({"dimension": 3.0}, "whole number"),
        ({"similarity": "l2"}, "one of cosine, dot"),
        ({"factory": "SQ8", "bytes_per_vector": 64}, "give one of them"),
        ({"bytes_per_vector": 0}, "bytes_per_vector is 0"),
        ({"bytes_per_vector": 64.5}, "whole number"),
        ({"bytes_per_vector": 1}, "the least possible is"),
        ({"training_seconds": 0}, "above 0"),
        ({"training_seconds": float("inf")}, "above 0"),
        ({"training_seconds": "1"}, "above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(WinnowError, match=said):
        DenseIndexOptions(**{"dimension": 64, **wrong})


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_budget_is_kept_and_more_of_it_never_reaches_less(dimension):
    least = min(factory.code_bytes for _, factory in methods(dimension))
    with pytest.raises(WinnowError, match=f"the least possible is {least}"):
        within_budget(least - 1, dimension)
    recall_of = {fitted(method.words, dimension): method.recall for method in MEASURED}
    before = 0.0
    for budget in range(least, 4 * dimension + 1, max(1, dimension // 60)):
        factory, why = within_budget(budget, dimension, 1_000)
        assert factory.code_bytes <= budget
        assert recall_of[factory.words] >= before - 0.001  # as good: then the faster is taken
        before = max(before, recall_of[factory.words])
        assert f"{factory.words}: {factory.code_bytes:,} of at most {budget:,} bytes" in why
        for num_vectors in (999_999, 1_000_000, 10_000_000):
            assert within_budget(budget, dimension, num_vectors).factory.code_bytes <= budget


def test_every_measured_method_can_be_made_by_faiss():
    for dimension in (64, 384, 768):
        for _, factory in methods(dimension):
            if not factory.is_exact:
                assert shapes_of(make(factory))
        assert shapes_of(make(within_budget(dimension, dimension, 1_000_000).factory))


def test_an_index_says_what_its_budget_led_to():
    options = DenseIndexOptions(96, bytes_per_vector=64)
    index = DenseIndex.build(clumped(1_200, 96), options, progress=False)
    assert index.codes.factory.code_bytes <= 64
    assert index.method == within_budget(64, 96, 1_200).why
    assert index.options == options
    found, sought = index.search(clumped(1_200, 96)[7], 1)[1], 7
    assert found.tolist() == [sought]


def test_many_vectors_are_searched_in_lists():
    assert within_budget(64, 384, 100_000).factory.words == "PQ128x4fs"
    many = within_budget(64, 384, 1_000_000).factory
    assert (many.words, many.code_bytes) == ("IVF4096,PQ96x4fs", 56)
    assert within_budget(15, 384, 1_000_000).factory.words == "PQ12"  # there is no room for their numbers


def test_too_few_vectors_to_train_are_refused_where_an_index_is_built_alone():
    for words, least in (("IVF64,SQ8", 64), ("PQ8", 256), ("PCA16,SQ8", 16), ("OPQ8,PQ8x4", 256)):
        options = DenseIndexOptions(32, factory=words)
        with pytest.raises(
            WinnowError, match=f"needs at least {least} vectors to be trained .* and there are {least - 1}"
        ):
            DenseIndex.build(clumped(least - 1), options, progress=False)
        assert len(DenseIndex.build(clumped(least), options, progress=False).codes) == least


def test_where_the_line_is_in_a_collection():
    for words, line in (
        ("IVF64,SQ8", FEW),
        ("SQ8", FEW),
        ("HNSW32", FEW),
        ("PQ8", 39 * 256),
        ("IVF16,PQ8x4", FEW),
    ):
        options = DenseIndexOptions(32, factory=words)
        few, enough = (choose(options, count, refuse_few=False) for count in (line - 1, line))
        assert (few.factory.is_exact, enough.factory.is_exact) == (True, False)
        assert f"fewer than the {line:,} that {words}" in few.why


class Watch:
    """Stands for the bar."""

    def __init__(self, shown=False):
        self.shown, self.seen = shown, 0

    def __call__(self, count):
        self.seen += count

    def training(self, words, plan):
        self.plan = plan
        return self

    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


@pytest.fixture
def slow_training(monkeypatch):
    """A clock that training alone moves: a second for each round over a thousand vectors. Returns the trainings."""
    clock, trained = [0.0], []

    def train(index, factory, vectors, share):
        rounds = max(1, int(most_rounds(factory) * share))
        trained.append((len(vectors), rounds))
        clock[0] += len(vectors) / 1_000 * rounds

    monkeypatch.setattr(dense_training, "train", train)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return trained


def test_training_fits_the_time_it_is_given(slow_training):
    """FAISS clusters by matrix products from 128,000 numbers on: 32,000 parts of 4 dimensions, which take 32 s a round."""
    factory, given = Factory.parse("PQ8", 32), np.zeros((100_000, 32), np.float32)

    def sample(count):
        return given[:count]

    assert wanted_vectors(factory, 100_000) == 256 * 256
    assert plan(factory, 100_000, sample, None, shown=False) == Plan(65_536, 1.0)
    assert slow_training == []
    trial = 32
    most = plan(factory, 100_000, sample, 10_000.0, shown=False)
    assert most == Plan(65_536, 1.0, pytest.approx(25 * 65.536))
    assert slow_training == [(32_000, 1)]
    some = plan(factory, 100_000, sample, 1_000.0, shown=False)
    assert (some.vectors, some.share) == ((1_000 - trial) * 1_000 // 25, 1)
    assert some.seconds <= 1_000 - trial
    little = plan(factory, 100_000, sample, 300.0, shown=False)
    assert little.vectors == 32_000
    assert little.share * 25 * trial == pytest.approx(300 - trial)
    with pytest.raises(
        WinnowError, match=r"PQ8 takes at least about 160 seconds here .* training_seconds is 150; allow"
    ):
        plan(factory, 100_000, sample, 150.0, shown=False)
    few = plan(factory, 20_000, sample, 10_000.0, shown=False)
    assert few == Plan(20_000, 1.0, pytest.approx(25 * 20))


def test_what_clusters_nothing_needs_no_trial(slow_training):
    for words in ("SQ8", "RR,RaBitQ4", "HNSW32", "PCA16,SQ8"):
        plan(Factory.parse(words, 32), 10_000, None, 1e-6, shown=True)
    assert slow_training == []


def test_too_little_time_leaves_nothing_behind(tmp_path):
    options = DenseIndexOptions(32, factory="PQ8", training_seconds=1e-5)
    with pytest.raises(WinnowError, match="takes at least about"):
        DenseIndex.build(clumped(10_000), options, progress=False)


def test_training_in_time_is_noted():
    index = DenseIndex.build(
        clumped(3_000), DenseIndexOptions(32, factory="IVF16,SQ8", training_seconds=60), progress=False
    )
    assert index.training == {"vectors": 64 * 16, "share": 1.0}
    assert 0 < index.training_seconds < 60
    assert "training_seconds" not in index.description()  # equal documents and options are equal files


def test_the_bar_says_what_is_trained_and_counts_vectors(capfd, monkeypatch):
    monkeypatch.setattr(dense_training, "NEEDS_TRIAL", 0)
    watch = Watch(shown=True)
    learned = learn(clumped(3_000).reshape(-1), np.array([5], np.int32), Factory.parse("IVF16,SQ8", 32), None, watch)
    assert (watch.seen, len(learned.codes)) == (2_999, 2_999)
    assert watch.plan.seconds > 0
    bar = dense_training.Progress(10, shown=True)
    bar.bar.delay = 0
    bar(10)
    with bar.training("SQ8", Plan(10, 1.0, 2.0)):
        time.sleep(0.01)
    bar.close()
    assert "dense index" in capfd.readouterr().err


def test_faiss_works_on_one_thread_whatever_it_is_told(monkeypatch):
    """A graph that several build is another one each time."""
    import faiss

    threads = []

    class Recorded:
        def __init__(self, index):
            self.index, self.d = index, index.d

        def add(self, vectors):
            threads.append(faiss.omp_get_max_threads())
            self.index.add(vectors)

    def train(index, factory, vectors, share):
        pass

    monkeypatch.setattr(dense_training, "make", lambda factory: Recorded(make(factory)))
    monkeypatch.setattr(dense_training, "train", train)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(4)
    try:
        learn(clumped(50).reshape(-1), np.empty(0, np.int32), Factory.parse("HNSW16", 32), None, Watch())
        assert faiss.omp_get_max_threads() == 4
    finally:
        faiss.omp_set_num_threads(before)
    assert threads == [1]


def test_what_faiss_refuses_is_told_in_a_sentence(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("Error in void faiss::train() at /project/x.cpp:3: Error: 'n > 3' failed: too few")

    monkeypatch.setattr(dense_training, "train", fail)
    with pytest.raises(WinnowError, match=r"FAISS cannot build SQ8 \(.*too few\); use another method\."):
        DenseIndex.build(clumped(50), DenseIndexOptions(32, factory="SQ8"), progress=False)

    def interrupted(*arguments):
        raise RuntimeError("computation interrupted")

    monkeypatch.setattr(dense_training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DenseIndex.build(clumped(50), DenseIndexOptions(32, factory="SQ8"), progress=False)
