import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from reproduction_for_tests import result

from eval.reproduction.matrix import Matrix
from eval.reproduction.page import as_html, write_page
from eval.reproduction.published import Anchor, Published, Source, read_published

EVIL = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"' onmouseover="alert(3)&amp;"""
EMPTY = Published((), (), {})
VOID = {"meta", "input", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes and the text directly in each; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "in": [one["tag"] for one in self.open], **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **wanted):
        return [one for one in self.elements if one["tag"] == tag and all(one.get(k) == v for k, v in wanted.items())]


def page_of(expected, measured, published=EMPTY):
    return Page(as_html(Matrix.of(expected, measured, published)))


def test_text_of_others_stays_text_wherever_it_stands():
    source = Source(EVIL, EVIL, EVIL, EVIL, ("nDCG@10",), 3)
    published = Published((Anchor("P" + EVIL, "scifact", "test", "nDCG@10", 0.5, source),), (), {})
    evil = result(EVIL, EVIL, EVIL, measures={EVIL: 0.5, "nDCG@10": 0.6}, command=EVIL, machine=EVIL, date=EVIL,
                  commit=EVIL, code=EVIL, problems=[EVIL], counts={EVIL: EVIL}, queries=EVIL)  # fmt: skip
    matrix = Matrix.of([], [evil, result()], published)
    text = as_html(matrix)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [(one["tag"], key) for one in page.elements for key in one if key.startswith("on")]
    assert not re.search(r"<(script|img)[^>]*>\s*alert", text)
    names = [one["text"] for one in page.all("th", scope="row") if one.get("data-k") == EVIL]
    assert names == [EVIL, EVIL]  # in the matrix and in the table of the data set
    (command,) = [one["text"] for one in page.all("code") if "script" in one["text"]]
    assert command == EVIL
    assert [one["text"] for one in page.all("li")] == [EVIL]


def test_the_page_runs_its_own_script_alone_and_fetches_nothing():
    page = page_of([result()], [], read_published())
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [one for one in page.elements if "src" in one or one["tag"] in ("link", "iframe", "base", "object")]
    assert all(one["href"].startswith("#") for one in page.all("a"))
    (style,) = page.all("style")
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]
    assert "innerHTML" not in script["text"]


def test_every_link_leads_to_an_element_of_the_page():
    page = page_of([result(), result("b", problems=["one"])], [result(dataset="nq")], read_published())
    ids = [one["id"] for one in page.elements if "id" in one]
    assert len(ids) == len(set(ids))
    assert {one["href"][1:] for one in page.all("a")} <= set(ids)
    assert {"cell-1", "cell-2", "cell-3", "source-anserini", "source-blockrank"} <= set(ids)


def test_a_value_and_its_problems_lead_to_the_cell_that_they_are_of():
    cells = [result(name, measures={"nDCG@10": value}, problems=["?"]) for name, value in (("a", 0.1), ("b", 0.2))]
    page = page_of(cells, [])
    headings = {one["id"]: one["text"] for one in page.all("article")}
    links = [(one["text"], headings[one["href"][1:]].split(" on ")[0]) for one in page.all("a")]
    assert links == [("0.2000", "b"), ("0.1000", "a"), ("0.2000", "b"), ("1", "b"), ("0.1000", "a"), ("1", "a")]


def test_tables_can_be_read_by_a_screen_reader_and_reached_by_keyboard():
    page = page_of([result()], [], read_published())
    tables = [one for one in page.all("table")]
    assert len([one for one in page.all("caption")]) == len(tables) == 3  # matrix, data set, measures of a cell
    assert all(one["scope"] in ("row", "col") for one in page.all("th"))
    for name in ("matrix", None):
        (table,) = [one for one in tables if one.get("id") == name and "article" not in one["in"]]
        assert "div" in table["in"]
    sorts = [one["aria-sort"] for one in page.all("th", scope="col") if "aria-sort" in one]
    assert sorts.count("descending") == 2
    assert set(sorts) == {"descending", "none"}
    assert all(one.get("tabindex") == "0" and one["aria-label"] for one in page.all("div", role="region"))
    (html,) = page.all("html")
    assert html["lang"] == "en"


def test_a_cell_shows_measured_expected_difference_cost_counts_problems_and_command():
    measured = result(measures={"nDCG@10": 0.6817, "R@100": 0.92}, problems=["line 7 is wrong"])
    page = page_of([result()], [measured])
    (article,) = page.all("article", id="cell-1")
    for shown in ("bm25 on scifact", "moved: not what is expected", "0.68170.6777+0.00400.001", "line 7 is wrong",
                  "python -m eval.beir --data scifact --system bm25copy", "index MB4.90", "query ms p990.53",
                  "queries300", "queries without results2", "machine2 cores"):  # fmt: skip
        assert shown in article["text"], shown
    assert "peak MB" not in article["text"]  # which is null
    assert page.all("td", **{"data-v": "0.6817|0.9200", "data-moved": "moved|"})


def test_a_published_value_is_marked_has_its_own_digits_and_leads_to_its_source():
    page = page_of([result()], [], read_published())
    links = [one for one in page.all("a", href="#source-mteb") if one["text"] == "0.725"]  # SciFact, doc-v3-gte
    assert [one["title"] for one in links] == ["published by MTEB results f4cc6c8b3"] * 2  # in the matrix and below
    (source,) = page.all("article", id="source-mteb")
    assert "Measured under: self-retrieved ids removed only for ArguAna" in source["text"]
    rows = [one for one in page.all("tr", **{"class": "published"})]
    assert all("published" in one["text"] for one in rows)
    assert len(rows) > len({anchor.system for anchor in read_published().anchors})


def test_systems_are_sorted_by_the_first_data_set_with_bars_as_long_as_the_values():
    measures = {"low": 0.25, "high": 0.75, "middle": 0.5}
    page = page_of([], [result(name, measures={"nDCG@10": value}) for name, value in measures.items()])
    (matrix,) = page.all("table", id="matrix")
    assert re.findall(r"0\.\d+", matrix["text"]) == ["0.7500", "0.5000", "0.2500"]
    assert [one["style"] for one in page.all("td") if "style" in one][:3] == [f"--length:{v}.00%" for v in (75, 50, 25)]


@pytest.mark.parametrize(
    ("expected", "published"), [([], EMPTY), ([], read_published()), ([result(measures={})], EMPTY)]
)
def test_a_matrix_without_values_still_makes_a_page(tmp_path, expected, published):
    write_page(tmp_path / "page.html", Matrix.of(expected, [], published))
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.all("a", href="#cell-1")) == 2 * len(expected)  # to its problems, if nothing else
    assert page.all("h1")[0]["text"] == "Reproduction matrix"
