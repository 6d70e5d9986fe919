"""Shared by every test. Runs before any kernel is imported."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# numba's cache notices an edit to the file of a cached function, not to the files of the functions it calls:
# key the cache by the text of every kernel, so that no test runs stale machine code
DIGEST = hashlib.sha256(b"".join(file.read_bytes() for file in sorted((ROOT / "kernels").rglob("*.py")))).hexdigest()
os.environ.setdefault("NUMBA_CACHE_DIR", f"{tempfile.gettempdir()}/winnow-numba-{DIGEST[:12]}")

from hypothesis import settings  # noqa: E402

settings.register_profile("default", deadline=None)  # the first example of a test compiles numba kernels
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def data_folder():
    """The folder of a data set by name; the test is skipped where the data is not beside the checkout."""

    def find(name):
        if not (SHARED_DATA / name).is_dir():
            pytest.skip(f"NOT RUN: the data set {name} is not at {SHARED_DATA}")
        return SHARED_DATA / name

    return find


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test may reach for a network: what needs one must fail at once, in one sentence."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def one_thread():
    """For models of kilobytes: on a busy machine a second thread of PyTorch costs ten times what it saves."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
