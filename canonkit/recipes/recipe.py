"""A system at a scale for a data set: what is built, and what it is trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch

import canonkit
from canonkit.canonicalizers import canonicalizer
from canonkit.data.base import Dataset, Form
from canonkit.data.batches import lengths
from canonkit.data.canonical import cached_canonical, without_weights
from canonkit.data.ccd import load_ccd
from canonkit.data.qm9 import FORM, HEAVY_FORM, load_qm9
from canonkit.data.rotmnist import SIDE, load_rotmnist
from canonkit.files import in_short
from canonkit.model import OrbitModel
from canonkit.networks import (
    EGNN,
    GNN,
    Canon,
    DiT,
    GaussianDiT,
    GraphEGNN,
    Haar,
    PositionTurn,
    Recursive,
    ShuffleUNet,
    Symmetrised,
    Turn,
    UNet,
)
from canonkit.processes import (
    AlignedPrior,
    Diffusion,
    FlowMatching,
    Gaussian,
    ImageSpace,
    MaskedMoleculeSpace,
    MoleculeSpace,
    Process,
    cosine_schedule,
)
from canonkit.training import Prepared, Settings

# The data sets that come with the kit, and what must be known of those that systems are named for.
LOADERS = {
    "QM9": load_qm9,
    "QM9-heavy": load_qm9,
    "RotMNIST": load_rotmnist,
    "CCD": load_ccd,
    "CCD-heavy": partial(load_ccd, heavy=True),
}
FORMS = {"QM9": FORM, "QM9-heavy": HEAVY_FORM, "RotMNIST": Form(shape=(1, SIDE, SIDE))}
FITTED = 20_000  # molecules that a flow's prior is fitted to


def pair_dit(features: int, **settings) -> Canon:
    """Canon without distances: a DiT that knows bonds."""
    return Canon(features, distances=False, **settings)


NETWORKS = {
    "GNN": GNN,
    "EGNN": EGNN,
    "DiT": DiT,
    "DiT*": DiT,
    "Canon": Canon,
    "PairDiT": pair_dit,
    "GraphEGNN": GraphEGNN,
    "UNet": UNet,
    "ShuffleUNet": ShuffleUNet,
    "GaussianDiT": GaussianDiT,
    "GaussianDiT*": GaussianDiT,
}


@dataclass(frozen=True)
class Recipe:
    """A system at a scale: all that is needed to build and train it.

    `steps` of training were published; None where none were. `unit_images`: in [0, 1]. `reflections`: random turns are
    of O(3).
    """

    name: str
    scale: str
    canonicalizer: str
    canonicalizer_settings: dict = field(default_factory=dict)
    network: str = "GNN"
    network_settings: dict = field(default_factory=dict)
    settings: Settings = Settings()
    data: str = "QM9"
    kernel: str | None = None
    kernel_settings: dict | None = None
    flow: dict | None = None
    own: Form | None = None
    unit_images: bool = False
    reflections: bool | None = None
    steps: int | None = None

    @classmethod
    def from_card(cls, card: dict) -> Recipe:
        """The recipe that `card` made."""
        own = card["recipe"].get("own")
        more = {"settings": Settings(**card["settings"]), "own": Form(**own) if own else None}
        return cls(**card["recipe"] | more)

    @classmethod
    def rebuilt(cls, card: dict, where: object) -> tuple[Recipe, OrbitModel]:
        """The recipe that `card` made, and the model, untrained; `where` names the card in errors.

        Raises:
            ValueError: the recipe makes no model.
        """
        try:
            recipe = cls.from_card(card)
            return recipe, recipe.build(torch.tensor(card["size_counts"]))
        except Exception as error:  # networks and canonicalizers each have their own way to say it
            raise ValueError(f"{where}: its recipe makes no model ({in_short(error)}): restore the file") from error

    @property
    def form(self) -> Form:
        """What the samples are like that it learns."""
        return self.own or FORMS[self.data]

    def on(self, data: Dataset) -> Recipe:
        """The same system for this data set. What must be known of one of your own becomes part of the recipe."""
        return replace(self, data=data.name, own=None if FORMS.get(data.name) == data.form else data.form)

    def load(self, *, progress: bool = False) -> Dataset:
        """The recipe's data set, as it comes with the kit.

        Raises:
            ValueError: it does not come with the kit.
        """
        if self.data not in LOADERS:
            raise ValueError(f"{self.name} was trained on {self.data}, which does not come with the kit: give data=")
        return LOADERS[self.data](progress=progress)

    def dataset(self, data: Dataset | None = None, *, progress: bool = False) -> Dataset:
        """`data`, by default the recipe's own, as the system needs it: with bonds, or without hydrogens.

        Raises:
            ValueError: a data set of another kind.
        """
        data = data or self.load(progress=progress)
        if data.form.kind != self.form.kind:
            raise ValueError(f"{self.name} learns {self.form.kind}, and {data.name} holds {data.form.kind}")
        if self.form.heavy:
            return data.without_hydrogens(progress=progress)
        return data.with_graphs(progress=progress) if self.graphs else data

    @property
    def graphs(self) -> bool:
        """Whether it learns bonds."""
        return self.flow is not None and bool(self.flow.get("graphs"))

    def prepare(
        self, data: Dataset | None = None, *, fit: bool = True, form: Form | None = None, progress: bool = False
    ) -> Prepared:
        """What `canonkit.training.train` takes: an untrained model, and `data` in the form that it is trained on.

        Canonicalizers that learn nothing are applied here, once. `fit`: estimate what the process must know of the
        data, such as a prior; a checkpoint holds that already. `form`: of a model that knows more elements and longer
        molecules than there are in `data`; the new one knows them too, and samples as many atoms as those of `data`
        have.

        Raises:
            ValueError: `form` is of another kind, or lacks an element, or its molecules are shorter.
        """
        data = self.dataset(data, progress=progress)
        chosen, part, valid = self.on(data), data.part("train")[: self.settings.first], data.part("valid")
        if form is not None and form != chosen.form:
            if (form.shape, form.heavy) != (data.form.shape, data.form.heavy):
                raise ValueError(
                    f"the weights learned {_what(form)}, and the data are {_what(data.form)}: start from other weights"
                )
            if data.form.longest > form.longest:
                raise ValueError(
                    f"a molecule of {data.form.longest} atoms is longer than any that the weights know, "
                    f"{form.longest}: leave such molecules out"
                )
            chosen = replace(chosen, own=form)
            part, valid = part.with_elements(form.elements), valid.with_elements(form.elements)
        counts = torch.bincount(lengths(part), minlength=chosen.form.longest + 1 if chosen.form.longest else 0)
        model, about = chosen.build(counts), chosen.card(data.sha256, len(part), counts)
        once = not (self.settings.augment or self.canonicalizer == "identity") and without_weights(model)
        if once:
            part = cached_canonical(model, self.canonicalizer, part)
        if fit and type(model.process).fit is not Process.fit:
            some = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:FITTED]
            model.process.fit(part[some] if once else model.canonical(part[some]))
        measure = data.measure if data.measurable(self.graphs) else None
        return Prepared(model, part, valid, self.settings, about, measure, once)

    def card(self, sha256: str, count: int, size_counts: torch.Tensor) -> dict:
        """What run.json must say so that a run can be resumed, built again and believed."""
        return {
            "recipe": asdict(self) | {"settings": None},
            "settings": asdict(self.settings),
            "data": {"name": self.data, "sha256": sha256, "train": count},
            "canonkit": canonkit.__version__,
            "size_counts": size_counts.tolist(),
        }

    def build(self, size_counts: torch.Tensor) -> OrbitModel:
        """The untrained model. Rows with the same seed have the same initial phi, whatever their canonicalizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            form, options = self.form, dict(self.canonicalizer_settings)
            if form.shape:
                last = self.network_settings.get("times", 1001) - 1  # a network may know its times one by one
                process = Diffusion(ImageSpace(form.shape, self.unit_images), cosine_schedule(last))
                network = NETWORKS[self.network](form.shape[0], **self.network_settings)
            else:
                flow = self.flow
                known = (form.elements, form.longest)
                process = self._flow(**flow) if flow else Diffusion(MoleculeSpace(*known, bool(self.reflections)))
                space = process.space
                network = NETWORKS[self.network](space.features, **self.network_settings, **space.network_options)
                if self.kernel is not None:
                    network = Symmetrised(network, _kernel(self.kernel, network, self.kernel_settings or {}))
                if self.canonicalizer.startswith("frame"):
                    options["elements"] = form.elements
            h = canonicalizer(self.canonicalizer, **options)
        return OrbitModel(h, process, network, size_counts)

    def _flow(self, prior: str, coupling: bool, graphs: bool = False, self_conditioning: bool = False) -> FlowMatching:
        form = self.form
        space = MaskedMoleculeSpace(form.elements, form.longest, graphs, self_conditioning)
        made = AlignedPrior(form.longest) if prior == "aligned" else Gaussian()
        s = self.settings
        options = {"correction": s.correction or 0.0, "unrolled": bool(s.unrolled)}
        return FlowMatching(space, made, coupling, s.distance_weight or 0.0, **options)


def _what(form: Form) -> str:
    """What samples of that form are, in words."""
    if form.shape:
        return f"images of {form.shape[-1]} pixels"
    return "molecules without hydrogens" if form.heavy else "molecules with hydrogens"


def _kernel(name: str, network: torch.nn.Module, settings: dict) -> Haar | Recursive:
    """The law of the turns of SymDiff, of k's own kind."""
    if name == "haar":
        return Haar()
    if isinstance(network, GaussianDiT):
        return Recursive(PositionTurn(network.distances, **settings), as_released=True)
    return Recursive(Turn(network.out.out_features, **settings))  # pyright: ignore
