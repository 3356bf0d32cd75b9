"""A live view of a training for notebooks: pictures that are redrawn in place and stay in the saved notebook."""

import time

from canonkit.figures import draw, training_curves
from canonkit.molecules import Molecules

STRIP = 8  # samples
REACH = 5.0  # Å; early samples reach much farther, and are drawn at the edge
STOP = """<button style="padding: 2px 12px" onclick="this.closest('.jp-NotebookPanel')
  .querySelector('[data-command=&quot;notebook:interrupt-kernel&quot;]').click(); this.disabled = true">
stop, keeping what is done</button> <small>or interrupt the kernel</small>"""


class Monitor:
    """Pass it as `monitor=` to `canonkit.train`; it redraws at most every `every` seconds.

    Curves of what is measured; below them the first eight of the measured samples, which begin with the same noise each
    time, at the last three measures; above them a button that stops the training and keeps what is done.

    Args:
        name: of the run, in the legend.
        every: seconds between pictures.
    """

    def __init__(self, name: str = "training", every: float = 5.0):
        self.name, self.every = name, every
        self._handles, self._drawn, self._seen = {}, 0.0, []

    def __call__(self, entries: list[dict]) -> None:
        if time.monotonic() - self._drawn < self.every and entries[-1]["kind"] == "train":
            return
        if "stop" not in self._handles:
            self._show("stop", STOP)
        self._show("curves", training_curves({self.name: entries}))
        self._drawn = time.monotonic()

    def see(self, step: int, samples) -> None:
        """Shows samples that were made at that step, the same noise each time."""
        if not isinstance(samples, Molecules):
            return
        self._seen = [*self._seen, (step, samples[:STRIP])][-3:]
        count = len(self._seen[-1][1])
        captions = [f"step {step:,}" if k == 0 else "" for step, _ in self._seen for k in range(count)]
        molecules = Molecules.cat([x for _, x in self._seen])
        molecules = molecules.with_(positions=molecules.positions.nan_to_num())  # a model that has learned little
        self._show("samples", draw(molecules, columns=count, captions=captions, size=1.2, reach=REACH))

    def finish(self) -> None:
        """Takes the button away."""
        if "stop" in self._handles:
            self._show("stop", " ")

    def _show(self, name: str, content) -> None:
        from IPython.display import HTML, display

        content = HTML(content) if isinstance(content, str) else content
        if name in self._handles:
            self._handles[name].update(content)
        else:
            self._handles[name] = display(content, display_id=True)
