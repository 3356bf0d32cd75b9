"""Speed and memory of the networks against the formulation that the published systems run: `canonkit bench qm9`."""

from canonkit.bench.measure import bench_qm9, describe

__all__ = ["bench_qm9", "describe"]
