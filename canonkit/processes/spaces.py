r"""What a process needs to know of a kind of data: how it becomes a tensor z, its noise, its likelihood at time 0.

    Euclidean       plain tensors (B, ...), every entry a continuous coordinate
    ImageSpace      z = 2 x - 1 for images x (B, C, H, H) in [0, 1], turned at random by uniform angles
    MoleculeSpace   z_i = [x_i, one-hot(a_i) / 4, Z_i / 10]: positions in Å with the mean removed, types, atomic number

A process is written once on z; centring, masks, discrete likelihoods and the group that acts live here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from canonkit.groups import haar_orthogonal, haar_rotations, random_permutations, rotate
from canonkit.molecules import ELEMENTS, Molecules
from canonkit.randomness import Source, normal, uniform


class Euclidean:
    """Plain tensors of a fixed shape (...) per sample."""

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)
        self.parts = {"coordinates": slice(None)}  # of the last axis, by the name under which the loss is logged
        self.discrete: tuple[str, ...] = ()  # the parts that have no density
        self.size = math.prod(self.shape)  # what squared errors are divided by in training

    bounds: tuple[float, float] | None = None  # of z's entries, where they have some
    network_options: Mapping[str, int] = {}  # what a network must be told beside z's features

    def cat(self, batches: Sequence[Tensor]):
        """Batches of samples as one."""
        return torch.cat(list(batches))

    def randomize(self, x: Tensor, generator: Source | None = None):
        """g x with g drawn from the uniform measure of the group that acts on such data; here none does."""
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """z (B, ...) and the mask, None where nothing is padded."""
        return x, None

    def decode(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """The data that z stands for."""
        return z

    def blank(self, sizes: Tensor) -> tuple[Tensor, Tensor | None]:
        """A zero z and its mask for samples of the given sizes (B,), for sampling to fill with noise."""
        return torch.zeros(len(sizes), *self.shape, device=sizes.device), None

    def project(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """z projected to the subspace that data and noise live in."""
        return z

    def noise(self, z: Tensor, mask: Tensor | None, generator: Source | None = None) -> Tensor:
        """Gaussian noise of that subspace, shaped like z, drawn where the generator lives."""
        return self.project(normal(tuple(z.shape), generator, z.device, z.dtype), mask)

    def freedom(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """Degrees of freedom of the continuous coordinates, (B,)."""
        return torch.full((len(z),), float(self.size), device=z.device)

    def all_freedom(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """Degrees of freedom of z in all, (B,)."""
        return self.freedom(z, mask)

    def continuous(self, z: Tensor) -> Tensor:
        """The entries with a density; the others have a discrete likelihood."""
        return z

    def discrete_log_likelihood(self, z: Tensor, z_0: Tensor, sigma_0: Tensor, mask: Tensor | None) -> Tensor:
        """log p(discrete entries of z | z_0), (B,) nats."""
        return z.new_zeros(len(z))


class ImageSpace(Euclidean):
    """Images (B, C, H, H) with values in [0, 1], on which SO(2) acts.

    Args:
        shape: (C, H, H).
        unit: z is the image as it is, in [0, 1]; otherwise z = 2 x - 1. The same noise hides more of the former.
    """

    def __init__(self, shape: Sequence[int], unit: bool = False):
        super().__init__(shape)
        self.unit, self.bounds = unit, (0.0 if unit else -1.0, 1.0)

    def randomize(self, x: Tensor, generator: Source | None = None) -> Tensor:
        """Images turned by angles uniform on the circle."""
        return rotate(x, 360 * uniform((len(x),), generator, x.device))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return x if self.unit else 2 * x - 1, None

    def decode(self, z: Tensor, mask: Tensor | None) -> Tensor:
        return (z if self.unit else (z + 1) / 2).clamp(0, 1)


class MoleculeSpace(Euclidean):
    """Molecules as z (B, N, 3 + K + 1) for K elements, EDM's features and scales.

    Args:
        elements: the element table.
        atoms: the longest molecule, by which training losses are divided.
        reflections: whether O(3) acts on them, and not SO(3) alone.
    """

    TYPE_SCALE, CHARGE_SCALE = 4.0, 10.0

    def __init__(self, elements: Sequence[str] = ELEMENTS, atoms: int = 29, reflections: bool = False):
        self.elements, self.reflections = tuple(elements), reflections
        k = len(self.elements)
        self.features = 3 + k + 1
        self.parts = {"positions": slice(0, 3), "types": slice(3, 3 + k), "numbers": slice(3 + k, 4 + k)}
        self.discrete = ("types", "numbers")
        self.size = atoms * self.features

    def cat(self, batches: Sequence[Molecules]) -> Molecules:
        return Molecules.cat(batches)

    def randomize(self, x: Molecules, generator: Source | None = None) -> Molecules:
        """Molecules turned by Haar rotations, some mirrored where O(3) acts, their atoms in random order."""
        draw = haar_orthogonal if self.reflections else haar_rotations
        turned = x.act(draw(len(x), generator=generator, device=x.device, dtype=x.positions.dtype))
        return turned.permute(random_permutations(x.mask, generator=generator))

    def encode(self, x: Molecules) -> tuple[Tensor, Tensor | None]:
        if x.elements != self.elements:
            raise ValueError(f"the molecules' elements {x.elements} are not the model's {self.elements}")
        z, mask = self._entries(x), x.padding
        return self.project(z if mask is None else z * mask[..., None], mask), mask

    def _entries(self, x: Molecules) -> Tensor:
        one_hot = torch.nn.functional.one_hot(x.types, len(self.elements)) / self.TYPE_SCALE
        return torch.cat(
            [x.positions, one_hot.to(x.positions), (x.numbers / self.CHARGE_SCALE)[..., None].to(x.positions)], -1
        )

    def decode(self, z: Tensor, mask: Tensor | None) -> Molecules:
        """Positions, and the type whose one-hot entry is largest."""
        if mask is None:
            mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        types = z[..., self.parts["types"]].argmax(-1) * mask
        return Molecules(z[..., :3] * mask[..., None], types, mask, self.elements)

    def blank(self, sizes: Tensor) -> tuple[Tensor, Tensor | None]:
        longest = int(sizes.max())
        mask = torch.arange(longest, device=sizes.device) < sizes[:, None]
        z = torch.zeros(len(sizes), longest, self.features, device=sizes.device)
        return z, None if bool(mask.all()) else mask

    def project(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """Zero at padding, positions with the mean over real atoms removed."""
        if mask is None:
            mean = z[..., :3].mean(1, keepdim=True)
            return torch.cat([z[..., :3] - mean, z[..., 3:]], dim=-1)
        m = mask[..., None].to(z.dtype)
        mean = (z[..., :3] * m).sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([z[..., :3] - mean, z[..., 3:]], dim=-1) * m

    def _atoms(self, z: Tensor, mask: Tensor | None) -> Tensor:
        n = mask.sum(1) if mask is not None else torch.full((len(z),), z.shape[1], device=z.device)
        return n.to(z.dtype)

    def freedom(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """3 (n - 1): the mean is fixed."""
        return 3 * (self._atoms(z, mask) - 1)

    def all_freedom(self, z: Tensor, mask: Tensor | None) -> Tensor:
        return self.freedom(z, mask) + (self.features - 3) * self._atoms(z, mask)

    def continuous(self, z: Tensor) -> Tensor:
        return z[..., :3]

    def discrete_log_likelihood(self, z: Tensor, z_0: Tensor, sigma_0: Tensor, mask: Tensor | None) -> Tensor:
        """The mass that N(z_0, sigma_0^2), in units of the feature, puts within 1/2 of each value (EDM, appendix)."""
        keep = 1.0 if mask is None else mask.to(z.dtype)

        def log_mass(value: Tensor, scale: float) -> Tensor:
            width = (scale * sigma_0).to(z.dtype)
            cdf = torch.special.ndtr
            return torch.log(cdf((value + 0.5) / width) - cdf((value - 0.5) / width) + 1e-10)

        numbers, types = self.parts["numbers"], self.parts["types"]
        charge = log_mass((z - z_0)[..., numbers] * self.CHARGE_SCALE, self.CHARGE_SCALE).squeeze(-1)
        per_class = log_mass(1 - z_0[..., types] * self.TYPE_SCALE, self.TYPE_SCALE).log_softmax(-1)
        chosen = per_class.gather(-1, z[..., types].argmax(-1, keepdim=True)).squeeze(-1)
        return ((charge + chosen) * keep).sum(1)
