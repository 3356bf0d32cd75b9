"""Speed and memory: networks and samples against the published formulation, canonicalizers, systems side by side."""

from canonkit.bench.images import bench_images, describe_images
from canonkit.bench.molecules import bench_qm9, describe
from canonkit.bench.sampling import bench_sampling, describe_sampling
from canonkit.bench.scaling import bench_scaling, describe_scaling
from canonkit.bench.systems import bench_systems, describe_systems

__all__ = [
    "bench_images",
    "bench_qm9",
    "bench_sampling",
    "bench_scaling",
    "bench_systems",
    "describe",
    "describe_images",
    "describe_sampling",
    "describe_scaling",
    "describe_systems",
]
