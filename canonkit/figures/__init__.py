"""Figures: take data, return a matplotlib Figure, keep no global state.

draw              ball-and-stick drawings, projected along z of whatever frame the molecules stand in
pose_profile      four numbers of pose as figures: planar molecules, long axes, ranks of atoms, distance of clouds
pose_jumps        where pose and order jump while a molecule changes little by little
composition       how many atoms sets of molecules have, and which elements
property_map      molecules as points on a map
pose_density      where atoms lie in the coordinate planes, one column per set, to see what a canonicalizer does
idea              orbit, slice, canonical pose and three ways to treat a symmetry, for the README
noising           one molecule at several times of the forward process
image_rows        rows of images, one per named set
class_means       mean image of every digit, one row per named set, and what is left to learn per pixel
angle_histogram   how angles are spread over the circle, by class
activations       a digit, its canonical image and the activation over the group
vector_fields     maps of the plane to itself, as arrows
rotations         poses as points of the group, and where they jump
quotient          orbits of the plane, their fold onto a slice, and the quotient space
rotation_law      how rotations are spread over their group
periodic_boxes    particles in a periodic box, some configurations and all together
clouds, densities points, and densities with their scores, in the plane
shape_maps        values on a sphere of shapes: where a slice jumps
error_curves      errors against numbers of samples
training_curves   loss terms, validation and stability of one or several runs
stable_by_budget  stable molecules of several runs at several budgets
shares            what is measured of several models, as bars with deviations
when_it_pays      what poses do for networks, against molecules to learn from and budget
stability_steps   stability against network evaluations
velocity_curves   the part of a flow's velocity that cannot be predicted, against time
"""

from canonkit.figures.base import Picture
from canonkit.figures.data import composition
from canonkit.figures.group import quotient, rotations
from canonkit.figures.idea import idea
from canonkit.figures.images import activations, angle_histogram, class_means, image_rows
from canonkit.figures.molecules import draw, noising, pose_density
from canonkit.figures.periodic import periodic_boxes
from canonkit.figures.plane import clouds, densities, error_curves, shape_maps
from canonkit.figures.poses import pose_jumps, pose_profile, property_map
from canonkit.figures.symmetry import rotation_law, vector_fields
from canonkit.figures.training import (
    shares,
    stability_steps,
    stable_by_budget,
    training_curves,
    velocity_curves,
    when_it_pays,
)

__all__ = [
    "Picture",
    "activations",
    "angle_histogram",
    "class_means",
    "clouds",
    "composition",
    "densities",
    "draw",
    "error_curves",
    "idea",
    "image_rows",
    "noising",
    "periodic_boxes",
    "pose_density",
    "pose_jumps",
    "pose_profile",
    "property_map",
    "quotient",
    "rotation_law",
    "rotations",
    "shape_maps",
    "shares",
    "stability_steps",
    "stable_by_budget",
    "training_curves",
    "vector_fields",
    "velocity_curves",
    "when_it_pays",
]
