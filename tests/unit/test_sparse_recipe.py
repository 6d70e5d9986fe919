"""What a recipe of sparse training may hold, what is refused of it in a sentence, and that the examples of the documentation are recipes."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from sparse_training_for_tests import settings

from index.errors import WinnowError
from retrieval.training.options import TrainingOptions
from retrieval.training.sparse.options import SparseOptions
from retrieval.training.sparse.recipe import DataOptions, ModelOptions, Recipe

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## Training a sparse encoder\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"^### (.*?)\n.*?^```toml\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
SECTIONS = {"model": ModelOptions, "data": DataOptions, "loss": SparseOptions, "training": TrainingOptions}


def read(tmp_path, text, changes=None):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Recipe.read(path, changes)


SMALL = """
[model]
start = "minilm"
[data]
folder = "mix"
[loss]
distillation = 0
"""


def test_what_is_not_said_has_its_default(tmp_path):
    recipe = read(tmp_path, SMALL)
    assert recipe == Recipe(
        ModelOptions(start="minilm"), DataOptions(folder="mix"), (), SparseOptions(distillation=0.0), TrainingOptions()
    )
    assert isinstance(recipe.loss.distillation, float)


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_examples_of_the_documentation_are_recipes(tmp_path, name, text):
    recipe = read(tmp_path, text)
    said = tomllib.loads(text)
    for section, kind in SECTIONS.items():
        made = getattr(recipe, section)
        assert isinstance(made, kind)
        for key, value in said[section].items():
            assert getattr(made, key) == (value or getattr(made, key)), key
    assert recipe.data.held_out
    assert recipe.training.accumulation == 1


def test_the_documentation_has_the_three_examples_that_it_should():
    recipes = [tomllib.loads(text) for _, text in EXAMPLES]
    assert [recipe["model"]["queries"] for recipe in recipes] == ["table", "siamese", "siamese"]
    assert recipes[1]["teachers"][0]["name"].startswith("cross-encoder:")
    assert recipes[1]["loss"]["margin_mse"] > 0
    assert recipes[2]["model"]["lora"] > 0
    assert recipes[2]["model"]["encoder"]["echo"] is True


@pytest.mark.parametrize("section", SECTIONS)
def test_the_documentation_names_every_key_with_its_default(section):
    table = re.search(rf"^`\[{section}\]`\n\n(.*?)(?:\n\n|\Z)", SECTION, re.DOTALL | re.MULTILINE)[1]
    found = {}
    for row in table.splitlines()[2:]:
        keys, defaults = (cell.strip() for cell in row.split("|")[1:3])
        keys = re.findall(r"`([^`]+)`", keys)
        values = [value.strip(" `") for value in defaults.split(",")]
        found |= dict(zip(keys, values * len(keys) if len(values) == 1 else values, strict=len(values) > 1))
    assert set(found) == {field.name for field in fields(SECTIONS[section])}
    words = {"needed": "", "none": "", "all alike": (), "false": False, "0": 0, "": {}}
    for name, written in found.items():
        default = getattr(SECTIONS[section](), name)
        if written == "0" and default is None:
            continue
        said = words.get(written, written)
        assert str(default) == str(said) or float(default) == float(said), name


REFUSED = {
    "not TOML": ("[model", r"recipe.toml cannot be read as TOML"),
    "section": (
        SMALL + "[losses]\nanswers = 2",
        "recipe.toml has 'losses'; a recipe has model, data, teachers, loss, training",
    ),
    "key": (SMALL + "answer = 2", r"recipe.toml, \[loss\] has 'answer'; it may have answers, negatives,"),
    "key of data": (SMALL.replace("folder", "folders"), r"\[data\] has 'folders'; it may have folder, split"),
    "key of a teacher": (SMALL + "[[teachers]]\nnam = 'bm25'", r"\[\[teachers\]\] has 'nam'; it may have name, weight"),
    "text for a number": (SMALL + "answers = 'two'", r"\[loss\]: answers is 'two'; it must be of type int"),
    "part of a batch": (SMALL + "answers = 2.5", "answers is 2.5; it must be of type int"),
    "truth for a number": (SMALL + "answers = true", "answers is True; it must be of type int"),
    "truth for nothing": (SMALL + "document_terms = false", "document_terms is False; it must be of type float"),
    "number for truth": (SMALL.replace("[data]", "learned = 1\n[data]"), "learned is 1; it must be of type bool"),
    "number for a path": (SMALL.replace('"mix"', "7"), r"\[data\]: folder is 7; it must be of type str"),
    "list for a path": (SMALL.replace('"mix"', "['mix']"), "folder is .* must be of type str"),
    "no choice": (SMALL.replace("[data]", "head = 'old'\n[data]"), "head is 'old'; it must be own, tied"),
    "no regulariser": (SMALL + "regulariser = 'l2'", "regulariser is 'l2'; it must be flops, idf-flops, l1"),
    "no schedule": (SMALL + "[training]\nschedule = 'sine'", "schedule is 'sine'; it must be cosine, linear, constant"),
    "no positive": (SMALL + "answers = 0", "answers of sparse training is 0; it must be a number, above 0"),
    "negative": (SMALL + "negatives = -1", "negatives of sparse training is -1; it must be a number, 0 or more"),
    "no number": (SMALL + "temperature = nan", "temperature of sparse training is nan"),
    "infinite": (SMALL + "[training]\nlearning_rate = inf", "learning rate of a training run is inf"),
    "no steps": (SMALL + "[training]\nsteps = 0", "the steps of a training run is 0"),
    "loss is no table": (
        "loss = 5\n" + SMALL.replace("[loss]\ndistillation = 0", ""),
        r"\[loss\] is 5; it must be a table",
    ),
    "teachers are no list": ("teachers = 'bm25'\n" + SMALL, "has teachers that are no list; write each under"),
    "a teacher is no table": ("teachers = ['bm25']\n" + SMALL, r"\[\[teachers\]\] is 'bm25'; it must be a table"),
    "a teacher without a name": (SMALL + "[[teachers]]\nweight = 2.0", "one of the teachers has no name"),
    "a teacher below nothing": (SMALL + "[[teachers]]\nname = 'bm25'\nweight = -1", "weight of the teacher bm25 is -1"),
    "weights said twice": (
        SMALL + "teacher_weights = [1]\n[[teachers]]\nname = 'bm25'\nweight = 2",
        "has loss.teacher_weights and a weight under .* keep one of the two",
    ),
    "weights that are texts": (SMALL + "teacher_weights = ['a']", "teacher_weights has 'a'; they must be numbers"),
    "weights of nobody": (
        SMALL.replace("= 0", "= 1") + "teacher_weights = [1, 2]\n[[teachers]]\nname = 'bm25'",
        "there are 2 teacher_weights for 1 teachers",
    ),
    "weights of nothing": (SMALL + "teacher_weights = [0, 0]", r"teacher_weights are \[0, 0\]; give one above 0"),
    "nothing to learn": (SMALL + "contrastive = 0", "the weights of all losses are 0"),
    "no teacher": (SMALL.replace("= 0", "= 1"), "distillation is 1.0, margin_mse 0.0, and there are 0 teachers"),
    "an idle teacher": (
        SMALL + "[[teachers]]\nname = 'bm25'",
        "there are 1 teachers, and distillation and margin_mse are 0",
    ),
    "steered from nothing": (SMALL + "document_weight = 0", "document_weight is 0 and document_terms is 128"),
    "no start": (SMALL.replace('start = "minilm"', ""), "does not say model.start; give it"),
    "no data": (SMALL.replace('folder = "mix"', ""), "does not say data.folder; give it"),
    "dropout": (
        SMALL.replace("[data]", "dropout = 1\n[data]"),
        "model.dropout is 1.0; it must be a number from 0 to below 1",
    ),
    "lora": (SMALL.replace("[data]", "lora = -4\n[data]"), "model.lora is -4; it must be a number from 0"),
    "tokens at once": (SMALL.replace("[data]", "tokens_at_once = -1\n[data]"), "model.tokens_at_once is -1"),
    "others": (SMALL.replace("[loss]", "others = -1\n[loss]"), "data.others is -1; it must be a number from 0"),
    "max_length": (SMALL.replace("[loss]", "max_length = -1\n[loss]"), "data.max_length is -1"),
    "learned without a table": (
        SMALL.replace("[data]", "learned = true\nqueries = 'siamese'\n[data]"),
        "model.learned is of a table, and model.queries is 'siamese'",
    ),
    "frozen and siamese": (
        SMALL.replace("[data]", "frozen_documents = true\nqueries = 'siamese'\n[data]"),
        "model.frozen_documents leaves nothing to train where model.queries is 'siamese'",
    ),
    "frozen and fixed": (SMALL.replace("[data]", "frozen_documents = true\n[data]"), "leaves nothing to train"),
    "queries as options": (
        SMALL.replace("[data]", "[model.encoder]\nqueries = 'model'\n[data]"),
        "model.encoder has queries = 'model'; say model.queries instead",
    ),
    "device": (SMALL.replace("[data]", "[model.encoder]\ndevice = 'cpu'\n[data]"), "say --device instead"),
    "a model that no query reads": (
        SMALL.replace("[data]", "[model.encoder]\nquery_model = 'x'\n[data]"),
        "model.encoder has a query_model, and model.queries is 'table'",
    ),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_told_in_a_sentence(tmp_path, text, told):
    with pytest.raises(WinnowError, match=told) as found:
        read(tmp_path, text)
    assert str(found.value).endswith(".")
    assert "\n" not in str(found.value)


def test_a_recipe_that_is_not_there_or_is_no_text_is_told(tmp_path):
    with pytest.raises(WinnowError, match=r"nowhere.toml cannot be read as TOML .* give a recipe of training"):
        Recipe.read(tmp_path / "nowhere.toml")
    with pytest.raises(WinnowError, match="cannot be read as TOML"):
        Recipe.read(tmp_path)
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe[model]")
    with pytest.raises(WinnowError, match="cannot be read as TOML"):
        Recipe.read(tmp_path / "recipe.toml")


def test_changes_stand_in_place_of_what_the_recipe_says(tmp_path):
    text = SMALL.replace("= 0", "= 1") + "[[teachers]]\nname = 'bm25'\n[[teachers]]\nname = 'minilm'"
    changes = {
        "training.steps": 7,
        "model.encoder.max_length": 9,
        "loss.document_terms": None,
        "data.folder": "other",
        "teachers.1.weight": 2,
        "teachers.0.options.k1": 0.5,
    }
    recipe = read(tmp_path, text, changes)
    assert recipe.training.steps == 7
    assert recipe.model.encoder == {"max_length": 9}
    assert recipe.loss.document_terms is None
    assert recipe.data.folder == "other"
    assert recipe.loss.teacher_weights == (1, 2)
    assert recipe.teachers[0].options == {"k1": 0.5}
    assert read(tmp_path, text, {"loss.teacher_weights": [3, 1.5]}).loss.teacher_weights == (3, 1.5)
    assert read(tmp_path, text, {"teachers": [], "loss.distillation": 0}).teachers == ()
    assert [one.name for one in read(tmp_path, text, {"teachers": [{"name": "a"}]}).teachers] == ["a"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("loss.answers.many", 3, "'loss.answers.many' cannot be set: .* has no table of that name"),
        ("teachers.2.weight", 3, "'teachers.2.weight' cannot be set"),
        ("teachers.first.weight", 3, "'teachers.first.weight' cannot be set"),
        ("training.", 3, "'training.' cannot be set"),
        ("answers", 3, "has 'answers'; a recipe has model, data, teachers, loss, training"),
        ("loss", 3, r"\[loss\] is 3; it must be a table"),
        ("training.steps", "many", "steps is 'many'; it must be of type int"),
        ("training.steps", None, "steps is None; it must be of type int"),
        ("loss.teacher_weights", 3, "teacher_weights is 3; it must be of type list"),
    ],
)
def test_a_change_that_cannot_be_is_told(tmp_path, name, value, told):
    text = SMALL + "answers = 2\n[[teachers]]\nname = 'bm25'\n"
    with pytest.raises(WinnowError, match=told):
        read(tmp_path, text, {name: value})


def test_zero_wanted_terms_are_no_wish(tmp_path):
    recipe = read(tmp_path, SMALL + "document_terms = 0\nquery_terms = 0.0")
    assert (recipe.loss.document_terms, recipe.loss.query_terms) == (None, None)


def test_the_settings_of_tests_are_a_recipe(tmp_path):
    made = Recipe.of(settings(tmp_path / "m", tmp_path / "d", training__steps=2), "here")
    assert made.training.steps == 2
