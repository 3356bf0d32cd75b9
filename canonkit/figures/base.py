"""What all figures share."""

import io

from matplotlib.figure import Figure

SCREEN = 80  # pixels per inch that a figure takes on a screen


class Picture(Figure):
    """A Figure that a notebook shows by itself, without pyplot and its global state, at twice a screen's resolution."""

    def _repr_png_(self) -> tuple[bytes, dict]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * SCREEN)
        width, height = (SCREEN * self.get_size_inches()).round().astype(int).tolist()
        return buffer.getvalue(), {"width": width, "height": height}


def blank(width: float, height: float) -> Picture:
    return Picture(figsize=(width, height), layout="constrained", facecolor="white")
