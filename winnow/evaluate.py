"""Measure systems on a BEIR data set (the same as `python -m eval.beir`)."""

from eval.beir import add_arguments, run

__all__ = ["add_arguments", "run"]
