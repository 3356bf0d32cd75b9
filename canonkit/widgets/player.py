"""Generation in 3D: trajectories played in a notebook, with still frames wherever no script runs.

Like `canonkit.show`, the output is a picture and a script: the picture stays in a saved notebook that is not trusted.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from canonkit.figures.base import Picture
from canonkit.figures.molecules import draw, seen_bonds, usual_reach
from canonkit.files import is_offline, replacing
from canonkit.molecules import Molecules
from canonkit.processes.trajectory import Trajectory, spread
from canonkit.widgets import threedmol
from canonkit.widgets.panes import HERE, arrows, scenes, style
from canonkit.widgets.view import HELP, quoted

MOST = 16  # panes


def play(
    trajectory: Trajectory | Mapping[str, Trajectory],
    *,
    axes: bool = True,
    overlay: bool = False,
    columns: int = 4,
    size: int = 220,
    frames: int = 60,
    fps: int = 20,
    stills: int = 6,
) -> Player:
    """Molecules as they condense out of noise, side by side, with a slider; bonds appear as they form.

    Args:
        trajectory: of `run.sample(..., trajectory=True)`, or several by name, as of two models from one noise.
        axes: the axes of the canonical frame, x red, y green, z blue.
        overlay: the molecules of each trajectory over each other in one pane.
        columns: panes per row.
        size: of one pane, in pixels.
        frames: at most so many are kept, evenly spread, noise and samples among them.
        fps: frames per second.
        stills: frames of each molecule in the picture.

    Raises:
        ValueError: images; no samples or more than 16; fewer than two frames; other numbers over each other.
    """
    if frames < 2 or stills < 2:
        raise ValueError(f"frames {frames}, stills {stills}: give two or more, for noise and samples")
    named = trajectory if isinstance(trajectory, Mapping) else {"": trajectory}
    if images := [name for name, path in named.items() if not isinstance(path.samples, Molecules)]:
        raise ValueError(f"trajectory {images[0]!r} is of images: canonkit.figures.image_rows draws its frames")
    if overlay and len({len(path) for path in named.values()}) > 1:
        raise ValueError("trajectories over each other have equally many molecules each: choose as many of every one")
    if not 0 < (count := sum(map(len, named.values()))) <= MOST:
        raise ValueError(f"{count} molecules to play: give 1 to {MOST}, such as trajectory[:4]")
    batches: list[Any] = [x for path in named.values() for x in path.frames]
    elements = tuple(dict.fromkeys(e for x in batches for e in x.elements))
    titles, states = [], []
    for name, path in named.items():
        parts = [path] if overlay else [path[k] for k in range(len(path))]
        for k, part in enumerate(parts):
            titles.append(f"{name} {k + 1}".strip() if len(parts) > 1 else name)
            states.append([plain(x, elements) for x in part.thinned(frames).frames])
    longest = max(map(len, states))
    states = [some + some[-1:] * (longest - len(some)) for some in states]
    return Player(titles, states, axes, columns, size, fps, stills)


def plain(x: Any, elements: tuple[str, ...]) -> Molecules:
    """One state with the bonds that are seen, so that states of all models fit in one batch."""
    x = x.trim().to("cpu").to(torch.float64).centred()
    return Molecules.from_arrays(x.positions, x.numbers, elements=elements, bonds=seen_bonds(x))


@dataclass(frozen=True, eq=False)
class Player:
    """What `play` returns: shows itself in a notebook.

    Args:
        titles: of the panes.
        states: of what is in each pane, equally many.
        axes, columns, size, fps, stills: as of `play`.
    """

    titles: list[str]
    states: list[list[Molecules]]
    axes: bool
    columns: int
    size: int
    fps: int
    stills: int

    def __repr__(self) -> str:
        return f"Player({len(self.frame(0))} molecules, {len(self)} frames: show it last in a notebook's cell)"

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.states[0])

    def frame(self, k: int) -> Molecules:
        """The k-th state of all molecules, those of one pane after the other."""
        return Molecules.cat([states[k] for states in self.states])

    def figure(self) -> Picture:
        """A row of still frames for each molecule, from noise to the sample."""
        if len(self) == 1:
            how = {"columns": self.columns, "captions": self.titles, "axes": self.axes, "overlay": self._each}
            return draw(self.frame(0), **how, size=2.2)  # room for what is said of a pose
        chosen = spread(len(self), self.stills)
        shown = [(title, states, k) for title, states in zip(self.titles, self.states, strict=True) for k in chosen]
        captions = [f"{title}  {k + 1} / {len(self)}".strip() for title, _, k in shown]
        molecules, reach = Molecules.cat([states[k] for _, states, k in shown]), usual_reach(self.frame(-1))
        how = {"columns": len(chosen), "captions": captions, "axes": self.axes, "overlay": self._each}
        return draw(molecules, **how, size=1.6, reach=reach)

    @property
    def _each(self) -> int:
        """Molecules in a pane; 0 for one, so that it is drawn without seeing through it."""
        return len(self.states[0][0]) if len(self.states[0][0]) > 1 else 0

    def save(self, path: str | Path) -> Path:
        """Writes a .gif, an .mp4 (by ffmpeg, or imageio-ffmpeg's) or an .html page that plays without a notebook.

        Raises:
            ValueError: another kind of file, or an .mp4 without ffmpeg.
        """
        path = Path(path)
        if path.suffix == ".html":
            content = self._page(inside=True).encode()
        elif path.suffix == ".gif":
            content = self._gif()
        elif path.suffix == ".mp4":
            content = self._mp4()
        else:
            raise ValueError(f"cannot write {path.suffix or path.name!r}: give a name in .html, .gif or .mp4")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _pictures(self) -> Iterator[Any]:
        from PIL import Image

        how = {
            "columns": self.columns,
            "captions": self.titles if any(self.titles) else None,
            "axes": self.axes,
            "overlay": self._each,
        }
        reach = usual_reach(self.frame(-1))
        for k in range(len(self)):
            figure = draw(self.frame(k), **how, reach=reach, size=2.0)
            yield Image.open(io.BytesIO(figure._repr_png_()[0])).convert("RGB")

    def _gif(self) -> bytes:
        first, *rest = self._pictures()
        buffer = io.BytesIO()
        times = [1000 // self.fps] * len(rest) + [1500]  # rests at the end
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
        return buffer.getvalue()

    def _mp4(self) -> bytes:
        program = ffmpeg()
        with tempfile.TemporaryDirectory() as folder:
            for k, picture in enumerate(self._pictures()):
                width, height = picture.size
                picture.crop((0, 0, width - width % 2, height - height % 2)).save(f"{folder}/{k:04}.png")
            command = [program, "-loglevel", "error", "-framerate", str(self.fps), "-i", f"{folder}/%04d.png"]
            done = subprocess.run(
                [*command, "-pix_fmt", "yuv420p", f"{folder}/film.mp4"], capture_output=True, text=True
            )
            if done.returncode:
                raise ValueError(f"ffmpeg cannot write an .mp4 ({done.stderr.strip()[:200]}): write a .gif")
            return Path(folder, "film.mp4").read_bytes()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/html": self._page(), "text/plain": repr(self)}

    def _page(self, inside: bool = False) -> str:
        """HTML: still frames, which the script replaces; `inside`: a whole page with 3Dmol.js in it."""
        png, shape = self.figure()._repr_png_()
        image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        picture = f'<img src="{image}" width="{shape["width"]}" height="{shape["height"]}" alt="still frames">'
        local = threedmol.local_copy()
        if inside and local is None:
            raise ValueError(f"a page needs 3Dmol.js in it: {threedmol.HELP}")
        if local is None and is_offline():
            return f"<div>{picture}{HELP}</div>"
        elements = self.states[0][0].elements
        data = {
            "elements": elements,
            "style": style(elements),
            "titles": self.titles,
            "axes": arrows(torch.eye(3)) if self.axes else [],
            "size": self.size,
            "columns": self.columns,
            "fps": self.fps,
            "frames": [[_merged(scenes(some[k])) for some in self.states] for k in range(len(self))],
        }
        name = f"canonkit-{uuid.uuid4().hex[:12]}"
        return page_with_script(
            name,
            picture,
            ("panes.js", "player.js"),
            f'makePlayer(document.getElementById("{name}"), {quoted(data)})',
            local if inside else None,
        )


def page_with_script(name: str, picture: str, files: tuple[str, ...], call: str, local: Path | None) -> str:
    """A picture in an element of that name, and a script that runs `call` where it can draw in 3D.

    With `local`, a copy of 3Dmol.js, it is a whole page that holds the copy.
    """
    code = "\n".join((HERE / file).read_text() for file in files)
    script = f"""(() => {{
{threedmol.loader()}
{code}
window.canonkit3Dmol({json.dumps(threedmol.local_copy() is not None)}, {json.dumps(threedmol.usual_address())}, () => {{
{call};
}}, () => document.getElementById("{name}").insertAdjacentHTML("beforeend", {quoted(HELP)}));
}})();"""
    body = f'<div id="{name}">{picture}</div><script>{script}</script>'
    if local is None:
        return body
    library = local.read_text().replace("</script", "<\\/script")
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>canonkit</title>'
    return f"{head}<script>{library}</script></head><body>{body}</body></html>"


def _merged(found: list[dict]) -> dict:
    """Molecules over each other as one."""
    bonds, first = [], 0
    for one in found:
        bonds += [v if k % 3 == 2 else v + first for k, v in enumerate(one["bonds"])]
        first += len(one["types"])
    return {"types": sum((m["types"] for m in found), []), "x": sum((m["x"] for m in found), []), "bonds": bonds}


def ffmpeg() -> str:
    """The path of an ffmpeg.

    Raises:
        ValueError: there is none.
    """
    if program := shutil.which("ffmpeg"):
        return program
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # pyright: ignore[reportMissingImports]

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise ValueError("an .mp4 needs ffmpeg: pip install imageio-ffmpeg, or write a .gif") from None
