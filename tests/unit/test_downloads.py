"""Data sets from a web server on this machine in the place of beir's."""

import errno
import functools
import hashlib
import http.server
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eval.datasets import catalogue, download, download_dataset, load_dataset, spec_named
from index.errors import WinnowError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the files under `folder`; `asked` has the paths it was asked for, `cut` how many bytes of a file it sends."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            Server.asked.append(self.path)
            super().do_GET()

        def copyfile(self, source, outputfile):
            outputfile.write(source.read(Server.cut))

    class Server:
        folder, asked, cut = tmp_path / "served", [], -1

    Server.folder.mkdir()
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=Server.folder))
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("eval.datasets.downloading.ADDRESS", f"http://127.0.0.1:{listening.server_port}/{{name}}.zip")
    yield Server
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def spec(tmp_path, server, monkeypatch):
    """A small collection under the name of a public one, zipped on the server."""
    folder = tmp_path / "source" / "scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n')
    (folder / "qrels" / "test.tsv").write_text("1\ta\t1\n")
    zipped = shutil.make_archive(server.folder / "scifact", "zip", folder.parent, "scifact")
    with open(zipped, "rb") as file:
        spec = spec_named("scifact")._replace(md5=hashlib.file_digest(file, "md5").hexdigest())
    monkeypatch.setattr("eval.datasets.specs.catalogue", lambda: {"scifact": spec})
    return spec


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "winnow" / "beir"


def left_over(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_data_set_is_downloaded_once_and_can_be_loaded(server, spec, cache):
    folder = download_dataset("scifact")
    assert folder == cache / "scifact"
    assert load_dataset(folder, spec=spec).queries == {"1": "one"}
    assert download_dataset("scifact") == folder
    assert server.asked == ["/scifact.zip"]
    assert left_over(cache) == ["scifact"]


def test_a_zip_with_another_md5_is_refused_before_it_is_unpacked(server, spec, cache, monkeypatch):
    monkeypatch.setattr("beir.util.unzip", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(
        WinnowError, match=rf"has the md5 {spec.md5}, not {'0' * 32} as beir says; nothing was unpacked"
    ):
        download(spec._replace(md5="0" * 32))
    assert left_over(cache) == []


def test_an_answer_that_is_no_zip_is_refused(server, spec, cache):
    (server.folder / "scifact.zip").unlink()  # the answer is an error page, which beir writes to the disk
    with pytest.raises(WinnowError, match=rf"has the md5 [0-9a-f]+, not {spec.md5} as beir says"):
        download(spec)
    assert left_over(cache) == []


def test_a_download_that_is_broken_off_leaves_nothing_and_can_be_tried_again(server, spec, cache):
    server.cut = 100
    with pytest.raises(
        WinnowError, match=r"'scifact' could not be downloaded \(ChunkedEncodingError\); check the network"
    ):
        download(spec)
    assert left_over(cache) == []
    server.cut = -1
    assert (download(spec) / "corpus.jsonl").is_file()


def test_what_a_killed_process_left_is_never_taken_for_whole(spec, cache):
    half = cache / ".scifact.partial" / "unpacked" / "scifact" / "qrels"
    half.mkdir(parents=True)
    (half / "dev.tsv").write_text("of another zip")
    (half.parents[2] / "scifact.zip").write_text("half")
    assert sorted(path.name for path in (download(spec) / "qrels").iterdir()) == ["test.tsv"]
    assert left_over(cache) == ["scifact"]


def test_an_interrupt_while_unpacking_leaves_nothing(spec, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("beir.util.unzip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(spec)
    assert left_over(cache) == []


def test_two_at_once_download_it_once(server, spec, cache):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(download, [spec] * 4))
    assert folders == [cache / "scifact"] * 4
    assert server.asked == ["/scifact.zip"]
    assert left_over(cache) == ["scifact"]


def test_without_a_network_it_is_one_sentence(spec, cache, monkeypatch):
    monkeypatch.setattr("eval.datasets.downloading.ADDRESS", "http://127.0.0.1:9/{name}.zip")
    with pytest.raises(
        WinnowError, match=r"'scifact' could not be downloaded \(ConnectionError\).* local folder with --data"
    ):
        download(spec)
    assert left_over(cache) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), "could not be downloaded .ConnectionResetError.; check the network"),
        (OSError(errno.ENOSPC, "No space left on device"), "could not be stored in .*No space left on device.; make room"),
    ],
)  # fmt: skip
def test_a_full_disk_is_not_taken_for_a_broken_network(spec, cache, monkeypatch, error, message):
    def failing(*_):
        raise error

    monkeypatch.setattr("beir.util.download_url", failing)
    with pytest.raises(WinnowError, match=message):
        download(spec)
    assert left_over(cache) == []


def test_without_beir_it_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "beir.util", None)
    with pytest.raises(WinnowError, match=r"needs the package beir; run `pip install 'winnow-ir\[eval\]'`"):
        download(spec)


def test_a_cache_that_cannot_be_written_is_told(spec, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(WinnowError, match=r"scifact could not be stored in .*Not a directory.*XDG_CACHE_HOME"):
        download(spec)


def test_a_folder_from_another_zip_is_not_used(spec, cache):
    (cache / "scifact").mkdir(parents=True)
    with pytest.raises(WinnowError, match=rf"not known to be, beir's zip with the md5 {spec.md5}; remove it"):
        download(spec)
    (cache / "scifact").rmdir()
    download(spec)
    with pytest.raises(WinnowError, match="not known to be"):  # beir has another zip by now
        download(spec._replace(md5="0" * 32))


def test_a_data_set_that_needs_a_licence_is_told_and_taken_from_the_cache(server, cache):
    robust = catalogue()["robust04"]
    with pytest.raises(WinnowError, match=r"robust04 cannot be downloaded, as it needs a licence \(ask NIST .*--data"):
        download(robust)
    (cache / "robust04").mkdir(parents=True)
    assert download(robust) == cache / "robust04"
    assert server.asked == []
