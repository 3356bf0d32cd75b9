"""A slider that turns an image while its canonical image stays put."""

import torch

from canonkit.canonicalizers import ImageCanonicalizer
from canonkit.figures import activations
from canonkit.groups import rotate


def turn_image(canonicalizer: ImageCanonicalizer, images: torch.Tensor):
    """Shows a slider for the angle, one for the image, and below x, c(x) and the activations; returns the sliders' box.

    Args:
        canonicalizer: in eval mode.
        images: to choose from, (B, 1, H, H).

    The picture is an ordinary output that the sliders redraw, so that it stays in the saved notebook.
    """
    import ipywidgets
    from IPython.display import display

    angle = ipywidgets.IntSlider(0, 0, 360, 1, description="turn by (°)", continuous_update=True)
    which = ipywidgets.IntSlider(0, 0, len(images) - 1, 1, description="image")

    def picture():
        x = images[which.value : which.value + 1].cpu()
        return activations(canonicalizer, rotate(x, float(angle.value))[0])

    box = ipywidgets.HBox([angle, which])
    display(box)
    handle = display(picture(), display_id=True)
    for slider in (angle, which):
        slider.observe(lambda change: handle.update(picture()), names="value")
    return box
