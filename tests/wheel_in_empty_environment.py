"""`make wheel-check`: build the wheel, install it in an empty environment, run the README's first block there.

Not part of `make test`: installing torch and all else anew takes minutes. Its short version is
tests/end_to_end/test_wheel.py.
"""

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    code, expected = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL).groups()
    with tempfile.TemporaryDirectory() as folder:
        clone, empty = Path(folder, "clone"), Path(folder, "empty")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        venv.create(empty, with_pip=True)
        python = str(empty / "bin" / "python")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, str(clone)], check=True)
        (wheel,) = Path(folder).glob("winnow_ir-*.whl")
        pinned = ["torch==2.13.0", "--constraint", str(clone / "constraints.txt")]
        subprocess.run([*pip, "install", *pinned, str(wheel)], check=True)
        printed = subprocess.run(
            [python, "-I", "-c", code], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    print(printed, end="")
    if printed != expected:
        sys.exit(f"the README shows\n{expected}")
    print(f"{wheel.name} runs the README's first block in an empty environment")


if __name__ == "__main__":
    main()
