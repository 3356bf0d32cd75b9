"""The machine: what device there is, how fast it is, and how much memory is used."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path

import torch


def best_device() -> torch.device:
    """CUDA where there is one, else Apple's mps, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones there: GPUs from Ampere on, CPUs with AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def fast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What `Settings.precision` means there for a network's `fast_dtype`.

    Raises:
        ValueError: for a precision that is not auto, float32 or bfloat16.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is not auto, float32 or bfloat16")
    fast = precision == "bfloat16" or (precision == "auto" and native_bfloat16(device))
    return torch.bfloat16 if fast else None


def set_precision(model: torch.nn.Module, precision: str) -> torch.dtype | None:
    """Tells the parts of a model on its device which dtype `Settings.precision` means; returns that."""
    fast = fast_dtype(precision, next(model.parameters()).device)
    for part in model.children():
        if hasattr(part, "fast_dtype"):
            setattr(part, "fast_dtype", fast)  # noqa: B010 (torch types attributes as modules)
    return fast


def hardware(device: torch.device) -> str:
    """The machine in one line, for cards and logs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}" + (" (mps)" if device.type == "mps" else "")


def peak_memory(device: torch.device) -> int:
    """The most memory in bytes that this process has used so far, on a CUDA device what its tensors have."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # not ru_maxrss, which begins at the memory of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if platform.system() == "Darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matmul_rate(device: torch.device, dtype: torch.dtype, n: int = 2048) -> float:
    """Floating-point operations per second of a square matrix product, best of five."""
    a = torch.randn(n, n, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds[1:])
