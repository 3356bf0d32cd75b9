"""h: X -> G. One file per canonicalizer; `canonicalizer(name)` makes one by the name used in recipes and on the CLI."""

from typing import Any

from canonkit.canonicalizers.base import Canonical, Canonicalizer
from canonkit.canonicalizers.frame import Frame
from canonkit.canonicalizers.identity import Identity
from canonkit.canonicalizers.image import GCNN, Arbitrary, Copies, ImageCanonicalizer
from canonkit.canonicalizers.inertial import Inertial
from canonkit.canonicalizers.order import Ordered, SmilesKey, SpectralKey
from canonkit.canonicalizers.spectral import SpectralPose
from canonkit.names import choose

BY_NAME = {
    "identity": Identity,
    "inertial": Inertial,
    "frame": Frame,
    "spectral-pose": SpectralPose,
    # of S_n x SE(3): a pose, and an order of atoms
    "spectral": lambda: Ordered(SpectralPose(), SpectralKey()),
    "inertial-spectral": lambda: Ordered(Inertial(), SpectralKey()),
    "frame-spectral": lambda **settings: Ordered(Frame(**settings), SpectralKey()),
    "inertial-smiles": lambda: Ordered(Inertial(), SmilesKey()),
}
OF_IMAGES = {"gcnn": GCNN, "copies": Copies, "arbitrary": Arbitrary}  # with the order K behind: gcnn16
NAMES = (*BY_NAME, *(f"{name}{K}" for name in OF_IMAGES for K in (8, 16, 32)))


def canonicalizer(name: str, **settings: Any) -> Canonicalizer:
    """A canonicalizer by name.

    Of molecules: identity, inertial (principal axes), frame (a network with random weights), spectral-pose; with an
    order of atoms spectral, inertial-spectral, frame-spectral, inertial-smiles. Of images: gcnnK, copiesK, arbitraryK,
    with K the number of turns, such as copies16; their weights are random too. Trained canonicalizers are parts of
    trained models: `ck.load("canon+GDM").model.canonicalizer`.

    Args:
        name: one of these.
        settings: of its class; for a frame on molecules that are not QM9's also `elements=molecules.elements`.

    Raises:
        ValueError: for a name that is none of these.
    """
    if name in BY_NAME:
        return BY_NAME[name](**settings)
    kind = name.rstrip("0123456789")
    if kind not in OF_IMAGES or kind == name:
        raise ValueError(f"no canonicalizer is called {name!r}: {choose(name, NAMES)}")
    return OF_IMAGES[kind](int(name.removeprefix(kind)), **settings)


__all__ = [
    "GCNN",
    "Arbitrary",
    "Canonical",
    "Canonicalizer",
    "Copies",
    "Frame",
    "Identity",
    "ImageCanonicalizer",
    "Inertial",
    "Ordered",
    "SmilesKey",
    "SpectralKey",
    "SpectralPose",
    "canonicalizer",
]
