"""A Ray cluster: reached in seconds, or not at all and with a sentence.

`ray.init` waits two minutes for an address where nothing answers and then ends the process, so a child of ours tries it first.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from index.errors import WinnowError

CONNECT_SECONDS = 3.0  # for the machine to take the call
ANSWER_SECONDS = 30.0  # for the cluster to say what it has; importing Ray takes some of it
LEAST_CPUS = 2  # of a cluster that is started here: with one, two pieces of work wait for each other for ever

ASK = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({"version": ray.__version__, **ray.cluster_resources()}))
"""


def import_ray() -> Any:
    """The package. Raises WinnowError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
    except ImportError as error:
        raise WinnowError(f"the engine ray needs Ray ({error}); pip install 'winnow-ir[ray]'.") from error
    return ray


def connected(address: str | None = None, cpus: int | None = None) -> Any:
    """Ray, connected: to the cluster at the address, that of RAY_ADDRESS, or one that is started in this process.

    address  "host:port", or "auto" for one on this machine
    cpus     logical ones of a cluster that is started here

    A process has one connection: where there is one already, it is used. Raises WinnowError within seconds.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address == "local":
        ray.init(
            address="local", num_cpus=max(cpus or os.cpu_count() or 1, LEAST_CPUS), include_dashboard=False, **quiet
        )
        return ray
    check_answers(address)
    ray.init(address=address, **quiet)
    return ray


def check_answers(address: str) -> None:
    """Raise WinnowError unless a cluster with CPUs answers at the address."""
    if address != "auto":
        check_listens(address)
    command = [sys.executable, "-c", ASK, address]
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise WinnowError(
            f"what listens at {address} has not answered as a Ray cluster in {ANSWER_SECONDS:g} s; give the address that "
            "`ray start` printed."
        ) from error
    said = tried.stdout.strip().splitlines()
    if tried.returncode != 0 or not said:
        why = (tried.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise WinnowError(
            f"no Ray cluster could be joined at {address} ({why:.200}); start one with `ray start --head`."
        )
    if not json.loads(said[-1]).get("CPU", 0) >= 1:
        raise WinnowError(
            f"the Ray cluster at {address} has no CPUs; start its nodes with `ray start --num-cpus=2` or more."
        )


def check_listens(address: str) -> None:
    """Raise WinnowError unless somebody takes calls at "host:port", perhaps after "ray://"."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise WinnowError(f"address is {address!r:.60}; it must be host:port, as in 127.0.0.1:6379, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise WinnowError(
            f"no Ray cluster can be reached at {address} ({error}); start one with `ray start --head`, or give its address."
        ) from error
