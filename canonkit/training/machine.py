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
    """Whether bfloat16 products are faster than float32 ones there: on GPUs from Ampere on, and on some CPUs.

    AVX512-BF16 is not enough: AMD's doubles the rate of products, Intel's was measured to halve it, and there only AMX
    is faster.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    supports = {k: getattr(torch.cpu, f"_is_{k}_supported", lambda: False)() for k in ("amx_tile", "avx512_bf16")}
    return supports["amx_tile"] or (supports["avx512_bf16"] and _cpu("vendor_id") == "AuthenticAMD")


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


def _cpu(entry: str) -> str | None:
    """What Linux says of the processor, such as its vendor_id; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(entry)), None)


def hardware(device: torch.device) -> str:
    """The machine in one line, for cards and logs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu("model name") or platform.processor() or platform.machine()
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
    own = torch.Generator(device).manual_seed(0)  # the caller's random numbers stay as they are
    a = torch.randn(n, n, device=device, dtype=dtype, generator=own)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds[1:])
