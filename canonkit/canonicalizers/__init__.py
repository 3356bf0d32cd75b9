"""h: X -> G. One file per canonicalizer; `canonicalizer(name)` makes one by the name used in recipes and on the CLI."""

from canonkit.canonicalizers.base import Canonical, Canonicalizer
from canonkit.canonicalizers.certificate import Certificate, certify
from canonkit.canonicalizers.frame import Frame
from canonkit.canonicalizers.identity import Identity
from canonkit.canonicalizers.inertial import Inertial

BY_NAME = {"identity": Identity, "inertial": Inertial, "frame": Frame}


def canonicalizer(name: str, **settings) -> Canonicalizer:
    """A canonicalizer by name: identity, inertial, frame.

    Raises:
        ValueError: for a name that is none of these.
    """
    if name not in BY_NAME:
        raise ValueError(f"no canonicalizer is called {name!r}: choose from {', '.join(BY_NAME)}")
    return BY_NAME[name](**settings)


__all__ = ["Canonical", "Canonicalizer", "Certificate", "Frame", "Identity", "Inertial", "canonicalizer", "certify"]
