"""The matrix as one HTML page that needs no network: page.html with its style, its script and tables rendered here.

All text from outside (names of systems, commands, problems) goes through `html.escape`, into text or quoted attributes only; the script
sets text and never markup. A policy in the page lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from eval.reproduction.cells import Place
from eval.reproduction.efficiency import FIGURES, as_text
from eval.reproduction.matrix import MEAN, Entry, Matrix, Row
from eval.reproduction.published import Source

FOLDER = Path(__file__).parent
Numbers = Mapping[tuple[str, Place], int]  # of the cells that have an article; by system and place
NO_VALUE = "-"  # a cell of ours without this measure still leads to its problems
STATUS = {
    "equal": "within its tolerance of the expected value",
    "moved": "not what is expected",
    "not run": "not run this time; the values are the expected ones",
    "new": "nothing is expected of it yet",
    "published": "published",
}


def write_page(path: Path | str, matrix: Matrix) -> None:
    """Write the page; the folder must exist."""
    Path(path).write_text(as_html(matrix), encoding="utf-8")


def as_html(matrix: Matrix) -> str:
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    entries = [entry for row in matrix.rows for entry in row.entries.values() if entry.result]
    numbers = {(entry.system, entry.place): number for number, entry in enumerate(entries, start=1)}
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        style=style,
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=summary(matrix, entries),
        measures="".join(f"<option>{escape(name)}</option>" for name in matrix.measures),
        matrix=matrix_table(matrix, numbers),
        places="".join(option(place, matrix) for place in matrix.own_places),
        place_tables="\n".join(place_table(matrix, place, numbers) for place in matrix.own_places)
        or "<p>No value of ours is here yet.</p>",
        cells="\n".join(cell_article(entry, number) for number, entry in enumerate(entries, start=1)),
        sources="\n".join(source_article(source) for source in matrix.sources),
    )


def summary(matrix: Matrix, entries: Sequence[Entry]) -> str:
    systems, figures = (sum(row.is_published is kind for row in matrix.rows) for kind in (False, True))
    counts = ", ".join(
        f'<span class="{status.replace(" ", "-")}">{count} {status}</span>'
        for status in ("equal", "moved", "not run", "new")
        if (count := sum(entry.status == status for entry in entries))
    )
    ours = f"{systems} systems of ours on {len(matrix.own_places)} data sets, {len(entries)} cells: {counts}"
    return f"{ours if entries else 'No cell of ours yet'}; {figures} published systems beside them."


def option(place: Place, matrix: Matrix) -> str:
    return f'<option value="{escape(place.label)}">{escape(matrix.labels[place])}</option>'


def matrix_table(matrix: Matrix, numbers: Numbers) -> str:
    """Systems by data sets, sorted by the first of these."""
    own = set(matrix.own_places)
    heads = [("System", "", "none")]
    for place in matrix.places:
        sort = "descending" if place == matrix.places[0] else "none"
        heads.append((matrix.labels[place], "" if place in own else "other", sort))
    rows = by_value(matrix.rows, matrix.places[0], matrix.measures[0]) if matrix.places else matrix.rows
    body = "\n".join(
        row_start(row)
        + "".join(
            value_cell(row.entries.get(place), matrix, numbers, "" if place in own else " other")
            for place in matrix.places
        )
        + "</tr>"
        for row in rows
    )
    caption = '<span class="measure">' + escape(matrix.measures[0]) + "</span> of each system on each data set"
    return table("matrix", caption, heads, body)


def by_value(rows: Sequence[Row], place: Place, measure: str) -> list[Row]:
    """The best first, those without a value last."""

    def value(row: Row) -> float:
        return row.entries[place].values.get(measure, -1.0) if place in row.entries else -1.0

    return sorted(rows, key=value, reverse=True)


def place_table(matrix: Matrix, place: Place, numbers: Numbers) -> str:
    """Every system on one data set, with what it costs."""
    rows = by_value([row for row in matrix.rows if place in row.entries], place, matrix.measures[0])
    measure = f'<span class="measure">{escape(matrix.measures[0])}</span>'
    heads = [
        ("System", "", "none"),
        (measure, "", "descending"),
        ("expected", "", "none"),
        ("difference", "", "none"),
        ("status", "", "none"),
        ("problems", "", "none"),
        *((figure.label, "", "none") for figure in FIGURES),
    ]
    body = "\n".join(place_row(row, row.entries[place], matrix, numbers) for row in rows)
    return table(None, f"{measure}, time and space on {escape(matrix.labels[place])}", heads, body, place.label)


def place_row(row: Row, entry: Entry, matrix: Matrix, numbers: Numbers) -> str:
    by_measure = {shift.measure: shift for shift in entry.shifts}
    expected = {name: f"{shift.expected:.4f}" for name, shift in by_measure.items()}
    changes = {name: f"{shift.difference:+.4f}" for name, shift in by_measure.items() if shift.difference is not None}
    cells = [value_cell(entry, matrix, numbers)]
    cells += [by_measure_cell(matrix, texts) for texts in (expected, changes)]
    cells.append(f'<td class="{entry.status.replace(" ", "-")}">{entry.status}</td>')
    said = len(entry.result.get("problems") or ())
    link = f'<a href="#cell-{numbers[entry.system, entry.place]}">{said}</a>' if said else ""
    cells.append(f"<td>{link}</td>")
    for number in (figure.of(entry.result) for figure in FIGURES):
        cells.append("<td></td>" if number is None else f'<td data-k="{number}">{as_text(number)}</td>')
    return row_start(row) + "".join(cells) + "</tr>"


def table(
    name: str | None, caption: str, heads: Sequence[tuple[str, str, str]], body: str, place: str | None = None
) -> str:
    """A table in a box of its own, which scrolls and can be reached by keyboard. `caption`, `body` and what `heads` hold of markup are ours."""
    head = "".join(
        f'<th scope="col" class="{kind}" aria-sort="{sort}"><button type="button">'
        f"{label if label.startswith('<span') else escape(label)}</button></th>"
        for label, kind, sort in heads
    )
    attributes = (f' id="{name}"' if name else "") + (f' data-place="{escape(place)}"' if place is not None else "")
    plain = escape(f"Table of {place}" if place is not None else "Table of systems by data sets")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{plain}"><table{attributes}><caption><span>{caption}</span></caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def row_start(row: Row) -> str:
    tag = ' <span class="tag">published</span>' if row.is_published else ""
    kind = ' class="published"' if row.is_published else ""
    return f'<tr{kind}><th scope="row" data-k="{escape(row.system)}">{breakable(row.system)}{tag}</th>'


def breakable(name: str) -> str:
    """A name that a narrow column breaks after its punctuation, rather than anywhere."""
    return "<wbr>".join(escape(part) for part in re.split(r"(?<=[,+=:/])", name))


def value_cell(entry: Entry | None, matrix: Matrix, numbers: Numbers, kind: str = "") -> str:
    """A value of every measure, of which the script shows one; the link leads to what is known of it."""
    if entry is None or not (entry.values or entry.result):
        return f'<td class="value{kind}" data-v=""></td>'
    texts = dict.fromkeys(matrix.measures, NO_VALUE if entry.result else "")
    texts |= {name: value_text(entry, name) for name in entry.values}
    first = matrix.measures[0]
    length = f' style="--length:{100 * entry.values[first]:.2f}%"' if first in entry.values else ""
    shown = texts[first]
    flags = {shift.measure: "moved" for shift in entry.shifts if shift.is_moved}
    flag, moved = "", ""
    if flags:
        hidden = "" if first in flags else " hidden"
        flag = f' <span class="flag tag moved"{hidden}>moved</span>'
        moved = f' data-moved="{joined_texts(matrix, flags)}"'
    href, hint = target(entry, numbers)
    link = (
        f'<a href="#{href}" title="{escape(hint)}">{shown}</a>'
        if href
        else f'<span title="{escape(hint)}">{shown}</span>'
    )
    kind += " not-run" if entry.status == "not run" else ""
    return f'<td class="value{kind}"{length} data-v="{joined_texts(matrix, texts)}"{moved}>{link}{flag}</td>'


def value_text(entry: Entry, measure: str) -> str:
    return f"{entry.values[measure]:.{entry.sources[measure].digits if measure in entry.sources else 4}f}"


def joined_texts(matrix: Matrix, texts: Mapping[str, str]) -> str:
    return "|".join(texts.get(name, "") for name in matrix.measures)


def by_measure_cell(matrix: Matrix, texts: Mapping[str, str]) -> str:
    return f'<td data-v="{joined_texts(matrix, texts)}">{texts.get(matrix.measures[0], "")}</td>'


def target(entry: Entry, numbers: Numbers) -> tuple[str | None, str]:
    """Where a value's link leads, and what is said while a pointer rests on it."""
    if entry.status == "published":
        source = next(iter(entry.sources.values()))
        computed = "mean of figures published by" if entry.place.split == MEAN else "published by"
        return f"source-{escape(source.key)}", f"{computed} {source.project}"
    if (entry.system, entry.place) in numbers:
        return (
            f"cell-{numbers[entry.system, entry.place]}",
            f"{entry.status}; {entry.result.get('command') or 'no command'}",
        )
    return None, f"mean of values in this row, at worst {entry.status}"


def cell_article(entry: Entry, number: int) -> str:
    """All that is known of one of our cells."""
    result = entry.result
    command = str(result.get("command") or "")
    parts = [
        f"<h3>{escape(entry.system)} on {escape(entry.place.label)}</h3>",
        f'<p class="{entry.status.replace(" ", "-")}">{entry.status}: {STATUS[entry.status]}</p>',
        command
        and f'<div class="command"><pre><code>{escape(command)}</code></pre><button type="button" class="copy">copy</button></div>',
        measures_table(entry),
        *problems(result.get("problems") or ()),
        definitions([(figure.label, as_text(figure.of(result))) for figure in FIGURES]),
        definitions([*counts(result), *((key, result.get(key)) for key in ("date", "commit", "code", "machine"))]),
    ]
    return f'<article id="cell-{number}">{"".join(part for part in parts if part)}</article>'


def measures_table(entry: Entry) -> str:
    """Every measure: measured, expected, how far apart, and how far they may be."""
    by_measure = {shift.measure: shift for shift in entry.shifts}
    rows = []
    for name in dict.fromkeys((*entry.values, *(name for name in by_measure if name != "queries"))):
        shift = by_measure.get(name)
        value = f"{entry.values[name]:.4f}" if name in entry.values else "none"
        measured, expected = (
            ("", value) if entry.measured is None else (value, f"{shift.expected:.4f}" if shift else "")
        )
        change = f"{shift.difference:+.4f}" if shift and shift.difference is not None else ""
        tolerance = f"{shift.tolerance:g}" if shift else ""
        kind = ' class="moved"' if shift and shift.is_moved else ""
        cells = "".join(f"<td>{text}</td>" for text in (measured, expected, change, tolerance))
        rows.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("measure", "measured", "expected", "difference", "tolerance")
    )
    return f'<table><caption class="visually-hidden">Measures</caption><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def counts(result: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """How many of what: the judged queries, and what was counted on the way."""
    yield "queries", result.get("queries")
    counted = result.get("counts")
    for name, count in (counted if isinstance(counted, Mapping) else {}).items():
        yield str(name).replace("_", " "), count


def definitions(pairs: Sequence[tuple[str, object]]) -> str:
    """Those that have a value."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    inner = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in known)
    return f"<dl>{inner}</dl>" if known else ""


def problems(said: Sequence[object]) -> Iterator[str]:
    if said:
        yield f'<p>Problems:</p><ul class="problems">{"".join(f"<li>{escape(str(one))}</li>" for one in said)}</ul>'


def source_article(source: Source) -> str:
    return (
        f'<article id="source-{escape(source.key)}"><h3>{escape(source.project)}</h3><p>From {escape(source.where)}.</p>'
        f'<p class="soft">Measured under: {escape(source.under)}.</p><p class="soft">Measures: {escape(", ".join(source.measures))}.</p></article>'
    )
