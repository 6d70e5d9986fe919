"""Triton kernels without a GPU: what a launcher passes is recorded and compiled for sm_90 as Triton would have specialised it."""

import os
import re
import subprocess
from pathlib import Path

import torch
import triton

NO_SPILLS = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
SHARED_MEMORY = 227 * 1024  # bytes that one program of sm_90 can have

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
}


class Recorder:
    """Stands where a kernel stood and keeps what it is launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.launches.append((self.kernel, arguments, options))


def recorded(modules, monkeypatch):
    """The launches, from now on, of all kernels that these modules define."""
    launches = []
    for module in modules:
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Recorder(getattr(module, name), launches))
    return launches


def spilled_bytes(report):
    """The largest of the stack frame, stores and loads that ptxas tells of."""
    return max(
        map(
            int,
            re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report).groups(),
        )
    )


def type_of(value):
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, int):
        return "i32" if value < 2**31 else "i64"
    return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"


def compiled(kernel, arguments, options):
    """The kernel for sm_90, and ptxas's report on it."""
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = type_of(value)
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if isinstance(address, int) and address % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    for name in kernel.arg_names[len(arguments) :]:
        signature[name], constants[name] = "constexpr", options[name]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    sizes = {name: options[name] for name in ("num_warps", "num_stages", "maxnreg") if options.get(name)}
    result = triton.compile(source, target=target, options=sizes)
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [ptxas, "-v", "-lineinfo", "--regAllocOptLevel=2", "--gpu-name=sm_90a", "-", "-o", os.devnull]
    report = subprocess.run(command, input=result.asm["ptx"], capture_output=True, text=True, check=True).stderr
    return result, report
