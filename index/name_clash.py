"""Two distributions cannot own the import name `kernels`: say so instead of failing somewhere inside torch code."""

from importlib.metadata import PackageNotFoundError, version


def refuse_other_kernels_package() -> None:
    """Raise ImportError where the Hugging Face distribution `kernels` is installed beside this one."""
    try:
        other = version("kernels")
    except PackageNotFoundError:
        return
    raise ImportError(
        f"The Hugging Face package kernels {other} is installed and winnow-ir needs the import name `kernels` for its "
        "own code: run `pip uninstall kernels`, then `pip install --force-reinstall --no-deps winnow-ir`, or give "
        "winnow-ir an environment of its own."
    )
