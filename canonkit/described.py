"""The fields of the files that people and programs pass on: cards, run.json, log lines, measured results, queues.

Each file is described once, as a dictionary whose fields have types and bounds. `checked` compares what was read with
that, so that a damaged or absurd file ends in one line that names file, field and value. On a machine with torch and
numpy alone, which has no pydantic, nothing is compared.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

try:
    from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
except ImportError:
    TypeAdapter = None

SHOWN = 60  # characters of a value in an error


if TypeAdapter is not None:
    Text = Annotated[str, Field(max_length=2000)]
    Name = Annotated[str, Field(min_length=1, max_length=200)]
    Whole = Annotated[int, Field(ge=0, le=10**12)]
    Often = Annotated[int | float, Field(ge=0, le=1e12)]
    Steps = Annotated[int, Field(ge=0, le=10**9)]
    Size = Annotated[int, Field(ge=1, le=4096)]
    Depth = Annotated[int, Field(ge=1, le=128)]
    Seconds = Annotated[float, Field(ge=0, le=1e10)]
    Share = Annotated[float, Field(ge=0, le=1)]
    Rate = Annotated[float, Field(ge=0, le=10)]
    Weight = Annotated[float, Field(ge=0, le=1e6)]
    Seed = Annotated[int, Field(ge=0, lt=2**32)]  # times a thousand millions it still fits into 64 bits
    Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    exact = with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
    open_ = with_config(ConfigDict(extra="allow", strict=True))

    # -- cards and run.json -------------------------------------------------------------------------------------------

    @open_
    class Sizes(TypedDict, total=False):
        """Of a network, a canonicalizer or a kernel; one of your own may have more."""

        width: Size
        channels: Size
        layers: Depth
        depth: Depth
        heads: Depth
        blocks: Depth
        multipliers: Annotated[list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=1, max_length=8)]
        dropout: Share
        times: Annotated[int, Field(ge=2, le=100_000)]
        padded: Annotated[int, Field(ge=0, le=4096)]
        gaussians: Size
        hidden: Size
        frozen: bool

    @exact
    class Flow(TypedDict):
        prior: Literal["gaussian", "aligned"]
        coupling: bool
        graphs: NotRequired[bool]
        self_conditioning: NotRequired[bool]

    @exact
    class Form(TypedDict):
        elements: Annotated[list[Annotated[str, Field(pattern="^[A-Z][a-z]?$")]], Field(max_length=118)]
        longest: Annotated[int, Field(ge=0, le=100_000)]
        shape: Annotated[list[Size], Field(max_length=3)]
        heavy: bool

    @exact
    class Recipe(TypedDict):
        name: Name
        scale: Name
        canonicalizer: Name
        canonicalizer_settings: NotRequired[Sizes]
        network: NotRequired[Name]
        network_settings: NotRequired[Sizes]
        settings: None
        data: NotRequired[Name]
        kernel: NotRequired[Name | None]
        kernel_settings: NotRequired[Sizes | None]
        flow: NotRequired[Flow | None]
        own: NotRequired[Form | None]
        unit_images: NotRequired[bool]
        reflections: NotRequired[bool | None]
        steps: NotRequired[Steps | None]

    @exact
    class Settings(TypedDict, total=False):
        batch_size: Annotated[int, Field(ge=1, le=2**24)]
        lr: Rate
        canonicalizer_lr: Rate
        muon_lr: Rate | None
        weight_decay: Rate
        ema: Share
        warmup: Steps
        cool_from: Steps | None
        cool_to: Steps | None
        one_cycle: Annotated[int, Field(ge=10, le=10**9)] | None
        clip: Annotated[float, Field(gt=0, le=1e9)] | None
        first: Annotated[int, Field(ge=1, le=10**12)] | None
        augment: bool
        distance_weight: Weight | None
        correction: Rate | None
        unrolled: bool | None
        precision: Literal["auto", "float32", "bfloat16"]
        seed: Seed
        log_every: Steps
        validate_every: Steps
        sample_every: Steps
        samples: Annotated[int, Field(ge=1, le=10**7)]
        sample_steps: Annotated[int, Field(ge=1, le=10**6)]

    @exact
    class Data(TypedDict):
        name: Name
        sha256: Name
        train: Whole

    @exact
    class Budget(TypedDict):
        steps: Steps | None
        minutes: Annotated[float, Field(ge=0, le=1e9)] | None

    # The functional form, for `from` is a word of Python's.
    Init = exact(
        TypedDict(
            "Init", {"from": Text, "step": Whole, "seen": Whole, "seconds": Seconds, "hardware": NotRequired[Name]}
        )
    )

    @open_
    class Started(TypedDict, total=False):
        """What resuming needs of run.json; a model made by hand may say what it likes of itself."""

        recipe: Recipe | None
        settings: Settings
        data: Data
        budget: Budget

    @exact
    class RunCard(TypedDict):
        """run.json; of a model made by hand the recipe is None."""

        recipe: Recipe | None
        settings: Settings
        data: Data
        canonkit: Name
        size_counts: Annotated[list[Often], Field(min_length=1, max_length=100_001), AfterValidator(lambda x: _some(x))]
        hardware: Name
        torch: Name
        started: NotRequired[Name]
        budget: NotRequired[Budget]
        init: NotRequired[Init]
        content_sha256: NotRequired[Hash]

    @open_
    class Evaluation(TypedDict, total=False):
        """What was measured, and how: fields that tables print. There may be others."""

        recipe: Name
        scale: Name
        seed: Seed
        step: Whole
        seen: Whole
        seconds: Seconds
        data: Name
        hardware: Name
        protocol: Text
        molecules: Whole
        molecule_stable: Share | None
        atom_stable: Share | None
        valid: Share | None
        unique: Share | None
        novel: Share | None
        problems: dict[Name, Whole]
        steps: Steps
        sampler: dict[Name, Text]
        sampling_cpu_s: Seconds
        validation_loss: float
        validation_nll: float
        validation_nll_error: float
        test_images: Whole
        test_data: Name
        denoising_error: Weight
        low: Weight
        high: Weight
        validation_images: Whole
        validation_error: Weight
        slice: float
        slice_error: Weight
        invariant: float
        invariant_error: Weight
        test_molecules: Whole
        passes: Whole
        width: Weight | None
        difference: float
        difference_low: float
        difference_high: float
        at: dict[Annotated[str, Field(pattern="^[0-9]+$")], dict[Name, float | None]]
        content_sha256: Hash

    @exact
    class WeightsCard(RunCard):
        """The card of trained weights."""

        format: Whole
        step: Whole
        seconds: Seconds
        released: Name
        evaluation: Evaluation
        weights_sha256: Hash

    @exact
    class Cost(TypedDict):
        """A row of `canonkit bench systems`."""

        system: Name
        parameters: Whole
        step_s: Seconds
        evaluation_s: Seconds
        hardware: Name
        content_sha256: NotRequired[Hash]

    # -- log lines ----------------------------------------------------------------------------------------------------

    @open_
    class LogLine(TypedDict):
        """A line of log.jsonl, with the values that were measured."""

        kind: Literal["train", "valid", "sample"]
        step: Whole
        seconds: Seconds
        seen: NotRequired[Whole]
        loss: NotRequired[float]

    # -- samples ------------------------------------------------------------------------------------------------------

    @exact
    class Texts(TypedDict, total=False):
        """Of molecules, in an .npz file."""

        titles: list[str]
        data: list[dict[str, str]]

    # -- queues -------------------------------------------------------------------------------------------------------

    Inside = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(lambda x: _inside(x))]
    Beside = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(lambda x: _beside(x))]

    @exact
    class Job(TypedDict):
        recipe: Name
        scale: NotRequired[Name]
        seed: NotRequired[Seed]
        minutes: NotRequired[Annotated[float, Field(gt=0, le=1e9)]]
        steps: NotRequired[Annotated[int, Field(ge=1, le=10**9)]]
        data: NotRequired[Name]
        init: NotRequired[Name]
        name: NotRequired[Inside]
        set: NotRequired[Settings]

    @exact
    class Queue(TypedDict):
        folder: NotRequired[Beside]
        at_once: NotRequired[Annotated[int, Field(ge=1, le=1000)]]
        run: list[Job]


def _some(counts: list) -> list:
    if not any(counts):
        raise ValueError("should count at least one sample")
    return counts


def _inside(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "~")) or ".." in parts or not name.isprintable():
        raise ValueError("should be a name of a folder, without ..")
    return name


def _beside(name: str) -> str:
    """A folder beside the file, or, with ../ before it, beside the file's own folder."""
    _inside(name.removeprefix("../"))
    return name


@cache
def _adapter(kind: str) -> Any:
    return TypeAdapter(globals()[kind]) if TypeAdapter is not None else None


def parsed(text: str, where: object, remedy: str = "", **options: Any) -> Any:
    """What JSON text holds.

    Raises:
        ValueError: naming the file, where it is damaged.
    """
    try:
        return json.loads(text, **options)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged ({error})" + (f": {remedy}" if remedy else "")) from None


def checked(kind: str, content: Any, where: object, remedy: str = "") -> Any:
    """`content`, with the fields that this module describes under the name `kind`.

    Args:
        kind: Started, RunCard, WeightsCard, Settings, LogLine, Evaluation, Cost, Texts or
            Queue.
        content: what was read.
        where: the file, for the error.
        remedy: what to do, for the error.

    Raises:
        ValueError: naming file, field and value.
    """
    if (adapter := _adapter(kind)) is None:
        return content
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    value, found = repr(first["input"]), f"{where}: {field}" if field else f"{where}"
    value = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    said = first["msg"][max(0, first["msg"].find("should")) :]  # without "Input", "String", ...
    if first["type"] == "missing":
        text = f"{found} is missing"
    elif first["type"] == "extra_forbidden":
        text = f"{found} = {value} is no field that this version of canonkit knows"
    else:
        text = f"{found} = {value} {said}"
    raise ValueError(f"{text}: {remedy}" if remedy else text)


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content`, which becomes JSON, with a hash of all that it says as its last field, content_sha256."""
    content = {k: v for k, v in json.loads(json.dumps(content)).items() if k != "content_sha256"}
    return content | {"content_sha256": _hash(content)}


def unsealed(kind: str, content: Any, where: object, remedy: str = "") -> Any:
    """`checked` content without its hash; a file of an earlier version has none.

    The hash is that of what was written, before numbers take the types that are described.

    Raises:
        ValueError: naming the file, and the field that is wrong; or where it says something else than was written.
    """
    found = dict(checked(kind, content, where, remedy))
    if found.pop("content_sha256", None) is not None:
        rest = {k: v for k, v in content.items() if k != "content_sha256"}
        if content["content_sha256"] != (expected := _hash(rest)):
            said = f"{where} does not say what was written: its content_sha256 should be {expected[:12]}..."
            raise ValueError(f"{said}: {remedy}" if remedy else said)
    return found
