r"""Is it really a canonicalizer? A certificate in numbers.

For random g = (rotation, translation):   error = max_i |c(g x)_i - c(x)_i|      (zero if h is equivariant)
                                          and permutations, where h orders atoms
order pi of the atoms:                    pi^-1 c(pi x) = c(x), where h leaves the order alone
once more:                                c(c(x)) = c(x)
mirror image m x:                         handed if c(m x) != c(x) for every molecule that is not planar
noise e of 0.01 Å:                        a jump if h(x + e) and h(x) differ by more than 30 degrees

A slice of SO(3) cannot be continuous everywhere, so some jumps cannot be avoided; the certificate says how many there
are.

For images and g_k in C_K:  it follows if h(g_k x) = g_k h(x), so that c(x) returns to itself up to interpolation,
                            whose own error is |g_k^-1 g_k x - x|; quarter turns need none.
"""

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from canonkit.canonicalizers.base import Canonicalizer
from canonkit.canonicalizers.image import ImageCanonicalizer
from canonkit.certificates.law import LawCertificate, certify_law
from canonkit.groups import cosine_between, disk, haar_rotations, random_permutations, rotate
from canonkit.molecules import Molecules
from canonkit.tables import Printed, html_table

NOISE = 0.01  # Å
JUMP = 30.0  # degrees
PLANAR = 0.05  # Å; molecules whose atoms all lie this near a plane are their own mirror image
SAME = 0.01  # Å; canonical poses that differ by less are one pose: rounding is far less in float64
MEANING = {
    "molecules": "tried",
    "max_error": "by which an atom of c(x) moves at most when the molecule is turned{} before",
    "ambiguous_share": "flagged: too symmetric or too small for one clear pose",
    "handed": "whether mirror images keep poses of their own, as in SO(3)",
    "jump_share": "poses that turn by more than 30° when atoms move by 0.01 Å",
    "max_error_ambiguous": "the same as the max error, of flagged molecules",
    "idempotence_error": "by which a canonical pose moves at most when canonicalized again",
    "order_error": "by which an atom of c(x) moves at most when the atoms are reordered before",
    "reordered_share": "whose atoms change order when they move by 0.01 Å",
    "dtype": "of the test",
    "draws": "random turns of each molecule",
}


@dataclass(frozen=True)
class Certificate(Printed):
    """What `certify` measured.

    Args:
        molecules: how many were tried.
        max_error: largest |c(gx) - c(x)| in Å over atoms and molecules that are not flagged.
        ambiguous_share: share of molecules flagged as ambiguous.
        handed: True if mirror images are kept apart.
        jump_share: share of molecules, not flagged, whose pose jumps under 0.01 Å noise.
        max_error_ambiguous: largest error over flagged molecules, in Å.
        idempotence_error: largest |c(c(x)) - c(x)| in Å over molecules that are not flagged.
        order_error: largest |pi^-1 c(pi x) - c(x)| in Å over molecules that are not flagged; None where h orders atoms.
        reordered_share: share of molecules, not flagged, whose atoms change order under that noise; None where h leaves
            the order alone.
        dtype: floating-point type of the test.
        draws: random group elements per molecule.
    """

    molecules: int
    max_error: float
    ambiguous_share: float
    handed: bool
    jump_share: float
    max_error_ambiguous: float
    idempotence_error: float
    order_error: float | None
    reordered_share: float | None
    dtype: str
    draws: int

    @property
    def passed(self) -> bool:
        """Whether turned and reordered molecules have one canonical pose, to 0.01 Å, where it is clear."""
        return self.ambiguous_share < 1 and self.max_error < SAME and (self.order_error or 0) < SAME

    @property
    def verdict(self) -> str:
        """Yes or no in a line, and how often the pose is not clear."""
        if self.passed:
            group = "rotations" if self.order_error is not None else "rotations and permutations"
            shares = f"{self.ambiguous_share:.1%} ambiguous, {self.jump_share:.1%} jump"
            return f"a canonicalizer of {group}: yes; {shares}"
        if self.ambiguous_share == 1:
            return "no: all molecules are ambiguous, so nothing is shown"
        if self.max_error >= SAME:
            how = "turned" if self.reordered_share is None else "turned and reordered"
            return f"no: {how} molecules differ by {self.max_error:.2g} Å"
        return f"no: reordered molecules differ by {self.order_error:.2g} Å"

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"{name}: {value}  ({why})" for name, value, why in self._explained())])

    def _repr_html_(self) -> str:
        return html_table([self.verdict, "", ""], self._explained())

    def _explained(self) -> list[tuple[str, object, str]]:
        both = "" if self.reordered_share is None else " and reordered"
        return [(name.replace("_", " "), value, MEANING[name].format(both)) for name, value in self._rows()]

    def _text(self):
        text = {
            "max_error": f"{self.max_error:.2e} Å",
            "max_error_ambiguous": f"{self.max_error_ambiguous:.2e} Å",
            "idempotence_error": f"{self.idempotence_error:.2e} Å",
            "ambiguous_share": f"{self.ambiguous_share:.2%}",
            "jump_share": f"{self.jump_share:.2%}",
        }
        if self.reordered_share is None:
            text["order_error"] = f"{self.order_error:.2e} Å"
        else:
            text["reordered_share"] = f"{self.reordered_share:.2%}"
        return text


@dataclass(frozen=True)
class ImageCertificate(Printed):
    """What `certify` measured on images; shares and errors are over those that are not flagged.

    Args:
        images: how many were tried.
        order: K.
        followed_share: share of turns by 360 k / K, k random, that h follows: h(g_k x) = g_k h(x).
        pixel_error: root mean square of c(g_k x) - c(x) over the pixels of the inscribed disk, where h follows.
        pixel_error_all: the same over all turns.
        interpolation_error: the same of g_k^-1 g_k x - x, which does not depend on the canonicalizer.
        quarter_share: share of images for which h follows all quarter turns.
        quarter_error: largest |c(g x) - c(x)| of a pixel under quarter turns that h follows.
        ambiguous_share: share of images flagged as ambiguous.
        dtype: floating-point type of the test.
        draws: random turns per image.
    """

    images: int
    order: int
    followed_share: float
    pixel_error: float
    pixel_error_all: float
    interpolation_error: float
    quarter_share: float
    quarter_error: float
    ambiguous_share: float
    dtype: str
    draws: int

    def _text(self):
        shares = ("followed_share", "quarter_share", "ambiguous_share")
        text = {name: f"{getattr(self, name):.2%}" for name in shares}
        return text | {k: f"{v:.2g}" for k, v in asdict(self).items() if k.endswith(("_error", "_all"))}


def certify(
    system: Canonicalizer | nn.Module,
    data: Molecules | Tensor,
    *,
    draws: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    batch_size: int = 256,
) -> Certificate | ImageCertificate | LawCertificate:
    """Measures on data of your choice whether a canonicalizer is one, or a denoiser equivariant in law.

    Args:
        system: a canonicalizer of molecules or images; or a denoiser of molecules, for which see
            `certify_law`. A copy is tested, in eval mode and in `dtype`.
        data: samples to test it on.
        draws: random group elements per sample, by default 2; for a denoiser outputs on either side, by default 128.
        dtype: in float64 rounding is small, so that what is left is an error of the method.
        seed: of the group elements and noise.
        batch_size: samples at a time.

    Raises:
        ValueError: no data; images for a canonicalizer of molecules, or the other way round.
    """
    if not len(data):
        raise ValueError("no data given to certify on")
    of_images = isinstance(system, ImageCanonicalizer)
    if of_images != isinstance(data, Tensor):
        kinds = ("images", "molecules") if of_images else ("molecules", "images")
        raise ValueError(f"{type(system).__name__} is for {kinds[0]}, and these are {kinds[1]}")
    system = copy.deepcopy(system).eval().to(dtype)
    if isinstance(system, ImageCanonicalizer) and isinstance(data, Tensor):
        return _certify_images(system, data, draws or 2, dtype, seed, batch_size)
    assert isinstance(data, Molecules)
    if not isinstance(system, Canonicalizer):
        return certify_law(system, data.to(dtype), draws=draws or 128, seed=seed, batch_size=batch_size)
    return _certify_molecules(system, data, draws or 2, dtype, seed, batch_size)


@torch.no_grad()
def nearest_jump(h: Canonicalizer, molecule: Molecules, *, draws: int = 32, seed: int = 0) -> float:
    """The smallest noise in Å found to turn the pose of a molecule (a batch of one) by more than 30 degrees.

    Tries `draws` directions of Gaussian noise at 0.001, 0.002, 0.004, ... 0.512 Å per coordinate; infinite where none
    does. Small values mean that the molecule lies near a discontinuity of h.
    """
    scales = 0.001 * 2.0 ** torch.arange(10)
    generator = torch.Generator().manual_seed(seed)
    x = molecule.positions
    noise = torch.randn(draws, *x.shape[1:], generator=generator).to(x)
    noisy = x + (scales.to(x)[:, None, None, None] * noise).flatten(0, 1) * molecule.mask[..., None]
    batch = molecule[[0] * len(noisy)].with_(positions=noisy)
    jumped = _jumped(h(batch).g, h(molecule).g).view(len(scales), draws).any(1)
    return float(scales[jumped][0]) if jumped.any() else float("inf")


def _jumped(g: Tensor, other: Tensor) -> Tensor:
    """Whether two rotations differ by more than 30 degrees, (B,)."""
    return cosine_between(g, other) < torch.cos(torch.deg2rad(torch.tensor(JUMP)))


@torch.no_grad()
def _certify_images(h: ImageCanonicalizer, images: Tensor, draws, dtype, seed, batch_size) -> ImageCertificate:
    K, inside = h.order, disk(images.shape[-1]).to(dtype)
    generator = torch.Generator().manual_seed(seed)

    def size(gap: Tensor) -> Tensor:  # mean square over the disk
        return (gap.square() * inside).sum((1, 2, 3)) / inside.sum()

    followed, errors, interpolation, quarters, flags, exact = [], [], [], [], [], 0.0
    for x in images.to(dtype).split(batch_size):
        c = h(x)
        clear = ~c.ambiguous
        flags.append(c.ambiguous)
        for _ in range(draws):
            k = torch.randint(1, K, (len(x),), generator=generator)
            degrees = 360 * k / K
            turned = rotate(x * inside, degrees)
            other = h(turned)
            followed.append((other.g == (c.g + k) % K)[clear])
            errors.append(size(other.x - c.x)[clear])
            interpolation.append(size(rotate(turned, -degrees) - x * inside)[clear])
        all_quarters = clear.clone()
        for quarter in (1, 2, 3):
            other = h(rotate(x, 90.0 * quarter))
            right = other.g == (c.g + quarter * K // 4) % K
            all_quarters &= right
            gap = (other.x - c.x).abs().amax((1, 2, 3))[right & clear]
            exact = max(exact, float(gap.max()) if len(gap) else 0.0)
        quarters.append(all_quarters[clear])
    right, error, flagged = torch.cat(followed), torch.cat(errors), torch.cat(flags)

    def root(values: Tensor) -> float:
        return float(values.mean().sqrt()) if len(values) else 0.0

    def share(values: Tensor) -> float:
        return float(values.double().mean()) if len(values) else 0.0

    return ImageCertificate(
        images=len(images),
        order=K,
        followed_share=share(right),
        pixel_error=root(error[right]),
        pixel_error_all=root(error),
        interpolation_error=root(torch.cat(interpolation)),
        quarter_share=share(torch.cat(quarters)),
        quarter_error=exact,
        ambiguous_share=share(flagged),
        dtype=str(dtype).removeprefix("torch."),
        draws=draws,
    )


@torch.no_grad()
def _certify_molecules(h: Canonicalizer, molecules: Molecules, draws, dtype, seed, batch_size) -> Certificate:
    generator = torch.Generator().manual_seed(seed)
    shuffler = torch.Generator().manual_seed(seed + 1)
    errors, again, flags, handed, jumps, reordered, felt = [], [], [], [], [], [], []
    order = torch.argsort(molecules.sizes)
    for rows in order.split(batch_size):
        x = molecules[rows].trim().to(dtype)
        c = h(x)

        def away(other, mask=x.mask, c=c):
            gap = torch.linalg.vector_norm(other.positions - c.x.positions, dim=-1)
            return (gap * mask).amax(1)

        error = torch.zeros(len(x), dtype=dtype)
        for _ in range(draws):
            g = haar_rotations(len(x), generator=generator, dtype=dtype)
            shift = 5 * torch.randn(len(x), 3, generator=generator, dtype=dtype)
            y = x.act(g).translate(shift)
            if c.order is not None:
                y = y.permute(random_permutations(x.mask, generator=generator))
            error = torch.maximum(error, away(h(y).x))
        mirrored = x.with_(positions=x.positions * x.positions.new_tensor([1, 1, -1]))
        thickness = torch.linalg.svdvals(x.centred().positions)[:, -1] if x.mask.shape[1] >= 3 else error * 0
        # Where h permutes atoms but never mirrors, only mirror images that are one molecule share c(x).
        apart = away(h(mirrored).x) > PLANAR / 5 if c.order is None else torch.linalg.det(c.g) > 0
        noise = NOISE * torch.randn(x.positions.shape, generator=generator, dtype=dtype)
        noisy = h(x.with_(positions=x.positions + noise * x.mask[..., None]))
        errors.append(error)
        again.append(away(h(c.x).x))
        flags.append(c.ambiguous)
        handed.append(apart | (thickness < PLANAR) | c.ambiguous)
        jumps.append(_jumped(noisy.g, c.g))
        if c.order is not None:
            reordered.append(((noisy.order != c.order) & x.mask).any(1))
        else:
            pi = random_permutations(x.mask, generator=shuffler)
            felt.append(away(h(x.permute(pi)).x.permute(pi.argsort(1))))
    error, flagged = torch.cat(errors), torch.cat(flags)
    clear = ~flagged

    def largest(values: Tensor, part: Tensor) -> float:
        return float(values[part].max()) if part.any() else 0.0

    def share(values: list[Tensor]) -> float:
        return float(torch.cat(values)[clear].double().mean()) if clear.any() else 0.0

    return Certificate(
        molecules=len(molecules),
        max_error=largest(error, clear),
        ambiguous_share=float(flagged.double().mean()),
        handed=bool(torch.cat(handed).all()),
        jump_share=share(jumps),
        max_error_ambiguous=largest(error, flagged),
        idempotence_error=largest(torch.cat(again), clear),
        order_error=largest(torch.cat(felt), clear) if felt else None,
        reordered_share=share(reordered) if reordered else None,
        dtype=str(dtype).removeprefix("torch."),
        draws=draws,
    )
