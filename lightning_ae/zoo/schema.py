"""What an entry of the zoo says, as plain data that is checked before anything else looks at it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_ae.data.signature import Signature
    from lightning_ae.preprocess import Preprocess

Stored = Literal["float32", "float16"]
NAME = r"^[a-z0-9]+(_[a-z0-9]+)*\.[a-z0-9]+(_[a-z0-9]+)*_v[1-9][0-9]*$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9]+)+$"  # no folder, no drive, no leading dot
LARGEST_NUMBER, LONGEST_LIST, DEEPEST = 1 << 20, 256, 8
LARGEST_SIGNATURE = 1 << 19  # characters
LARGEST_FILE = 2 << 30  # bytes
GOLDEN_SAMPLES = 2
GOLDEN_SIZE = (4, 6)
"""Height and width of images that may be of any, in the multiples of them that the model takes."""

_HF = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})(/(?P<file>[\w.-]+))?$")


class HubFile(BaseModel):
    """A place on the Hugging Face hub, at a commit.

    Args:
        repo: "organisation/name".
        revision: the commit, 40 hexadecimal digits.
        file: the file's name, or none for the whole repository.
    """

    repo: str
    revision: str
    file: str | None


def parse_hf(url: str) -> HubFile:
    """The parts of hf://organisation/name@revision, with or without /file.

    Raises:
        InputError: on another form; above all without a commit, since a branch may change under its name.
    """
    match = _HF.fullmatch(url)
    if not match or ".." in url:
        raise InputError(
            f"{url!r} is not pinned to a commit",
            "write hf://organisation/name@REVISION, where REVISION is a commit of 40 hexadecimal digits",
        )
    return HubFile(**{key: match[key] for key in ("repo", "revision", "file")})


def check_url(url: str) -> str:
    """`url`, if it is https without credentials.

    Raises:
        InputError: otherwise.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise InputError(f"{url!r} is not an https address", "files come over https, or from hf:// at a pinned commit")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"the address of a file on {parts.hostname} holds credentials", "leave them out; zoo files are public"
        )
    return url


def _url(url: str) -> str:
    if not url.startswith("hf://"):
        return check_url(url)
    if parse_hf(url).file is None:
        raise InputError(f"{url!r} names no file", "hf://organisation/name@revision/file")
    return url


def _plain(value: Any, depth: int = 0) -> Any:
    """`value`, if it is small plain data."""
    if depth > DEEPEST:
        raise InputError(f"config nests deeper than {DEEPEST} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isidentifier():
                raise InputError(f"config has a key that is no name: {key!r}")
            if key == "class_path" and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(item)):
                raise InputError(f"config names a class by {item!r}, which is no import path")
            _plain(item, depth + 1)
    elif isinstance(value, list | tuple):
        if len(value) > LONGEST_LIST:
            raise InputError(f"config holds a list of {len(value)} items; at most {LONGEST_LIST} make sense")
        for item in value:
            _plain(item, depth + 1)
    elif isinstance(value, str):
        if len(value) > 1000:
            raise InputError("config holds a text of more than 1000 characters")
    elif isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) > LARGEST_NUMBER:
            raise InputError(f"config holds the number {value}; at most {LARGEST_NUMBER} makes sense")
    elif value is not None:
        raise InputError(f"config holds a {type(value).__name__}, which is not plain data")
    return value


def _small(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """A signature's plain data, if they are few enough to look at; what they say is checked when a model is built."""
    if value is not None and len(json.dumps(value)) > LARGEST_SIGNATURE:
        raise InputError(f"the signature has more than {LARGEST_SIGNATURE} characters")
    return value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(_Part):
    """A file of an artefact."""

    name: Annotated[str, Field(pattern=FILE_NAME, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(gt=0, le=LARGEST_FILE, description="bytes")]
    urls: list[Annotated[str, AfterValidator(_url)]] = Field(
        [], description="where else it lies, tried in order: https://..., hf://organisation/name@commit/file"
    )


class ImageInput(_Part):
    """Images as the model takes them: resized with antialiasing, converted, scaled to [0, 1], normalised, binarised."""

    kind: Literal["image"]
    size: tuple[Annotated[int, Field(gt=0, le=16384)], Annotated[int, Field(gt=0, le=16384)]] | None = Field(
        description="none where images go in as they are, of any height and width that are multiples of `multiple`"
    )
    interpolation: Literal["bilinear"] = "bilinear"
    channels: Annotated[int, Field(gt=0, le=4096)]
    range: tuple[Literal[0], Literal[1]] = (0, 1)
    mean: list[float] | None = None
    std: list[float] | None = None
    binarize: Literal["threshold", "static", "dynamic"] | None = None
    fit: Literal["stretch", "crop"] = "stretch"
    values: tuple[float, float] | None = Field(None, description="of images that are not bytes, those that become 0, 1")
    layout: Literal["CHW", "HWC"] | None = Field(None, description="of arrays of such images")
    multiple: Annotated[int, Field(gt=0, le=4096)] | None = Field(None, description="of height and width, where any")

    @model_validator(mode="after")
    def _sized(self) -> ImageInput:
        if (self.size is None) == (self.multiple is None):
            raise InputError(f"images have a size, or a multiple where it may be any; got {self.size}, {self.multiple}")
        return self

    def build(self) -> Preprocess:
        """The map from images in natural units."""
        from lightning_ae.preprocess import ImagePreprocess

        mean, std = (None if v is None else tuple(v) for v in (self.mean, self.std))
        options = (mean, std, self.binarize, self.fit, self.values, self.layout, self.multiple)
        return ImagePreprocess(self.size, self.channels, *options)


class TabularInput(_Part):
    """Vectors as the model takes them: scaled column by column."""

    kind: Literal["tabular"]
    mean: list[float] | None = None
    std: list[float] | None = None
    knots: list[list[float]] | None = Field(
        None, description="of each column the values at equally spaced probabilities, mapped to a normal distribution's"
    )

    def build(self) -> Preprocess:
        """The map from vectors in natural units."""
        from lightning_ae.preprocess import TabularPreprocess

        mean, std = (None if v is None else tuple(v) for v in (self.mean, self.std))
        return TabularPreprocess(mean, std, None if self.knots is None else tuple(map(tuple, self.knots)))


class SequenceInput(_Part):
    """Sequences as the model takes them, (B, channels, length): scaled channel by channel."""

    kind: Literal["sequence"]
    mean: list[float] | None = None
    std: list[float] | None = None
    knots: list[list[float]] | None = Field(None, description="as those of a table's columns")
    length: int | None = Field(None, description="of a sample that is so many rows of a table")
    layout: Literal["NCL", "NLC"] | None = Field(None, description="of arrays in natural units; by default NCL")

    def build(self) -> Preprocess:
        """The map from sequences in natural units."""
        from lightning_ae.preprocess import SequencePreprocess

        mean, std = (None if v is None else tuple(v) for v in (self.mean, self.std))
        knots = None if self.knots is None else tuple(map(tuple, self.knots))
        return SequencePreprocess(mean, std, knots, self.length, self.layout)


class Layer(_Part):
    """An intermediate layer of the encoder."""

    name: str
    channels: int
    stride: int | None = Field(description="input pixels for each step of the map; none where the output is a vector")


class Features(_Part):
    """What `load_encoder` gives."""

    default: Literal["code"] = "code"
    latents: list[Literal["mean", "sample", "indices"]]
    dim: Annotated[int, Field(gt=0)]
    layers: list[Layer]
    mean: list[float] | None = Field(None, description="of each dimension of the code, over the training split")
    std: list[float] | None = Field(None, description="of each dimension of the code, over the training split")


class ThresholdPart(_Part):
    """From which score on a row counts as strange, in nats; see `lightning_ae.thresholds`."""

    value: float
    quantile: Annotated[float, Field(gt=0, lt=1, description="of the scores of rows that it was not fitted to")]
    rows: Annotated[int, Field(gt=0, description="how many those were")]
    draws: Annotated[int, Field(gt=0, description="of each row's code, that the scores are of")]


class Config(_Part):
    """What config.json in an artefact says: all it takes to build the model, and to feed it."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: Annotated[str, Field(pattern=NAME, max_length=100)]
    model: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", description="the model's name in the registry")]
    requires: str | None = Field(None, description="the package that registers the model, where it is not this one")
    config: Annotated[dict[str, Any], AfterValidator(_plain)] = Field(description="the arguments of the model's class")
    preprocess: Annotated[ImageInput | TabularInput | SequenceInput, Field(discriminator="kind")]
    signature: Annotated[dict[str, Any] | None, AfterValidator(_small)] = Field(
        None, description="the input's columns, their types and statistics; none in entries of before it was kept"
    )
    signature_hash: Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$")] = None
    threshold: ThresholdPart | None = Field(None, description="none where the checkpoint had none")
    sampler: Annotated[dict[str, Any] | None, AfterValidator(_plain)] = Field(
        None, description="the density that is fitted to the codes, as its class and arguments; none where none was"
    )
    features: Features
    stored: Stored = Field("float32", description="the type of weights in the file")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        shape = self.config.get("input_shape")
        given = self.preprocess
        free = (None,) if isinstance(given, ImageInput) and given.size is None else ()
        if not isinstance(shape, list | tuple) or not all(n in free or (isinstance(n, int) and n > 0) for n in shape):
            raise InputError(f"config must hold input_shape, positive integers; got {shape!r}")
        wanted = (given.channels, *(given.size or (None, None))) if isinstance(given, ImageInput) else None
        what, ranks = ("sequences", (2,)) if isinstance(given, SequenceInput) else ("vectors", (1, 2))  # or arrays
        if (wanted is None and len(shape) not in ranks) or (wanted is not None and wanted != tuple(shape)):
            raise InputError(f"preprocess gives {wanted or what}, but the model takes the input_shape {shape}")
        return self

    def read_signature(self) -> Signature:
        """What goes into the model; of an entry that does not say it, the preprocessing alone.

        Raises:
            InputError: when its hash is another, or it preprocesses otherwise than the entry says.
        """
        from lightning_ae.data.signature import FORMAT, Signature

        preprocess = self.preprocess.build()
        if self.signature is None:
            return Signature(preprocess, version=1 if getattr(preprocess, "binarize", None) is None else FORMAT)
        found = Signature.from_plain(self.signature)
        if found.hash != self.signature_hash or found.preprocess != preprocess:
            raise InputError("its signature has another hash than it says, or another preprocessing")
        return found

    @property
    def dataset(self) -> str:
        """The data set in the name."""
        return self.name.partition(".")[2].rpartition("_v")[0]

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """The shape of a sample as the model takes it; None for height and width where they may be any."""
        return tuple(self.config["input_shape"])

    @property
    def multiple(self) -> int | None:
        """What height and width are multiples of, where they may be any."""
        return self.preprocess.multiple if isinstance(self.preprocess, ImageInput) else None

    @property
    def golden_shape(self) -> tuple[int, ...]:
        """Of the samples that golden values are of."""
        shape, m = self.input_shape, self.multiple
        return shape if m is None else (shape[0], GOLDEN_SIZE[0] * m, GOLDEN_SIZE[1] * m)


class Golden(_Part):
    """The first values that the model gives for a fixed input, `golden_input`."""

    code: list[float]
    reconstruction: list[float]
    atol: float


class Metric(_Part):
    """A measured number."""

    name: str
    value: float | None
    atol: float | None = Field(description="how far a repetition of the evaluation may be off")
    dataset: str
    split: str
    n: int | None = Field(description="samples")
    seeds: list[int] = []
    std: float | None = Field(None, description="over seeds")


class Recipe(_Part):
    """How the model was trained."""

    paths: list[str] = Field(description="recipes as -c takes them, in order: names or files; none where unknown")
    overrides: dict[str, Any] = {}
    seed: int | None
    checkpoint: Literal["best", "last"] | None
    hardware: str
    minutes: float | None
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        """An entry of before recipes composed names its only one as `path`."""
        if not isinstance(given, Mapping) or "path" not in given or "paths" in given:
            return given
        rest = {key: value for key, value in given.items() if key != "path"}
        return {"paths": [] if given["path"] is None else [given["path"]], **rest}


Spdx = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*$")]


class Licence(_Part):
    """SPDX identifiers."""

    weights: Spdx
    data: Spdx


class Data(_Part):
    """What the model was trained and evaluated on."""

    id: str | None = Field(description="what HFDataModule takes as path; none of data that it does not reach")
    provenance: str
    options: Annotated[dict[str, Any], AfterValidator(_plain)] = Field(
        {}, description="other arguments of HFDataModule"
    )
    digest: Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$")] = Field(
        default=None,
        description="XXH3 of the test split's values in natural units; none in entries of before it was kept",
    )


class Imported(_Part):
    """Where weights come from that nobody trained here."""

    authors: str
    source: Annotated[str, AfterValidator(check_url)]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(description="as they came: their sha256")
    command: str = Field(description="what made the entry of them")
    stated: dict[str, float] = Field({}, description="of metrics, what the authors' own code gives")


class Paper(_Part):
    """Where the variant comes from."""

    title: str
    url: str


class Entry(Config):
    """An entry of the index."""

    files: Annotated[list[File], Field(min_length=1)]
    golden: Golden
    metrics: list[Metric]
    recipe: Recipe | None = Field(None, description="none of imported weights")
    imported: Imported | None = Field(None, description="none of weights that were trained by a recipe")
    licence: Licence
    data: Data
    paper: Paper
    deprecated: str | None = Field(None, description="what to use instead, and why")

    @model_validator(mode="after")
    def _made(self) -> Entry:
        if (self.recipe is None) == (self.imported is None):
            raise InputError("an entry says by which recipe it was trained, or where it was imported from")
        if self.imported is None and self.data.id is None:
            raise InputError("data must have an id where a recipe trained on them")
        return self

    def file(self, name: str) -> File:
        """The file of that name."""
        return next(file for file in self.files if file.name == name)

    def metric(self, name: str) -> float | None:
        """The value of a metric, or none where it was not measured."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)

    def as_config(self) -> Config:
        """What config.json says."""
        return Config.model_validate(self.model_dump(by_alias=True, include=set(Config.model_fields)))


def parse(cls: type[Config], data: Any, where: str) -> Any:
    """`data` as a `Config` or an `Entry`.

    Raises:
        InputError: naming the first field that is wrong.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        cause = (first.get("ctx") or {}).get("error")
        reason = cause.message if isinstance(cause, InputError) else first["msg"]
        number = data.get("schema") if isinstance(data, Mapping) else None
        later = isinstance(number, int) and number > 1
        hint = "it was written by a later version of lightning_ae: pip install --upgrade lightning_ae" if later else ""
        raise InputError(f"{where} is not a valid entry: {field}: {reason}", hint) from error


def golden_input(config: Config) -> Tensor:
    """A fixed input in natural units, (2, *golden_shape), the same everywhere: bytes for images, else in [0, 1]."""
    import torch

    count = GOLDEN_SAMPLES * math.prod(config.golden_shape)
    state, values = 1, []
    for _ in range(count):
        state = state * 48271 % 2147483647  # Park & Miller's generator
        values.append(state >> 8 & 255)
    fixed = torch.tensor(values).view(GOLDEN_SAMPLES, *config.golden_shape)
    return fixed.to(torch.uint8) if isinstance(config.preprocess, ImageInput) else fixed / 255
