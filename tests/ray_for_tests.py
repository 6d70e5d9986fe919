"""A Ray cluster of two nodes on the loopback address, started as a user does, one of which can be killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from conftest import ROOT

MARK = "WINNOW_TEST_CLUSTER"  # a variable that all processes of a cluster inherit: only these are ended
PORTS = range(21_379, 21_479)

# one token for all clusters of this process, which reads it once
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"})


def need_ray():
    """Skip, saying so, where Ray is not installed."""
    return pytest.importorskip("ray", reason="NOT RUN: Ray is not installed; pip install 'winnow-ir[ray]'")


class Cluster:
    """Two nodes of two CPUs; a context manager."""

    def __init__(self):
        self.mark, self.temporary = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="wr", dir="/tmp"))  # sockets: short
        self.environment = {
            **os.environ, MARK: self.mark, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.address = ""

    def __enter__(self):
        try:
            for port in PORTS:
                self.address = f"127.0.0.1:{port}"
                more = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.temporary}"]
                if self.start("first", *more).returncode == 0:
                    break
            else:
                raise OSError("no port is free for a cluster")
            second = self.start("second", f"--address={self.address}")
            assert second.returncode == 0, second.stdout + second.stderr
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, name, *arguments):
        command = [str(Path(sys.executable).parent / "ray"), "start", "--num-cpus=2", "--node-ip-address=127.0.0.1",
                   f'--resources={{"{name}": 1}}', "--object-store-memory=100000000", *arguments]  # fmt: skip
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def __exit__(self, *ended):
        for _ in range(3):  # what dies may have started another meanwhile
            for process in self.processes():
                kill(process)
            time.sleep(0.2)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def kill_second(self):
        """SIGKILL for its raylet; the workers find out by themselves."""
        (raylet,) = [one for one in self.processes() if "/raylet" in command_of(one) and "second,1" in command_of(one)]
        kill(raylet)

    def processes(self):
        """Ids of those that were started for this cluster."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found


def command_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill(process):
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
