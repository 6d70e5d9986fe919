"""Conversations: as files have them, as an encoder reads them, what their rewrites teach, and the encoder that comes of it."""

import gzip
import json
import warnings

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from sentence_transformers import SparseEncoder

from index.errors import CorpusError, WinnowError, WinnowWarning
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder, Retriever, conversation_text
from retrieval.training.sparse import preparation
from retrieval.training.sparse.conversations import Conversation, read_conversations
from retrieval.training.sparse.frozen import encoded
from retrieval.training.sparse.preparation import prepare
from retrieval.training.sparse.recipe import Recipe
from retrieval.training.sparse.rewrites import Rewritten, Talk, split
from retrieval.training.sparse.teacher_cache import TeacherError
from retrieval.training.trainer import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]


def test_the_newest_turn_comes_first():
    assert (
        conversation_text([" who was it? ", "Zappa", "", "\n", "and when?"])
        == "and when? [SEP] Zappa [SEP] who was it?"
    )
    assert conversation_text(("alone",)) == "alone"


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], r"the last of 0 turns has no words"),
        (["a", " "], r"the last of 2 turns has no words"),
        ("a turn", r"the turns are str 'a turn'; give a list"),
        (["a", None], r"a turn is NoneType None; it must be a string"),
        (["a\ud800"], r"is not valid Unicode"),
    ],
)
def test_what_is_no_conversation_is_told(turns, said):
    with pytest.raises(WinnowError, match=said):
        conversation_text(turns)


CANARD = {
    "History": ["Frank Zappa", "Disbandment", "What group disbanded?", "The Mothers"],
    "QuAC_dialog_id": "C_2d_0",
    "Question": "When?",
    "Question_no": 2,
    "Rewrite": "When did The Mothers disband?",
}


def test_records_of_canard(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps([CANARD, CANARD | {"Question_no": 3, "Question": "Why?"}]))
    first, second = read_conversations(path)
    turns = ("Frank Zappa", "Disbandment", "What group disbanded?", "The Mothers", "When?")
    assert first == Conversation("C_2d_0<::>2", "C_2d_0", turns, ("When did The Mothers disband?",))
    assert (second.conversation_id, second.dialogue) == ("C_2d_0<::>3", "C_2d_0")
    assert first.text == "When? [SEP] The Mothers [SEP] What group disbanded? [SEP] Disbandment [SEP] Frank Zappa"


def test_lines_of_turns(tmp_path):
    lines = [
        {
            "_id": "c<::>3",
            "turns": [{"speaker": "user", "text": "a"}, {"speaker": "agent", "text": "b"}, {"text": "c"}],
        },
        {"id": "d", "turns": ["a"], "rewrites": ["x", "y"], "rewrite": "z", "dialogue": "of d"},
    ]
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    assert read_conversations(path) == [
        Conversation("c<::>3", "c", ("a", "b", "c"), ()),
        Conversation("d", "of d", ("a",), ("x", "y", "z")),
    ]


LINE = {"id": "c", "turns": ["a", "b"], "rewrites": ["x"]}
BAD_LINES = [
    (LINE | {"id": 7}, "the id is 7; it must be a string"),
    (LINE | {"turns": "a"}, "turns is 'a'; it must be a list of texts"),
    (LINE | {"turns": [{"said": "a"}]}, r"turns is \[None\]"),
    (LINE | {"turns": []}, "the last of 0 turns has no words"),
    (LINE | {"rewrites": ["x", ""]}, "rewrites has '', which has no words"),
    (LINE | {"rewrites": None}, "rewrites is None"),
    (LINE | {"dialogue": 3}, "the dialogue is 3"),
    (["a"], r"is \['a'\]; a conversation must be an object"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES)
def test_bad_lines_are_told_with_their_place(line, said, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(LINE | {"id": "first"}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(CorpusError, match=rf"c\.jsonl:2.*{said}"):
        read_conversations(path)


BAD_RECORDS = [
    ([{name: value for name, value in CANARD.items() if name != "Rewrite"}], "record 1: it lacks Rewrite"),
    ([CANARD, CANARD], r"record 2 has the id 'C_2d_0<::>2' of an earlier one"),
    ([CANARD | {"Rewrite": " "}], r"record 1: Question and Rewrite has ' ', which has no words"),
    ([CANARD | {"Question": " ", "Question_no": 9}], "Question and Rewrite has ' '"),
    ([CANARD | {"History": "Zappa"}], "History is 'Zappa'; it must be a list"),
    ({"data": []}, r"holds dict; CANARD's files are lists"),
    ([], "holds no conversations"),
]


@pytest.mark.parametrize(("records", "said"), BAD_RECORDS)
def test_bad_records_are_told_with_their_number(records, said, tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(records))
    with pytest.raises(CorpusError, match=said):
        read_conversations(path)


def test_what_is_no_file_of_conversations_is_told(tmp_path):
    (tmp_path / "dev.json").write_text("[{")
    with pytest.raises(CorpusError, match=r"dev\.json is not valid JSON"):
        read_conversations(tmp_path / "dev.json")
    for name in ("none.json", "c.tsv"):
        with pytest.raises(CorpusError, match=r"is no \.json file as CANARD's and no \.jsonl file"):
            read_conversations(tmp_path / name)


# what rewrites say: three terms, four passages, numbers known by heart


def rows_of(*rows):
    terms = [sorted(row) for row in rows]
    return SparseRows(
        np.cumsum([0, *map(len, rows)]),
        np.array([t for row in terms for t in row], np.int32),
        np.array([row[t] for row, own in zip(rows, terms, strict=True) for t in own], np.float32),
    )


@pytest.fixture
def rewritten():
    """Passages in the order of their ids: b (2 of term 0), c (1 of each), d (3 of term 2), a is empty."""
    conversations = [
        Conversation("q1", "one", ("u",), ("r", "s")),
        Conversation("q2", "one", ("v",), ("r",)),
        Conversation("q3", "two", ("w",), ("r", "s")),
        Conversation("q4", "two", ("x",), ("r",)),
    ]
    talk = Talk(conversations, {"b": "text b", "c": "text c", "d": "text d", "a": "text a"})
    queries = rows_of(
        {0: 1.0}, {2: 4.0}, {1: 2.0}, {0: 1.0, 1: 1.0}, {0: 3.0}, {}
    )  # q1 1, q1 2, q2 1, q3 1, q3 2, q4 1
    return Rewritten(talk, queries, rows_of({}, {0: 2.0}, {0: 1.0, 1: 1.0, 2: 1.0}, {2: 3.0}), num_terms=3)


def test_a_teacher_scores_the_rewrites(rewritten):
    mean, second = rewritten.teacher("rewrites"), rewritten.teacher("rewrites:2")
    #       d                        b                       c
    expected = [
        [(0 + 4 * 3) / 2, (1 * 2 + 0) / 2, (1 * 1 + 4 * 1) / 2],  # q1
        [0, (1 * 2 + 3 * 2) / 2, ((1 + 1) + 3) / 2],  # q3
        [0, 0, 2 * 1],  # q2, of one rewrite
    ]
    found = mean.scores(["q1", "q3", "q2"], ["d", "b", "c"])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)
    found = second.scores(["q1", "q2", "q3"], ["d", "b", "c"]).numpy()
    np.testing.assert_array_equal(found, [[12, 0, 4], [np.nan] * 3, [0, 6, 3]])
    assert (mean.name, second.name) == ("rewrites", "rewrites:2")
    for ids in (["q9"], ["q1"]), (["q1"], ["z"]):
        with pytest.raises(TeacherError, match="does not know 1 of 1"):
            mean.scores(*ids)
    for name in ("rewrites:3", "rewrites:0", "rewrites:x", "rewrites:"):
        with pytest.raises(WinnowError, match="there are rewrites:1 to rewrites:2"):
            rewritten.teacher(name)


def test_a_conversation_is_compared_with_what_its_rewrites_find(rewritten):
    with pytest.warns(WinnowWarning, match=r"1 of 4 conversations are left out, 'q4' first"):
        examples = rewritten.examples(2)
    assert examples.query_ids == ["q1", "q2", "q3"]
    assert examples.queries == ["u", "v", "w"]
    assert examples.document_ids == ["a", "b", "c", "d"]
    # q1: d 6, c 2.5, b 1; q2: c 2; q3: b 4, c 2.5
    assert [one.tolist() for one in examples.positives] == [[3], [2], [1]]
    assert [one.tolist() for one in examples.negatives] == [[2], [], [2]]
    np.testing.assert_array_equal(rewritten.frozen.of(["text d", "text a"]).numpy(), [[0, 0, 3], [0, 0, 0]])


def test_no_dialogue_is_on_both_sides(rewritten):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examples = rewritten.examples(4)
    seen = set()
    for seed in range(6):
        trained, held_out = split(examples, rewritten.talk, 0.5, 1, seed)
        seen.add(tuple(trained.query_ids))
        texts = dict(zip(("q1", "q2", "q3"), ("u", "v", "w"), strict=True))
        assert sorted(held_out.queries + trained.queries) == ["u", "v", "w"]
        assert trained.queries == [texts[one] for one in trained.query_ids]
        answer = {"u": "text d", "v": "text c", "w": "text b"}
        for query, answers in zip(held_out.queries, held_out.answers, strict=True):
            assert [held_out.documents[number] for number in answers] == [answer[query]]
        assert len(held_out.documents) == len(held_out.queries) + 1
    assert seen == {("q1", "q2"), ("q3",)}
    assert split(examples, rewritten.talk, 0.0, 1, 0) == (examples, None)
    for share in (0.1, 1.0, -1.0):
        with pytest.raises(WinnowError, match=r"data\.dialogues_held_out is"):
            split(examples, rewritten.talk, share, 1, 0)


# all of it, on a tiny model

PASSAGES = {
    "p1": "The moon pulls the water of the sea.",
    "p2": "Flour, water, salt and yeast make bread.",
    "p3": "rain in New York",
    "p4": "the tide rises with the moon",
    "p5": "it bakes for an hour",
    "p6": "the tide rises with the moon",  # as p4
    "p7": "",
}
ASKED = [
    ("c1<::>1", ["make bread", "with water", "how for an hour"], ["how it bakes for an hour", "bread bakes"]),
    ("c1<::>2", ["make bread", "with salt"], ["make bread with salt"]),
    ("c2<::>1", ["is it rainy in ny", "what weather now"], ["weather in new york now"]),
    (
        "c3<::>1",
        ["the moon rises", "with it the tide", "what pulls it"],
        ["what pulls the tide of the moon", "the moon pulls"],
    ),
    ("c4<::>1", ["the sea", "is it open"], ["is the sea open"]),
]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    lines = [{"_id": doc_id, "text": text} for doc_id, text in PASSAGES.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"id": name, "turns": turns, "rewrites": rewrites} for name, turns, rewrites in ASKED]
    (folder / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model with OpenSearch's table of query weights."""
    folder = tiny.bert(tmp_path_factory.mktemp("start") / "bert")
    (folder / "idf.json").write_text(json.dumps(tiny.some_idf()))
    return folder


def recipe_of(start, talk, *, model=(), data=(), loss=(), training=(), teachers=("rewrites",)):
    return Recipe.of(
        {
            "model": {"start": str(start), "queries": "model", "frozen_documents": True, "encoder": {"activation": "log1p"}, **dict(model)},
            "data": {"folder": str(talk), "conversations": str(talk / "talk.jsonl"), "found": 4, **dict(data)},
            "teachers": [{"name": name} for name in teachers],
            "loss": {"answers": 4, "contrastive": 0.0, "teachers_together": "mean", "query_weight": 0, **dict(loss)},
            "training": {"steps": 30, "warmup": 0, "evaluate_every": 0, "accumulation": 1, "learning_rate": 0.02, "schedule": "constant", **dict(training)},
        },
        "a recipe",
    )  # fmt: skip


def prepared(recipe, tmp_path):
    return prepare(recipe, cache=tmp_path / "cache", device="cpu", progress=False)


def test_the_teacher_is_the_encoder_of_before_training_by_its_own_table(start, talk, tmp_path):
    task = prepared(recipe_of(start, talk), tmp_path)
    encoder = LearnedSparseEncoder.from_pretrained(start, activation="log1p")
    distinct = {doc_id: PASSAGES[doc_id] for doc_id in ("p1", "p2", "p3", "p4", "p5")}
    assert dict(zip(task.examples.document_ids, task.examples.documents, strict=True)) == distinct
    documents = tiny.dense(encoder.encode_texts(distinct.values()), encoder.num_terms)
    expected = np.array(
        [
            np.mean(tiny.dense(encoder.encode_queries(rewrites), encoder.num_terms) @ documents.T, axis=0)
            for _, _, rewrites in ASKED
        ]
    )
    (teacher,) = task.teachers
    np.testing.assert_allclose(teacher.scores([one[0] for one in ASKED], list(distinct)), expected, rtol=1e-5)
    for name, own, ranked in zip(task.examples.query_ids, task.examples.positives, expected, strict=True):
        assert own.tolist() == [int(ranked.argmax())], name
    # what a batch is compared with is that, unchanged
    batch = task.batch(0, 0)
    np.testing.assert_allclose(task.targets(batch), expected[batch.queries][:, batch.documents], rtol=1e-5)


def test_a_model_for_both_sides_teaches_by_its_query_side(talk, tmp_path):
    folder = tiny.bert(tmp_path / "bert", seed=3)
    task = prepared(recipe_of(folder, talk, teachers=("rewrites:1",), model={"lora": 2}), tmp_path)
    encoder = LearnedSparseEncoder.from_pretrained(folder, activation="log1p")
    documents = tiny.dense(encoder.encode_texts(task.examples.documents), encoder.num_terms)
    rewrites = tiny.dense(encoder.encode_queries([one[2][0] for one in ASKED]), encoder.num_terms)
    found = task.teachers[0].scores([one[0] for one in ASKED], task.examples.document_ids)
    np.testing.assert_allclose(found, rewrites @ documents.T, rtol=1e-4)


def test_other_teachers_are_asked_of_the_first_rewrite(start, talk, tmp_path):
    recipe = recipe_of(start, talk, teachers=("rewrites", "bm25"), loss={"teachers_together": "min-max"})
    task = prepared(recipe, tmp_path)
    corpus = [
        {"_id": one, "text": text}
        for one, text in zip(task.examples.document_ids, task.examples.documents, strict=True)
    ]
    retriever = Retriever.from_pretrained("bm25").index(corpus, progress=False)
    found = task.teachers[1].scores(["c3<::>1"], task.examples.document_ids)[0]
    hits = {hit.doc_id: hit.score for hit in retriever.search("what pulls the tide of the moon", k=9)}
    assert len(hits) >= 2
    assert {one: score for one, score in zip(task.examples.document_ids, found.tolist(), strict=True) if score} == hits


def test_documents_that_are_not_trained_are_computed_once(start, talk, tmp_path, monkeypatch):
    """Their losses are those of before, up to rounding, and a second run reads them from the cache."""
    recipe = recipe_of(start, talk, model={"dropout": 0.5}, loss={"document_terms": 8.0})
    task = prepared(recipe, tmp_path)
    task.model.eval()
    batch = task.batch(0, 0)
    texts = [task.examples.documents[number] for number in batch.documents]
    expected = task.towers.document(task.reads[0].of(texts)).detach()
    np.testing.assert_allclose(task.of_texts(0, texts), expected, atol=1e-5)
    task.model.train()
    calls = []
    monkeypatch.setattr(type(task.towers.document), "encode", lambda self, texts: calls.append(texts))
    monkeypatch.setattr(preparation, "encoded", lambda *_: calls.append("encoded"))
    task.documents(texts)
    again = prepared(recipe, tmp_path)
    assert not calls
    np.testing.assert_array_equal(again.of_texts(0, texts), task.of_texts(0, texts))
    assert set(task.sparsity) == {"query"}, "documents that do not learn have no regulariser"


def test_what_is_kept_is_of_one_way_of_encoding_and_without_dropout(start, talk, tmp_path):
    task = prepared(recipe_of(start, talk, model={"dropout": 0.5}), tmp_path)
    tower, reader, texts = task.towers.document, task.reads[0], task.examples.documents
    tower.train()
    rows = encoded(tower, reader, texts)
    assert tower.training
    np.testing.assert_allclose(tiny.dense(rows, tower.num_terms), task.of_texts(0, texts), atol=1e-5)
    short = {"activation": "log1p", "document_max_length": 5}
    other = prepared(recipe_of(start, talk, model={"encoder": short}), tmp_path)
    expected = tiny.dense(LearnedSparseEncoder.from_pretrained(start, **short).encode_texts(texts), tower.num_terms)
    np.testing.assert_allclose(other.of_texts(0, texts), expected, atol=1e-5)
    assert not np.allclose(other.of_texts(0, texts), task.of_texts(0, texts), atol=1e-3)


def test_it_learns_what_the_rewrites_say(start, talk, tmp_path):
    encoding = {"activation": "log1p", "special_terms": True}  # beside an idf.json they are forbidden unless told
    recipe = recipe_of(
        start, talk, model={"encoder": encoding}, data={"dialogues_held_out": 0.25}, training={"evaluate_every": 10}
    )
    task = prepared(recipe, tmp_path)

    def loss():
        with torch.no_grad():
            return float(np.mean([task.losses(number, 0).parts["distillation"] for number in range(len(task))]))

    before = loss()
    trained = train(task, recipe.training, tmp_path / "run", progress=False)
    assert loss() < before / 2
    assert trained.first is not None
    # documents are as they were; sentence-transformers and we read the same; a conversation is searched as one text
    encoder, old = (
        LearnedSparseEncoder.from_pretrained(trained.model),
        LearnedSparseEncoder.from_pretrained(start, **encoding),
    )
    texts, asked = [text for text in PASSAGES.values() if text], [conversation_text(turns) for _, turns, _ in ASKED]
    documents = tiny.dense(encoder.encode_texts(texts), encoder.num_terms)
    np.testing.assert_array_equal(documents, tiny.dense(old.encode_texts(texts), encoder.num_terms))
    queries = tiny.dense(encoder.encode_queries(asked), encoder.num_terms)
    theirs = SparseEncoder(str(trained.model), device="cpu", local_files_only=True)
    for encode, given, rows in ((theirs.encode_query, asked, queries), (theirs.encode_document, texts, documents)):
        np.testing.assert_allclose(encode(given, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)
    retriever = Retriever(encoder).index(
        [{"_id": str(i), "text": text} for i, text in enumerate(texts)], progress=False
    )
    hit = retriever.search(conversation_text(ASKED[0][1]), k=1)[0]
    best = (documents @ queries[0]).argmax()
    assert hit.doc_id == str(best)
    np.testing.assert_allclose(hit.score, (documents @ queries[0]).max(), rtol=0.01)


BAD_RECIPES = [
    ({"model": {"frozen_documents": False}}, "with frozen_documents = false"),
    ({"model": {"queries": "siamese"}}, "leaves nothing to train where model.queries is 'siamese'"),
    ({"model": {"queries": "table"}}, "leaves nothing to train where model.queries is 'table'"),
    ({"data": {"held_out": "dev"}}, "data.held_out = 'dev' beside conversations"),
    ({"data": {"negatives": "n.jsonl"}}, "data.negatives = 'n.jsonl' beside conversations"),
    ({"data": {"found": 1}}, "data.found = 1; a ranking has 2"),
    ({"data": {"max_length": 9}}, "data.max_length = 9 and frozen_documents = true"),
    (
        {"data": {"conversations": "", "dialogues_held_out": 0.5}, "teachers": ("bm25",)},
        "= 0.5 and no data.conversations",
    ),
    ({"data": {"conversations": ""}}, "names the teacher 'rewrites', and data.conversations is empty"),
    ({"loss": {"teachers_together": "sum"}}, "teachers_together is 'sum'; it must be min-max, mean"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_RECIPES)
def test_recipes_that_do_not_fit_are_told(changes, said, start, talk):
    with pytest.raises(WinnowError, match=said):
        recipe_of(start, talk, **changes)


def test_what_does_not_fit_the_data_is_told(start, talk, tmp_path):
    with pytest.raises(WinnowError, match=r"evaluate_every is 10, and data\.dialogues_held_out names nothing"):
        prepared(recipe_of(start, talk, training={"evaluate_every": 10}), tmp_path)
    (tmp_path / "alone.jsonl").write_text(json.dumps({"id": "c", "turns": ["what now"]}) + "\n")
    with pytest.raises(CorpusError, match=r"alone\.jsonl: the conversation 'c' has 0 rewrites"):
        prepared(recipe_of(start, talk, data={"conversations": str(tmp_path / "alone.jsonl")}), tmp_path)
    (tmp_path / "other.jsonl").write_text(json.dumps({"id": "c", "turns": ["a"], "rewrite": "[MASK]"}) + "\n")
    with pytest.raises(CorpusError, match="the rewrites of 1 conversations find 0 of 5 passages"):
        prepared(recipe_of(start, talk, data={"conversations": str(tmp_path / "other.jsonl")}), tmp_path)
