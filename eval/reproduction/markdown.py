"""The matrix as Markdown tables, for docs/reproduction.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.reproduction.efficiency import BUILD, INDEX, QUERY, as_text

if TYPE_CHECKING:
    from eval.reproduction.cells import Place
    from eval.reproduction.matrix import Entry, Matrix, Row
    from eval.reproduction.published import Source

BEGIN = "<!-- begin: made by `python -m eval.reproduction.markdown FILE`, do not edit -->"
END = "<!-- end -->"


def as_markdown(matrix: Matrix) -> str:
    """A table of all our systems by data sets, one of each data set with the commands, and one of each source's figures."""
    blocks = [own_tables(matrix)] if matrix.own_places else ["No value of ours is kept yet."]
    blocks += [published_table(matrix, source) for source in matrix.sources]
    return "\n\n".join(blocks)


def own_tables(matrix: Matrix) -> str:
    """Those of the data sets at which we have values; published systems stand there too."""
    measure = matrix.measures[0]
    head = ["system", *(plain(matrix.labels[place]) for place in matrix.own_places)]
    rows = [
        [name_of(row), *(value(row.entries.get(place), measure) for place in matrix.own_places)]
        for row in matrix.rows
        if any(measure in row.entries[place].values for place in matrix.own_places if place in row.entries)
    ]
    tables = [place_table(matrix, place) for place in matrix.own_places]
    return "\n\n".join([f"## {measure}", table(head, rows), *tables])


def place_table(matrix: Matrix, place: Place) -> str:
    """Our systems on one data set: every measure, time and space, and the command of each."""
    own = [row.entries[place] for row in matrix.rows if not row.is_published and place in row.entries]
    measures = [name for name in matrix.measures if any(name in entry.values for entry in own)]
    head = ["system", *measures, *(figure.label for figure in (*QUERY, INDEX, BUILD)), "command"]
    rows = [
        [
            code(entry.system),
            *(value(entry, measure) for measure in measures),
            *(as_text(figure.of(entry.result)) for figure in (*QUERY, INDEX, BUILD)),
            code(entry.result.get("command") or ""),
        ]
        for entry in own
    ]
    queries = next((entry.result["queries"] for entry in own if entry.result.get("queries")), None)
    title = f"## {matrix.labels[place]}" + (f", {queries} queries" if queries else "")
    said = [
        f"- {code(entry.system)}: {plain(problem)}" for entry in own for problem in entry.result.get("problems") or ()
    ]
    return "\n\n".join([title, table(head, rows), *(["\n".join(said)] if said else [])])


def published_table(matrix: Matrix, source: Source) -> str:
    """The figures of one source, data sets in rows: there are more of them than systems."""
    rows = [
        row for row in matrix.rows if row.is_published and any(is_of(source, entry) for entry in row.entries.values())
    ]
    places = [
        place
        for place in matrix.places
        if any(place in row.entries and is_of(source, row.entries[place]) for row in rows)
    ]
    head = [" / ".join(source.measures), *(plain(row.system) for row in rows)]
    lines = [
        [plain(matrix.labels[place]), *(published_value(source, row.entries.get(place)) for row in rows)]
        for place in places
    ]
    return "\n\n".join(
        [
            f"## Published: {plain(source.project)}",
            f"From {plain(source.where)}; measured under: {plain(source.under)}.",
            table(head, lines),
        ]
    )


def is_of(source: Source, entry: Entry) -> bool:
    return source in entry.sources.values()


def published_value(source: Source, entry: Entry | None) -> str:
    """With as many digits as published."""
    values = (
        [entry.values[name] for name in source.measures if name in entry.values]
        if entry and is_of(source, entry)
        else []
    )
    return " / ".join(f"{value:.{source.digits}f}" for value in values)


def name_of(row: Row) -> str:
    return f"{plain(row.system)} (published)" if row.is_published else code(row.system)


def value(entry: Entry | None, measure: str) -> str:
    """A value, with the expected one where it has moved."""
    if entry is None or measure not in entry.values:
        return ""
    digits = entry.sources[measure].digits if measure in entry.sources else 4
    text = f"{entry.values[measure]:.{digits}f}"
    shift = next((one for one in entry.shifts if one.measure == measure and one.is_moved), None)
    return text if shift is None else f"{text} (moved, expected {shift.expected:.4f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines: Iterator[Sequence[str]] = iter([head, ["---"] * len(head), *rows])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(text: str) -> str:
    """Text of others on one line, with nothing in it that Markdown or HTML would take for itself."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as it is, in a code span that it cannot end; a bar would end the cell even there.

    >>> code("a`b"), code("a|b")
    ('``a`b``', '`a\\\\|b`')
    """
    written = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", written)), default=0))
    pad = " " if written.startswith("`") or written.endswith("`") else ""
    return f"{fence}{pad}{written}{pad}{fence}" if written else ""


def replaced(document: str, markdown: str) -> str:
    """The document with the tables between its two markers. Raises ReproductionError where it lacks them."""
    from eval.reproduction.published import ReproductionError

    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReproductionError(
            f"the document lacks the lines {BEGIN!r} and {END!r}; put them where the tables belong."
        )
    return f"{before}{BEGIN}\n\n{markdown}\n\n{END}{after}"


def main(path: str) -> None:
    """Write the tables of the package's expected and published values into a document."""
    from eval.reproduction.matrix import Matrix

    document = Path(path)
    document.write_text(replaced(document.read_text(encoding="utf-8"), Matrix.read().as_markdown()), encoding="utf-8")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
