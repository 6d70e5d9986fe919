"""Who reads a part and who writes a folder, told by locks that the kernel drops when their process dies.

`flock` itself rather than a library (docs/decisions/0009). On a file system without it we do without: readers still have
what they mapped, but nothing keeps two writers apart.
"""

from __future__ import annotations

import fcntl
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from index import files
from index.errors import LockedError, StorageError
from index.manifest import LOCK, MARKER

MOST_ATTEMPTS = 1_000  # at a folder that others keep making and removing
LONGEST_COMMAND = 200  # characters of a command line that we name


def take_lease(part: Path) -> int:
    """A descriptor that keeps the part from being removed until it is closed; a part just removed lacks its description.

    Raises OSError while it is being removed.
    """
    descriptor = os.open(part / MARKER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lock_without_waiting(descriptor, fcntl.LOCK_SH)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def take_for_removal(part: Path) -> int | None:
    """A descriptor that keeps readers away; None while somebody reads the part. Raises StorageError."""
    descriptor = files.open_file(part / MARKER, os.O_RDWR | os.O_NOFOLLOW)  # NFS locks for one only what it may write
    try:
        lock_without_waiting(descriptor, fcntl.LOCK_EX)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def lock_without_waiting(descriptor: int, operation: int) -> None:
    """Raises BlockingIOError if another descriptor holds a lock that excludes this one."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


class WriterLock:
    """The right to change a folder, which is made if need be; held until `release` or the end of the process.

    Raises LockedError while somebody else holds it, in this process or another, and StorageError.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self.made_folder = False
        for _ in range(MOST_ATTEMPTS):
            self.made_folder |= files.make_folders(folder)
            if self._take():
                break
        else:
            raise LockedError(f"other processes keep making and removing {folder}; wait until they have finished.")
        with suppress(StorageError):  # the name of the holder is a courtesy: a full disk does not matter
            files.truncate(self._descriptor, self.path)
            files.write_all(self._descriptor, f"{os.getpid()} {own_command()}\n".encode(), self.path)

    @property
    def is_held(self) -> bool:
        """False after `release`, and in a child that this process forked."""
        return self._close.alive

    def check(self) -> None:
        """Raise StorageError unless the folder is still the one that was locked: it may have been moved or replaced."""
        with suppress(OSError):
            there, ours = os.stat(self.path), os.fstat(self._descriptor)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        raise StorageError(
            f"{self.path.parent} is not the folder that this writer opened: it was moved, removed or replaced meanwhile; open "
            "it again."
        )

    def release(self, remove: bool = False) -> None:
        """Let others write. `remove` also removes the lock's file, and the folder if we made it and it is empty."""
        with suppress(StorageError):
            if remove:
                files.remove_file(self.path)
                if self.made_folder:
                    files.remove_folder(self.path.parent)
            else:  # equal indexes are equal files: who wrote them does not stay
                files.truncate(self._descriptor, self.path)
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also for children that were forked meanwhile
        self._close()

    def _take(self) -> bool:
        """False if the folder or the lock's file was removed before we had it."""
        try:
            descriptor = files.open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        try:
            lock_without_waiting(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                os.close(descriptor)
                return False
        except BlockingIOError:
            holder = os.pread(descriptor, 4 * LONGEST_COMMAND, 0)
            os.close(descriptor)
            raise LockedError(locked_message(self.path.parent, holder)) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        HELD.add(self)
        return True


HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def let_go_in_child() -> None:
    """A forked child must neither write nor keep the lock when its parent dies."""
    for lock in list(HELD):
        lock._close()


os.register_at_fork(after_in_child=let_go_in_child)


def own_command() -> str:
    """The command line of this process, as far as it can be printed on one line."""
    command = " ".join(sys.orig_argv)
    return "".join(letter if letter.isprintable() else "?" for letter in command)[:LONGEST_COMMAND]


def locked_message(folder: Path, holder: bytes) -> str:
    """Who holds the lock, from what its file says, which may be nothing yet."""
    number, _, command = holder.decode(errors="replace").strip().partition(" ")
    if number == str(os.getpid()):
        return f"this process is already writing to {folder}; commit or roll back there first."
    who = f"process {number} ({command})" if number.isdecimal() and command.isprintable() else "another process"
    return f"{who} is writing to {folder}; wait until it has finished."
