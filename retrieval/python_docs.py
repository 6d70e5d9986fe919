"""The documentation of the running Python's standard library, as a corpus that needs no download.

One document for each public module, class, function and method that has a docstring of its own:
id = qualified name, title = name with signature, text = first paragraph of the docstring.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from index.documents import Document

# importing these opens a browser, a window or a console, prints, installs, or is Python's own test suite
NOT_IMPORTED = {"antigravity", "this", "idlelib", "tkinter", "turtle", "turtledemo", "ensurepip", "test", "tests"}
PLAIN = (type(None), bool, int, float, str, bytes)  # defaults worth showing; others differ from run to run


def python_documentation() -> Iterator[Document]:
    """Every documented public name once, under the first qualified name that reaches it, modules in sorted order."""
    seen: set[str] = set()
    for name in sorted(sys.stdlib_module_names):
        for module in public_modules(name):
            for qualified_name, thing in [(module.__name__, module), *public_members(module)]:
                text = first_paragraph(thing)
                if text and qualified_name not in seen:
                    seen.add(qualified_name)
                    kind = "module" if inspect.ismodule(thing) else "class" if inspect.isclass(thing) else "function"
                    yield Document(qualified_name, qualified_name + signature(thing), text, {"kind": kind})


def public_modules(name: str) -> Iterator[ModuleType]:
    """The module and its submodules, leaving out private ones and those that cannot be imported here."""
    last = name.rpartition(".")[2]
    if not is_public(last) or last in NOT_IMPORTED:
        return
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ImportError:  # of another operating system, or an optional part that this Python was built without
        return
    yield module
    for submodule in pkgutil.iter_modules(getattr(module, "__path__", [])):
        yield from public_modules(f"{name}.{submodule.name}")


def public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(qualified name, object) of a module's public functions and classes, and of the classes' public methods."""
    declared = getattr(module, "__all__", None)
    for name in filter(is_public, declared or list(vars(module))):
        thing = getattr(module, name, None)
        is_own = declared or getattr(thing, "__module__", None) == module.__name__
        if not is_own or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            for method_name, method in vars(thing).items():
                method = getattr(method, "__func__", method)  # of a class method or static method
                if is_public(method_name) and inspect.isroutine(method):
                    yield f"{module.__name__}.{name}.{method_name}", method


def is_public(name: str) -> bool:
    return not name.startswith("_")


def first_paragraph(thing: Any) -> str:
    """On one line; empty without a docstring of its own (an inherited one does not count)."""
    text = thing.__doc__
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split()) if isinstance(text, str) else ""


class Elided:
    """Stands in a signature for a default value that is no plain constant."""

    def __repr__(self) -> str:
        return "..."


def signature(thing: Any) -> str:
    """The parameters with their plain defaults, without annotations; empty for what is not called."""
    if not callable(thing):
        return ""
    try:
        full = inspect.signature(thing)
    except (ValueError, TypeError):  # written in C without one
        return "(...)"
    parameters = []
    for parameter in full.parameters.values():
        is_plain = parameter.default is inspect.Parameter.empty or isinstance(parameter.default, PLAIN)
        default = parameter.default if is_plain else Elided()
        parameters.append(parameter.replace(default=default, annotation=inspect.Parameter.empty))
    return str(inspect.Signature(parameters))
