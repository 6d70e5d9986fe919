"""Errors that a person reads: one sentence with the value, what is needed and what to do."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from warnings import formatwarning

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class WinnowError(ValueError):
    """Something given to us is wrong; the message is one sentence that says what, why, and what to do."""


class InvalidVectorsError(WinnowError):
    """Sparse vectors or a query that an index cannot take: NaN, negative, unsorted, out of range."""


class IndexFormatError(WinnowError):
    """The files of an index are missing, damaged, newer than this release, or not an index at all."""


class StorageError(WinnowError):
    """The operating system refused to write an index; what was committed before is still there."""


class LockedError(WinnowError):
    """Somebody else, whom the message names, is changing the same folder; nothing was changed."""


class CorpusError(WinnowError):
    """A document or its file cannot be read as documented; nothing of the corpus was taken."""


class FilterError(WinnowError):
    """A filter is not written as documented, or asks of a field what no document of the collection could answer."""


class ModelError(WinnowError):
    """A model is unknown, cannot be had here, or is not the one an index was built with."""


class DeadlineError(WinnowError):
    """An arm of a search has not answered in the time that it was given."""


class WinnowWarning(UserWarning):
    """Something that a person should know, in one sentence; the work goes on."""


def interruptible(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """The function, with Ctrl-C while compiled code hands over its result told as KeyboardInterrupt, not as SystemError."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        try:
            return function(*args, **kwargs)
        except SystemError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, KeyboardInterrupt):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise KeyboardInterrupt from error

    return call


def run_command(call: Callable[[], int], *, program: str, debug: bool) -> int:
    """The exit status of a command: errors end as one sentence on standard error, with a traceback only in debug."""
    warnings.formatwarning = lambda message, category, *where: (
        f"{program}: {message}\n" if issubclass(category, WinnowWarning) else formatwarning(message, category, *where)
    )
    try:
        status = call()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        message, status = "interrupted; no index was changed.", 130
    except Exception as error:
        if isinstance(error, OSError):
            discard_unwritten_output()
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone (`| head`): nobody is left to tell
            return 141
        if debug:
            traceback.print_exc()
            return 1
        message, status = as_sentence(error), 1
    print(f"{program}: {message}", file=sys.stderr)
    return status


def discard_unwritten_output() -> None:
    """Send what is still buffered for standard output nowhere, if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_sentence(error: Exception) -> str:
    """What to tell a person; an error that is not one of ours is named as a defect."""
    if isinstance(error, WinnowError | ImportError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)."
