"""Children that are forked, watched and measured."""

import os
import signal
import sys
import traceback
from pathlib import Path


def forked(work):
    """The process id of a child that does `work()` and ends with status 0, or 1 after an exception, which it prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child):
    """How a child ended: "0", "1" or the name of the signal."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return str(os.WEXITSTATUS(status))


def own_memory():
    """Bytes of this process that are no file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def open_files():
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def bytes_below(folder):
    """Of all files in a folder that changes meanwhile."""
    total = 0
    for name, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(name, file)).st_size
            except FileNotFoundError:
                continue
    return total


def slope(points):
    """Rise per unit of x of the straight line nearest to [(x, y), ...]; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
