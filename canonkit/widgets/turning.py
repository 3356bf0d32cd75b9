"""Sliders that turn an image; its canonical image does not move."""

import torch

from canonkit.canonicalizers import ImageCanonicalizer
from canonkit.figures import Picture, activations
from canonkit.groups import rotate


class Turning:
    """Put it last in a cell: two sliders, and below them x, c(x) and the activations, redrawn as they move.

    The picture is an ordinary output, so it stays in the saved notebook.

    Args:
        canonicalizer: in eval mode.
        images: to choose from, (B, 1, H, H) with values in [0, 1].
        angle: to begin with, degrees.
    """

    def __init__(self, canonicalizer: ImageCanonicalizer, images: torch.Tensor, angle: int = 0):
        import ipywidgets

        self.canonicalizer, self.images = canonicalizer, images.cpu()
        self.angle = ipywidgets.IntSlider(angle, 0, 360, description="turn by (°)")
        self.which = ipywidgets.IntSlider(0, 0, len(images) - 1, description="image")

    def picture(self) -> Picture:
        """The figure for where the sliders stand."""
        x = self.images[self.which.value : self.which.value + 1]
        return activations(self.canonicalizer, rotate(x, float(self.angle.value))[0])

    def _ipython_display_(self) -> None:
        import ipywidgets
        from IPython.display import display

        display(ipywidgets.HBox([self.angle, self.which]))
        handle = display(self.picture(), display_id=True)
        for slider in (self.angle, self.which):
            slider.observe(lambda change: handle and handle.update(self.picture()), names="value")
