"""Systems from a TOML file, a table each:

    [hybrid]
    arms = ["bm25", "minilm"]
    fusion = "rrf"
    rerank = "blockrank:MODEL"
    depth = 50
    [hybrid.options.minilm]
    max_length = 128
    [hybrid.rerank-options]
    dtype = "bfloat16"

Only `arms` must be there. Everything means what it means in a line (`retrieval.written_system`); relative paths begin where the program runs.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from index.errors import WinnowError
from retrieval.written_system import WrittenSystem, is_saved_folder

KEYS = ("arms", "fusion", "rerank", "depth", "options", "rerank-options")
TEXTS, TABLES = ("fusion", "rerank"), ("options", "rerank-options")
IN_A_FILE = re.compile(r"(?P<path>.+?\.toml)(?::(?P<name>.+))?", re.DOTALL)


def named_systems(written: str) -> dict[str, WrittenSystem]:
    """What a command line asks for, by name: FILE.toml stands for all systems of a file, FILE.toml:NAME for one of them, and any other text
    for the system that it is, under its canonical text.

    Raises WinnowError.
    """
    match = IN_A_FILE.fullmatch(written)
    if match is None:
        system = WrittenSystem.of(written)
        return {str(system): system}
    systems, name = read_systems(match["path"]), match["name"]
    if name is None:
        return systems
    if name not in systems:
        raise WinnowError(f"{match['path']} has no system {name!r:.60}{meant(name, systems)}.")
    return {name: systems[name]}


def read_systems(path: str | Path) -> dict[str, WrittenSystem]:
    """The systems of a file by name, in its order. Raises WinnowError for a file that cannot be read, has none, or has one that means nothing."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WinnowError(f"{path} cannot be read ({error.strerror}); give a TOML file of systems.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WinnowError(f"{path} is no TOML file ({error}); correct it.") from error
    if not found:
        raise WinnowError(f'{path} has no systems; write one as [hybrid] and arms = ["bm25", "minilm"].')
    return {name: system_of(f"the system {name!r:.60} of {path}", table) for name, table in found.items()}


def system_of(called: str, table: Any) -> WrittenSystem:
    """The system of one table; `called` is what errors call it."""
    if not isinstance(table, Mapping):
        raise WinnowError(f"{called} is {table!r:.60}; it must be a table, with arms = [...].")
    for key in table:
        if key not in KEYS:
            raise WinnowError(f"{called} has the key {key!r:.60}{meant(key, KEYS)}.")
    if not isinstance(table.get("arms"), list):
        raise WinnowError(f'{called} has the arms {table.get("arms")!r:.60}; give a list, as in arms = ["bm25"].')
    for key, kind in [*((key, str) for key in TEXTS), *((key, dict) for key in TABLES)]:
        if key in table and not isinstance(table[key], kind):
            raise WinnowError(
                f"{called} has {key} = {table[key]!r:.60}; it must be a {'text' if kind is str else 'table'}."
            )
    arms = table["arms"]
    try:
        return WrittenSystem(
            tuple(arms),
            table.get("fusion"),
            table.get("rerank"),
            table.get("depth"),
            table.get("options", {}),
            table.get("rerank-options", {}),
            is_saved=len(arms) == 1 and is_saved_folder(str(arms[0])),
        )
    except WinnowError as error:
        raise type(error)(f"{called} cannot be used: {error}") from error


def meant(name: str, known: Any) -> str:
    """The end of a sentence that says what there is instead."""
    alike = difflib.get_close_matches(name, known, 1)
    return f"; it is perhaps {alike[0]!r:.60}" if alike else f"; there are {', '.join(known)}"
