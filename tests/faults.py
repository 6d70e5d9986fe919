"""A disk under index/files.py that fails at any call, or loses what was not flushed when the power goes.

    after_every_error(folder, scratch, operate, check, finished)
    after_every_power_loss(folder, scratch, operate, check, finished)

`operate(folder)` changes a copy of `folder`, once for each system call that it makes: that call fails, or is the last one
before the power goes. `check(folder)` raises unless it finds the old state or the new one; `finished(folder)` unless it
finds the new one. What is on disk after a loss of power is the most hostile that POSIX allows: a file's content is what it
was at its last flush or anything torn from now; a name is there, not there, or still another file's, unless its folder was
flushed since; and each name for itself.
"""

import errno
import os
import random
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from index import files
from index.errors import WinnowError

CALLS = ("open", "close", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "posix_fallocate", "ftruncate")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EACCES)
RETRIED = 3  # of so many disks after a loss of power one sees a retry
TEARS = ("as it is", "empty", "half", "zeros", "a bit flipped", "dropped")


class PowerLost(BaseException):
    """No handler of errors may run on: nothing reaches the disk any more."""


class Disk:
    """Stands for `os` in index/files.py; counts the calls that change the disk.

    fail_at     the number of the call, from 1, that raises an OSError `number`; with `lasting`, all later ones too
    stop_at     the call before which the power goes
    most_bytes  that a write takes at a time
    """

    def __init__(self, *, fail_at=None, number=errno.EIO, lasting=False, stop_at=None, most_bytes=None, flushed=None):
        self.fail_at, self.number, self.lasting, self.stop_at = fail_at, number, lasting, stop_at
        self.most_bytes, self.flushed = most_bytes, flushed
        self.made = []  # names of the calls, in order

    def __getattr__(self, name):
        real = getattr(os, name)
        return self._counted(name, real) if name in CALLS else real

    def _counted(self, name, real):
        def call(*arguments, **options):
            self.made.append(name)
            count = len(self.made)
            stopped = self.stop_at is not None and count >= self.stop_at
            failed = self.fail_at is not None and (count >= self.fail_at if self.lasting else count == self.fail_at)
            if name == "close":
                real(*arguments)  # a descriptor is gone even if closing it fails
            if stopped:
                raise PowerLost
            if failed:
                raise OSError(self.number, os.strerror(self.number))
            if name == "close":
                return None
            if name == "write" and self.most_bytes:
                arguments = (arguments[0], arguments[1][: self.most_bytes])
            if name == "fsync":  # what it is worth is decided here: a real one would only take time
                return self.flushed and self.flushed.note(arguments[0])
            return real(*arguments, **options)

        return call


@contextmanager
def disk(**faults):
    """index/files.py writes to a `Disk` of these faults."""
    real, files.os = files.os, Disk(**faults)
    try:
        yield files.os
    finally:
        files.os = real


class Flushed:
    """What a disk holds for certain: contents and names as they were last flushed, starting with all that is there.

    Nodes are known by inode number; a descriptor held on each keeps its number from being given to another.
    """

    def __init__(self, root):
        self.root = os.stat(root).st_ino
        self.held, self.is_folder, self.contents, self.names = {}, {}, {}, {}
        for path in (root, *root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self.note(descriptor)
            os.close(descriptor)

    def close(self):
        for descriptor in self.held.values():
            os.close(descriptor)

    def note(self, descriptor):
        """The node behind the descriptor was flushed."""
        number = self.hold(descriptor)
        if self.is_folder[number]:
            self.names[number] = self.names_now(number)
        else:
            self.contents[number] = self.content_now(number)

    def hold(self, descriptor):
        status = os.fstat(descriptor)
        if status.st_ino not in self.held:
            self.held[status.st_ino] = os.dup(descriptor)
            self.is_folder[status.st_ino] = os.path.isdir(f"/proc/self/fd/{descriptor}")
        return status.st_ino

    def names_now(self, number):
        """name -> node of a folder, as any program sees it."""
        found, folder = {}, self.held[number]
        for name in os.listdir(folder):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            found[name] = self.hold(descriptor)
            os.close(descriptor)
        return found

    def content_now(self, number):
        with open(f"/proc/self/fd/{self.held[number]}", "rb") as file:
            return file.read()

    def left_on_disk(self, choose):
        """(what the power loss leaves: path -> content, None for a folder; names of flushed folders that may be old or new).

        `choose(options, path)` picks what a path becomes, the oldest option first.
        """
        left, open_names = {}, []

        def leave(number, above):
            left[above] = None
            flushed, now = self.names.get(number, {}), self.names_now(number)
            for name in sorted({*flushed, *now}):
                path = above / name
                node = now.get(name)
                if flushed.get(name) != node:
                    node = choose([flushed.get(name), node], path)
                    if number in self.names:
                        open_names.append(path)
                if node is not None and self.is_folder[node]:
                    leave(node, path)
                elif node is not None and (content := self._content(node, path, choose)) is not None:
                    left[path] = content

        leave(self.root, Path())
        return left, open_names

    def _content(self, number, path, choose):
        flushed, now = self.contents.get(number), self.content_now(number)
        if flushed == now:
            return now
        tear = choose([flushed, *TEARS], path)
        if tear is None or tear == "dropped":
            return flushed  # a file never flushed is not there
        return tear if isinstance(tear, bytes) else torn(now, tear)


def torn(content, tear):
    """What may be left of a file that was not flushed."""
    if tear == "a bit flipped" and content:
        place = len(content) // 3
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    return {"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(len(content))}.get(tear, content)


def disks_left(flushed, random_ones):
    """What a loss of power may leave: all as flushed; all as now, torn in each way; one name unlike all others; by chance."""

    def newest(tear, unlike=None):
        return lambda options, path: options[0] if path == unlike else (tear if tear in options else options[-1])

    def oldest(unlike=None):
        return lambda options, path: options[0 if path != unlike else 1]

    yield flushed.left_on_disk(oldest())[0]
    for tear in TEARS:
        left, open_names = flushed.left_on_disk(newest(tear))
        yield left
    for path in open_names:
        yield flushed.left_on_disk(newest(TEARS[0], unlike=path))[0]
        yield flushed.left_on_disk(oldest(unlike=path))[0]
    for seed in range(random_ones):
        chance = random.Random(seed)
        yield flushed.left_on_disk(lambda options, _, chance=chance: chance.choice(options))[0]


def write_tree(folder, tree):
    """A folder as `left_on_disk` describes it."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def calls_to_try(count, most):
    """Every call, or `most` of them spread evenly, the first and the last among them."""
    if most is None or count <= most:
        return range(1, count + 1)
    return sorted({1 + round(step * (count - 1) / (most - 1)) for step in range(most)})


def fresh_copy(folder, scratch):
    """`scratch/folder`, as `folder` is, or absent."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    copy = scratch / Path(folder).name
    if Path(folder).exists():
        shutil.copytree(folder, copy, symlinks=True)
    return copy


def count_calls(folder, scratch, operate):
    """System calls of one undisturbed run."""
    copy = fresh_copy(folder, scratch)
    with disk() as counting:
        operate(copy)
    return len(counting.made)


def after_every_error(folder, scratch, operate, check, finished, errors=ERRORS, most_calls=None):
    """Let each call in turn fail once, and from each on all (with the first of `errors`): the error is ours, the state
    sound, a retry succeeds.

    Returns how many failures were tried.
    """
    count, tried = count_calls(folder, scratch, operate), 0
    for call in calls_to_try(count, most_calls):
        for number, lasting in [*((number, False) for number in errors), (errors[0], True)]:
            copy = fresh_copy(folder, scratch)
            tried += 1
            where = f"call {call} of {count}, {errno.errorcode[number]}{' from then on' if lasting else ''}"
            try:
                with disk(fail_at=call, number=number, lasting=lasting):
                    operate(copy)
            except WinnowError:
                pass
            except Exception as error:
                raise AssertionError(f"{where}: {error!r} is no error of ours") from error
            else:
                with saying(where):
                    finished(copy)
            with saying(where), disk():
                check(copy)
                operate(copy)
                finished(copy)
    return tried


def after_every_power_loss(folder, scratch, operate, check, finished, random_ones=3, most_calls=None):
    """Let the power go before each call in turn and after the last: whatever is left on disk is sound, and a retry
    (tried on every third) succeeds.

    Returns how many disks were looked at.
    """
    count, seen = count_calls(folder, scratch, operate), set()
    for call in [*calls_to_try(count, most_calls), None]:
        copy = fresh_copy(folder, scratch)
        flushed = Flushed(scratch)
        with suppress(PowerLost), disk(stop_at=call, flushed=flushed):
            operate(copy)
        for tree in disks_left(flushed, random_ones):
            key = (call is None, frozenset(tree.items()))
            if key in seen:
                continue
            seen.add(key)
            left = scratch.with_name(f"{scratch.name}-left")
            write_tree(left, tree)
            with saying(f"power gone before call {call or 'none'} of {count}, disk {len(seen)}"), disk():
                check(left / copy.name) if call else finished(left / copy.name)
                if len(seen) % RETRIED == 0:
                    operate(left / copy.name)
                    finished(left / copy.name)
        flushed.close()
    return len(seen)


@contextmanager
def saying(where):
    """An error of the block is told with where it happened."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{where}: {error!r}") from error
