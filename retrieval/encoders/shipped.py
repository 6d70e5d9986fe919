"""Models that come with the package: folders of checkpoints like any other, read without a network and without an extra.

An index names such a model by its name, not by where the package lies, so it can be moved to another machine.
"""

from __future__ import annotations

from pathlib import Path

from index.errors import ModelError

FOLDER = Path(__file__).parents[1] / "models"
SHIPPED = ("winnow-mini",)
DEFAULT_MODEL = "winnow-mini"  # of the demo, the commands and `encode_corpus`


def shipped_folder(name: str) -> Path:
    """The folder of one of SHIPPED. Raises ModelError where the package was installed without it."""
    if not (FOLDER / name).is_dir():
        raise ModelError(f"{FOLDER / name} is missing, which comes with the package; install winnow-ir again.")
    return FOLDER / name
