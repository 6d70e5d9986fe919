"""Systems as one line and in TOML files: what each part means, one canonical text, and what is refused."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from index.errors import ModelError, WinnowError
from retrieval import Fusion, Retriever
from retrieval.encoders.loading import load_encoder, split_names
from retrieval.encoders.shipped import SHIPPED
from retrieval.system_files import named_systems, read_systems
from retrieval.written_system import WrittenSystem, fusion_of

CORPUS = [{"_id": "a", "text": "green tea"}, {"_id": "b", "text": "black tea, and rain"}]

ARMS = [
    "bm25",
    "mini",
    "sparse:naver/splade-v3",
    "dense:a/b-v1.5",
    "/models/a, b=c",
    "splade++-selfdistil",
    "./x.y",
    "ü",
]
VALUES = [True, None, 0, 17, -2.5, 1e-9, "", "log1p", "query: ", "a b", "x=y", "Instruct: find, then rank\nQuery: ", [1, "two", [None]],
          '"quoted"', "a.b=c", "[", "-", "NaN is text", "a+b"]  # fmt: skip
names = st.sampled_from(["max_length", "impacts", "activation", "x1", "fusions"])
texts = st.sampled_from(["query_prefix", "revision"]).flatmap(
    lambda name: st.tuples(
        st.just(name), st.sampled_from([one for one in [*VALUES, "5", "true"] if isinstance(one, str)])
    )
)
options = st.lists(st.tuples(names, st.sampled_from(VALUES)) | texts, max_size=3).map(dict)
arms_of_some = st.lists(st.sampled_from(ARMS), min_size=1, max_size=3, unique=True)


@st.composite
def systems(draw):
    arms = draw(arms_of_some)
    reranker = draw(st.sampled_from([None, "icr:m", "blockrank:/a, b/c=d", "cross-encoder:x/y-v1.2:3"]))
    return WrittenSystem(
        tuple(arms),
        draw(st.sampled_from([None, "rrf", "min-max/per-query", "convex", "none"])) if len(arms) > 1 else None,
        reranker,
        draw(st.none() | st.integers(1, 500)) if reranker else None,
        {arm: draw(options) for arm in draw(st.lists(st.sampled_from(arms), unique=True))},
        {name: value for name, value in draw(options).items() if name != "impacts"} if reranker else {},
    )


@given(systems())
def test_a_system_read_from_its_text_is_equal_and_has_the_same_text(system):
    again = WrittenSystem.of(str(system))
    assert again == system
    assert hash(again) == hash(system)
    assert str(again) == str(system)
    assert (again.arms, again.options, again.reranker_options) == (system.arms, system.options, system.reranker_options)
    assert list(map(type, again.reranker_options.values())) == list(map(type, system.reranker_options.values()))


@given(systems(), st.randoms())
def test_the_order_of_settings_does_not_count(system, rng):
    first, settings = "+".join(system.arms), []
    for arm, own in system.options.items():
        settings += [(f"{arm}.{name}", value) for name, value in own.items()]
    settings += [(name, value) for name, value in (("fusion", system.fusion), ("rerank", system.reranker), ("depth", system.depth)) if value is not None]  # fmt: skip
    settings += list(system.reranker_options.items())
    rng.shuffle(settings)
    words = {True: "true", None: "null"}
    assume(not any(isinstance(value, list) for _, value in settings))
    written = [f"{name}={words[value] if value is None or value is True else value}" for name, value in settings]
    again = WrittenSystem.of(",".join([first, *written]))
    assert again == system
    assert str(again) == str(system)


@given(systems())
def test_two_systems_that_differ_have_two_texts(system):
    others = [
        WrittenSystem((*system.arms, "another"), system.fusion, system.reranker, system.depth, system.options, system.reranker_options),
        WrittenSystem(system.arms, system.fusion, "icr:another", 7, system.options),
        WrittenSystem(system.arms, system.fusion, system.reranker, system.depth, {**system.options, system.arms[0]: {"x": "another"}}, system.reranker_options),
    ]  # fmt: skip
    assert all(str(other) != str(system) and other != system for other in others)


def test_every_part_of_a_line_is_where_it_belongs():
    system = WrittenSystem.of(
        "bm25+mini,depth=7,mini.impacts=u16,rerank=blockrank:a/b,fusion=rrf,dtype=bfloat16,layer=12"
    )
    assert system.arms == ("bm25", "mini")
    assert (system.fusion, system.reranker, system.depth) == ("rrf", "blockrank:a/b", 7)
    assert system.options == {"mini": {"impacts": "u16"}}
    assert system.reranker_options == {"dtype": "bfloat16", "layer": 12}
    assert str(system) == "bm25+mini,mini.impacts=u16,fusion=rrf,rerank=blockrank:a/b,depth=7,dtype=bfloat16,layer=12"
    assert str(system.without_reranker()) == "bm25+mini,mini.impacts=u16,fusion=rrf"
    assert list(map(str, system.each_arm())) == ["bm25", "mini,impacts=u16"]
    assert system.fused(50) == Fusion("rrf", depth=50)


def test_without_a_reranker_a_bare_option_is_the_only_arms():
    system = WrittenSystem.of("mini,max_length=128,impacts=u16")
    assert system.options == {"mini": {"impacts": "u16", "max_length": 128}}
    assert system == WrittenSystem.of("mini,mini.impacts=u16,mini.max_length=128")
    assert (system.reranker, system.depth, system.fused()) == (None, None, None)


def test_a_reranker_has_a_hundred_documents_unless_told():
    assert str(WrittenSystem.of("bm25,rerank=icr:m")) == "bm25,rerank=icr:m,depth=100"


def test_a_text_that_looks_like_a_number_is_one_but_where_a_text_is_asked_for():
    system = WrittenSystem(("mini",), options={"mini": {"top_k": "7", "revision": "7"}})
    assert system.options == {"mini": {"top_k": 7, "revision": "7"}}
    assert WrittenSystem.of("mini,revision=7,top_k=7") == system


def test_a_comma_before_a_blank_is_part_of_a_name():
    system = WrittenSystem.of("/a, b/c=d,rerank=icr:/e, f=g/h,depth=3")
    assert (system.arms, system.reranker, system.depth) == (("/a, b/c=d",), "icr:/e, f=g/h", 3)


def test_names_with_a_plus_of_their_own_stay_whole():
    assert WrittenSystem.of("bm25+splade++-ensembledistil+minilm").arms == ("bm25", "splade++-ensembledistil", "minilm")
    assert split_names("splade++-selfdistil") == ["splade++-selfdistil"]
    assert split_names("sparse:splade++-selfdistil+bm25") == ["sparse:splade++-selfdistil", "bm25"]


@pytest.mark.parametrize(
    ("written", "fusion"),
    [
        ("min-max", Fusion()),
        ("convex", Fusion()),
        ("rrf", Fusion("rrf")),
        ("z-score/per-query", Fusion(normalisation="z-score", per_query=True)),
        ("combmnz", Fusion("combmnz")),
    ],
)
def test_a_fusion_is_what_its_word_says(written, fusion):
    assert fusion_of(written) == fusion == WrittenSystem.of(f"bm25+mini,fusion={written}").fused()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "one of them without a name"),
        ("bm25+", "one of them without a name"),
        (",rerank=icr:m", "one of them without a name"),
        ("bm25+bm25", "has the arm bm25 twice"),
        ("bm25,depth=5", "has depth=5 but no reranker; write it as bm25,rerank=KIND:MODEL,depth=100"),
        ("bm25,rerank=minilm", "the reranker is 'minilm'; write its kind"),
        ("bm25,rerank=5", "the reranker is '5'; write its kind"),
        ("bm25,rerank=", "the reranker is ''; write its kind"),
        ("bm25,rerank=icr:m,depth=0", "depth is 0"),
        ("bm25,rerank=icr:m,depth=many", "depth is 'many'"),
        ("bm25,rerank=icr:m,rerank=icr:n", "has rerank twice"),
        ("mini,top_k=3,mini.top_k=4", "has top_k twice"),
        ("bm25+mini,max_length=3", "has max_length, and does not say of which arm; write it as mini.max_length="),
        ("bm25+mini,minilm.top_k=3", r"has the option 'minilm.top_k=3', which is of none of its arms \(bm25, mini\)"),
        ("bm25,rerank=icr:m,impacts=u8", "impacts is an option of an arm, not of a reranker; write it as bm25.impacts="),
        ("bm25,fusion=rrf", "has one arm, 'bm25', and nothing to fuse it with"),
        ("bm25+mini,fusion=sum", "fusion is 'sum'; it must be one of min-max"),
        ("bm25+mini,fusion=rrf/per", "fusion is 'rrf/per'"),
        ("mini,top_k=NaN", "the option top_k is nan"),
        ("mini,bm25.fusion.x=1", "which is of none of its arms"),
        ("mini,mini.depth=1", "there is no option 'depth'"),
        (17, "the system is 17; it must be a text"),
    ],
)  # fmt: skip
def test_a_system_that_means_nothing_is_one_sentence(written, told):
    with pytest.raises((WinnowError, ModelError), match=told) as caught:
        WrittenSystem.of(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"arms": ("a,b=c",)}, "would be read with arms"),
        ({"arms": ("a+b", "c")}, "would be read with arms"),
        ({"arms": ("mini",), "options": {"mini": {"query_prefix": "a,b=c"}}}, "would be read with options"),
        ({"arms": ("mini",), "reranker": "icr:a,b=c"}, "would be read with reranker 'icr:a'"),
        ({"arms": ("mini",), "options": {"mini": {"x": {"y": 1}}}}, "the option x is {'y': 1}; it must be a text, a number"),
        ({"arms": ("mini",), "options": {"mini": {"x": math.inf}}}, "the option x is inf"),
        ({"arms": ("mini",), "options": {"mini": {"revision": 5}}}, "the option revision is 5; it must be a text"),
        ({"arms": ("mini",), "options": {"mini": {"a b": 5}}}, "there is no option 'a b'"),
        ({"arms": ("mini",), "options": {"bm25": {"x": 5}}}, "are of 'bm25'; give them by arm, of mini"),
        ({"arms": ("mini", 5)}, "give a list of names"),
        ({"arms": "mini"}, "give a list of names"),
        ({"arms": ("i",), "options": {"i": {"x": 1}}, "is_saved": True}, "i was saved with its own options; leave x out"),
    ],
)  # fmt: skip
def test_parts_that_no_line_says_are_refused(parts, told):
    with pytest.raises(WinnowError, match=told):
        WrittenSystem(**parts)


# saved folders


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A saved folder whose name has every sign of the grammar, where the test runs."""
    monkeypatch.chdir(tmp_path)
    name = "mini+bm25,depth=3, x"
    Retriever.from_pretrained("bm25").index(CORPUS, progress=False).save_pretrained(tmp_path / name)
    return name


def test_a_saved_folder_is_a_system_whatever_it_is_called(saved, tmp_path):
    for path in (saved, str(tmp_path / saved)):
        system = WrittenSystem.of(path)
        assert (system.arms, system.is_saved, str(system)) == ((path,), True, path)
        assert [str(one) for one in system.each_arm()] == [f"{path},rerank=none"]
        reranked = WrittenSystem.of(f"{path},rerank=icr:m,depth=9,fusion=rrf")
        assert (reranked.arms, reranked.is_saved, reranked.reranker, reranked.depth) == ((path,), True, "icr:m", 9)
        assert WrittenSystem.of(str(reranked)) == reranked
        assert WrittenSystem.of(f"{path},rerank=none").reranker == "none"
        with pytest.raises(WinnowError, match="was saved with its own options; leave max_length out"):
            WrittenSystem.of(f"{path},max_length=5")
    assert WrittenSystem.of("bm25,rerank=none") == WrittenSystem.of("bm25")


def test_a_model_may_be_meant_although_an_index_is_called_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Retriever.from_pretrained("bm25").index(CORPUS, progress=False).save_pretrained("bm25+mini")
    assert WrittenSystem.of("bm25+mini").is_saved
    models = WrittenSystem.of("bm25+mini,fusion=rrf", may_be_saved=False)
    assert (models.arms, models.is_saved) == (("bm25", "mini"), False)
    assert Retriever.from_pretrained(models).fusion == Fusion("rrf")


def test_a_checkpoint_in_a_folder_of_any_name_is_one_arm(tmp_path):
    folder = tmp_path / "a+b,c=d"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    system = WrittenSystem.of(f"{folder},activation=log1p")
    assert (system.arms, system.options) == ((str(folder),), {str(folder): {"activation": "log1p"}})
    assert WrittenSystem.of(str(folder)).arms == (str(folder),)
    assert WrittenSystem.of("bm25,c=d,rerank=icr:m,a=b").arms == ("bm25",)


# encoders


def test_options_reach_the_encoder_of_their_arm():
    retriever = Retriever.from_pretrained("bm25+mini,mini.impacts=f32,mini.top_k=7,fusion=z-score")
    _, mini = retriever._opened.encoders
    assert (mini.impacts, mini.document.options.top_k) == ("f32", 7)
    assert retriever.fusion == Fusion(normalisation="z-score")
    (mini,) = Retriever.from_pretrained("mini,top_k=7", impacts="u16")._opened.encoders
    assert (mini.impacts, mini.document.options.top_k) == ("u16", 7)
    _, mini = Retriever.from_pretrained("bm25+mini,mini.top_k=7", mini={"impacts": "u16"})._opened.encoders
    assert (mini.impacts, mini.document.options.top_k) == ("u16", 7)


@pytest.mark.parametrize(
    ("written", "beside", "told"),
    [
        ("mini,impacts=u16", {"impacts": "u8"}, "impacts is given within the system's name and beside it"),
        ("mini,top_k=7", {"top_k": 8}, "top_k is given within the system's name and beside it"),
        ("bm25+mini,mini.top_k=7", {"mini": {"top_k": 8}}, "top_k is given within the system's name and beside it"),
        ("bm25+mini,fusion=rrf", {"fusion": Fusion()}, "has a fusion, and so has fusion="),
        ("bm25,b=0.4", {}, "bm25 has no options; leave b out"),
        ("bm25+mini,mini.poem=1", {}, "there is no model option 'poem'"),
        ("mini,impacts=u9", {}, "it must be one of u8, u16, f32"),
    ],
)
def test_what_is_said_twice_or_of_no_use_is_told(written, beside, told):
    with pytest.raises(WinnowError, match=told):
        Retriever.from_pretrained(written, **beside)


def test_sparse_before_a_name_asks_for_a_sparse_model():
    (name,) = SHIPPED
    encoder = load_encoder(f"sparse:{name}", "u16", {"max_length": 64})
    assert (encoder.name, encoder.kind, encoder.impacts) == (name, "sparse", "u16")
    assert encoder.document.options.max_length == 64
    assert load_encoder("sparse:bm25").name == "bm25"
    with pytest.raises(ModelError, match="'sparse:minilm' is asked for, and minilm is a dense model"):
        load_encoder("sparse:minilm")
    with pytest.raises(ModelError, match="no/such"):
        load_encoder("sparse:no/such")


def test_a_dense_checkpoint_is_not_read_as_a_sparse_one(tmp_path):
    from dense_for_tests import dense_model
    from tiny_checkpoints import bert

    folder = str(dense_model(bert(tmp_path / "plain"), tmp_path / "dense"))
    assert load_encoder(folder).kind == "dense"
    with pytest.raises(ModelError, match="a sparse encoder over a vocabulary has"):
        load_encoder(f"sparse:{folder}")


# TOML files

FILE = """
[plain]
arms = ["bm25"]

[all]
arms = ["bm25", "mini"]
fusion = "rrf"
rerank = "icr:MODEL"
depth = 50
[all.options.mini]
top_k = 7
query_prefix = "5"
[all.rerank-options]
dtype = "bfloat16"
"""
ALL = "bm25+mini,mini.query_prefix=5,mini.top_k=7,fusion=rrf,rerank=icr:MODEL,depth=50,dtype=bfloat16"


def test_a_file_has_the_systems_that_lines_say(tmp_path):
    path = tmp_path / "my.toml, or so.toml"
    path.write_text(FILE)
    assert {name: str(system) for name, system in read_systems(path).items()} == {"plain": "bm25", "all": ALL}
    assert read_systems(path)["all"] == WrittenSystem.of(ALL)
    assert named_systems(str(path)) == read_systems(path)
    assert named_systems(f"{path}:all") == {"all": WrittenSystem.of(ALL)}
    assert named_systems("bm25,rerank=icr:m") == {"bm25,rerank=icr:m,depth=100": WrittenSystem.of("bm25,rerank=icr:m")}


def test_a_saved_folder_stands_in_a_file_too(saved, tmp_path):
    (tmp_path / "s.toml").write_text(f'[one]\narms = ["{saved}"]\nrerank = "none"\n')
    assert named_systems("s.toml:one") == {"one": WrittenSystem.of(f"{saved},rerank=none")}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "has no systems; write one as"),
        ("[a", "is no TOML file"),
        ("a = 5", "'a' of .* is 5; it must be a table"),
        ("[a]", "has the arms None; give a list"),
        ('[a]\narms = "bm25"', "has the arms 'bm25'; give a list"),
        ("[a]\narms = [5]", "'a' of .* cannot be used: the arms are .* give a list of names"),
        ('[a]\narms = ["bm25"]\nreranker = "icr:m"', "has the key 'reranker'; it is perhaps 'rerank'"),
        ('[a]\narms = ["bm25"]\nweights = 5', "has the key 'weights'; there are arms, fusion"),
        ('[a]\narms = ["bm25"]\nrerank = 5', "has rerank = 5; it must be a text"),
        ('[a]\narms = ["bm25"]\noptions = 5', "has options = 5; it must be a table"),
        ('[a]\narms = ["bm25"]\noptions = {b = 0.4}', "cannot be used: the options 0.4 are of 'b'"),
        ('[a]\narms = ["bm25"]\ndepth = 5', "cannot be used: the system 'bm25' has depth=5 but no reranker"),
        ('[a]\narms = ["bm25"]\nrerank = "icr:m"\ndepth = "5"', "cannot be used: depth is '5'"),
        ('[a]\narms = ["bm25"]\n[a.rerank-options]\nx = 1', "has x but no reranker"),
        ('[a]\narms = ["mini"]\n[a.options.mini]\nx = 2020-01-01', "the option x is datetime.date"),
        ('[a]\narms = ["bm25", "mini"]\nfusion = "sum"', "'a' of .* cannot be used: fusion is 'sum'"),
    ],
)  # fmt: skip
def test_a_file_that_means_nothing_is_one_sentence(tmp_path, written, told):
    (tmp_path / "s.toml").write_text(written)
    with pytest.raises(WinnowError, match=told):
        read_systems(tmp_path / "s.toml")


def test_a_file_or_a_system_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WinnowError, match=r"none.toml cannot be read \(No such file"):
        named_systems(str(tmp_path / "none.toml"))
    (tmp_path / "s.toml").write_text(FILE)
    with pytest.raises(WinnowError, match="has no system 'plane'; it is perhaps 'plain'"):
        named_systems(f"{tmp_path}/s.toml:plane")
