"""Public BEIR data sets, downloaded by `beir` into a cache: checked before they are unpacked, there as a whole or not at all.

A zip is fetched and unpacked beside its place and moved there by one rename, with the md5 of the zip in it; whoever else wants
the same data set meanwhile waits.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.datasets.specs import DatasetSpec, spec_named
from index.errors import WinnowError

ADDRESS = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{name}.zip"
MARK = "zip.md5"  # in an unpacked folder: of which zip it is


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/winnow/beir, or ~/.cache/winnow/beir."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow" / "beir"


def download_dataset(name: str) -> Path:
    """The folder of one of BEIR's data sets by name; see `download`. Raises WinnowError, also for a name that is not BEIR's."""
    return download(spec_named(name))


def download(spec: DatasetSpec) -> Path:
    """The folder of a data set, fetched once. One that needs a licence is found where the user has put it in the cache.

    Raises WinnowError: without a network, for a zip that is not beir's, for a data set that must be had elsewhere.
    """
    cache = cache_folder()
    folder = cache / spec.name
    if is_ready(folder, spec):
        return folder
    if not spec.is_public:
        raise WinnowError(
            f"{spec.name} cannot be downloaded, as it needs a licence ({spec.where}); give its folder with --data, or put it into {folder}."
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with alone(cache / f".{spec.name}.lock", spec.name):
            if not is_ready(folder, spec):  # somebody else may have been faster
                fetch(spec, folder)
    except OSError as error:
        raise WinnowError(
            f"{spec.name} could not be stored in {cache} ({error.strerror or error}); make room, or set XDG_CACHE_HOME to another folder."
        ) from error
    return folder


def is_ready(folder: Path, spec: DatasetSpec) -> bool:
    """Raises WinnowError for a folder in the place of a public data set that is not from its zip."""
    if not folder.is_dir():
        return False
    mark = folder / MARK
    if spec.is_public and not (mark.is_file() and mark.read_text(encoding="utf-8").strip() == spec.md5):
        raise WinnowError(
            f"{folder} is not, or not known to be, beir's zip with the md5 {spec.md5}; remove it to have it downloaded, or give it with --data."
        )
    return True


@contextmanager
def alone(lock: Path, name: str) -> Iterator[None]:
    """While nobody else, in this process or another, downloads the same. A lock ends with its process, however that ends."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another download of {name}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(spec: DatasetSpec, folder: Path) -> None:
    """Download, check, unpack, move. What an interrupted try left is removed first, what this one leaves at its end."""
    try:
        from beir.util import download_url, unzip
    except ImportError as error:
        raise WinnowError("downloading needs the package beir; run `pip install 'winnow-ir[eval]'`.") from error
    partial = folder.parent / f".{spec.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        zipped, unpacked = partial / f"{spec.name}.zip", partial / "unpacked" / spec.name
        try:
            download_url(ADDRESS.format(name=spec.name), str(zipped))
        except OSError as error:  # of requests too
            if error.errno is not None and not isinstance(error, ConnectionError):
                raise  # of our own disk; those of requests have no number
            raise WinnowError(
                f"data set {spec.name!r} could not be downloaded ({type(error).__name__}); check the network, or give a local folder with --data."
            ) from error
        check_md5(zipped, spec)
        unzip(str(zipped), str(unpacked.parent))
        if not unpacked.is_dir():
            raise WinnowError(
                f"beir's zip of {spec.name} holds no folder of that name; give a local folder with --data."
            )
        (unpacked / MARK).write_text(f"{spec.md5}\n", encoding="utf-8")
        unpacked.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_md5(zipped: Path, spec: DatasetSpec) -> None:
    """Raises WinnowError for other bytes than those that beir names; it also takes a server's error page for a zip."""
    with zipped.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != spec.md5:
        raise WinnowError(
            f"what was downloaded for data set {spec.name!r} ({zipped.stat().st_size:,} bytes) has the md5 {found}, not {spec.md5} as beir "
            "says; nothing was unpacked: try again, or give a local folder with --data."
        )
