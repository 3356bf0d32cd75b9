r"""Is it really a canonicalizer? A certificate in numbers.

For random g = (rotation, translation):   error = max_i |c(g x)_i - c(x)_i|      (zero if h is equivariant)
mirror image m x:                         handed if c(m x) != c(x) for every molecule that is not planar
noise e of 0.01 Å:                        a jump if h(x + e) and h(x) differ by more than 30 degrees

A slice of SO(3) cannot be continuous everywhere, so some jumps are inevitable; how many is a property worth knowing.
"""

import copy
from dataclasses import asdict, dataclass

import torch

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.groups import haar_rotations
from canonkit.molecules import Molecules
from canonkit.tables import html_table

NOISE = 0.01  # Å
JUMP = 30.0  # degrees
PLANAR = 0.05  # Å; molecules whose atoms all lie this near a plane are their own mirror image


@dataclass(frozen=True)
class Certificate:
    """What `certify` measured.

    Args:
        molecules: how many were tried.
        max_error: largest |c(gx) - c(x)| in Å over atoms and molecules that are not flagged.
        ambiguous_share: share of molecules flagged as ambiguous.
        handed: True if mirror images are kept apart.
        jump_share: share of molecules, not flagged, whose pose jumps under 0.01 Å noise.
        max_error_ambiguous: largest error over flagged molecules, in Å.
        dtype: floating-point type of the test.
        draws: random group elements per molecule.
    """

    molecules: int
    max_error: float
    ambiguous_share: float
    handed: bool
    jump_share: float
    max_error_ambiguous: float
    dtype: str
    draws: int

    def __str__(self) -> str:
        return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in self._rows())

    def _rows(self):
        d = asdict(self)
        text = {
            "max_error": f"{self.max_error:.2e} Å",
            "max_error_ambiguous": f"{self.max_error_ambiguous:.2e} Å",
            "ambiguous_share": f"{self.ambiguous_share:.2%}",
            "jump_share": f"{self.jump_share:.2%}",
        }
        return [(name, text.get(name, value)) for name, value in d.items()]

    def _repr_html_(self) -> str:
        return html_table(["certificate", ""], [(name.replace("_", " "), value) for name, value in self._rows()])


@torch.no_grad()
def certify(
    canonicalizer: Canonicalizer,
    molecules: Molecules,
    *,
    draws: int = 2,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    batch_size: int = 256,
) -> Certificate:
    """Measures whether a canonicalizer of molecules is one, on molecules of your choice.

    Args:
        canonicalizer: tried in eval mode and in `dtype`; left as it was.
        molecules: where to try it.
        draws: random rotations and translations per molecule.
        dtype: float64 tells the mathematics from rounding.
        seed: of the rotations, translations and noise.
    """
    if not len(molecules):
        raise ValueError("no molecules given to certify on")
    canonicalizer = copy.deepcopy(canonicalizer).eval().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    errors, flags, handed, jumps = [], [], [], []
    order = torch.argsort(molecules.sizes)
    for rows in order.split(batch_size):
        x = molecules[rows].trim().to(dtype)
        c = canonicalizer(x)

        def away(other, mask=x.mask, c=c):
            gap = torch.linalg.vector_norm(other.positions - c.x.positions, dim=-1)
            return (gap * mask).amax(1)

        error = torch.zeros(len(x), dtype=dtype)
        for _ in range(draws):
            g = haar_rotations(len(x), generator=generator, dtype=dtype)
            shift = 5 * torch.randn(len(x), 3, generator=generator, dtype=dtype)
            error = torch.maximum(error, away(canonicalizer(x.act(g).translate(shift)).x))
        mirrored = x.with_(positions=x.positions * x.positions.new_tensor([1, 1, -1]))
        thickness = torch.linalg.svdvals(x.centred().positions)[:, -1] if x.mask.shape[1] >= 3 else error * 0
        apart = away(canonicalizer(mirrored).x) > PLANAR / 5
        noise = NOISE * torch.randn(x.positions.shape, generator=generator, dtype=dtype)
        turned = canonicalizer(x.with_(positions=x.positions + noise * x.mask[..., None])).g.mT @ c.g
        cosine = (turned.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
        errors.append(error)
        flags.append(c.ambiguous)
        handed.append(apart | (thickness < PLANAR) | c.ambiguous)
        jumps.append(cosine < torch.cos(torch.deg2rad(torch.tensor(JUMP))))
    error, flagged, jumped = torch.cat(errors), torch.cat(flags), torch.cat(jumps)
    largest = [float(error[part].max()) if part.any() else 0.0 for part in (~flagged, flagged)]
    return Certificate(
        molecules=len(molecules),
        max_error=largest[0],
        ambiguous_share=float(flagged.double().mean()),
        handed=bool(torch.cat(handed).all()),
        jump_share=float(jumped[~flagged].double().mean()) if (~flagged).any() else 0.0,
        max_error_ambiguous=largest[1],
        dtype=str(dtype).removeprefix("torch."),
        draws=draws,
    )
