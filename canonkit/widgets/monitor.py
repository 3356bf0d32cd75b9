"""A live training curve for notebooks: one picture that is redrawn in place and stays in the saved notebook."""

import time

from canonkit.figures import training_curves


class Monitor:
    """Pass it as `monitor=` to `canonkit.train`; it redraws at most every `every` seconds.

    Args:
        name: of the run, in the legend.
        every: seconds between pictures.
    """

    def __init__(self, name: str = "training", every: float = 5.0):
        self.name, self.every = name, every
        self._handle, self._drawn = None, 0.0

    def __call__(self, entries: list[dict]) -> None:
        if time.monotonic() - self._drawn < self.every and entries[-1]["kind"] == "train":
            return
        from IPython.display import display

        figure = training_curves({self.name: entries})
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
        self._drawn = time.monotonic()
