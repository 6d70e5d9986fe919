"""The most memory that this process has held since a moment."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # man 5 proc: forgets the peak of the resident set


def reset_peak() -> None:
    """Begin anew where the system can (Linux); elsewhere the peak is of the whole process."""
    with suppress(OSError):
        CLEAR.write_text(RESET_PEAK)


def peak_bytes() -> int:
    """Bytes of the resident set at its largest, all that the process has loaded and mapped counted in."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere
