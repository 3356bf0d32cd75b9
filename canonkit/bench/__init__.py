"""Speed and memory: networks against the formulation that the published systems run, canonicalizers of images."""

from canonkit.bench.images import bench_images, describe_images
from canonkit.bench.molecules import bench_qm9, describe

__all__ = ["bench_images", "bench_qm9", "describe", "describe_images"]
