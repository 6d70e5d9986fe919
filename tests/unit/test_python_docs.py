import pytest

from retrieval.python_docs import python_documentation


@pytest.fixture(scope="module")
def documents():
    return {document.doc_id: document for document in python_documentation()}


def test_there_are_thousands_each_with_a_text_on_one_line(documents):
    assert 5_000 <= len(documents) <= 10_000
    assert all(document.text and "\n" not in document.text for document in documents.values())
    assert all(document.title.startswith(document.doc_id) for document in documents.values())


def test_modules_classes_functions_and_methods_are_there(documents):
    assert {name: documents[name].fields["kind"] for name in ("csv", "json.JSONDecoder", "os.walk", "str.split") if name in documents} == {
        "csv": "module", "json.JSONDecoder": "class", "os.walk": "function",
    }  # fmt: skip
    assert documents["builtins.str.split"].text.startswith("Return a list of the substrings in the string")
    assert documents["json.loads"].title.startswith("json.loads(s, *, cls=None")


def test_private_names_and_memory_addresses_are_not(documents):
    assert not [name for name in documents if any(part.startswith("_") for part in name.split("."))]
    assert not [document for document in documents.values() if " at 0x" in document.title]


def test_the_corpus_is_the_same_each_time(documents):
    assert {document.doc_id: document for document in python_documentation()} == documents


def test_no_title_shows_the_value_of_an_environment_variable(monkeypatch, documents):
    """Some defaults are mutable objects of the process, such as os.environ; a corpus must not carry them along."""
    monkeypatch.setenv("SECRET_OF_THIS_TEST", "a7f3c9")
    assert not [document for document in python_documentation() if "a7f3c9" in document.title]
