"""The base class of every variant: encode, decode, forward, loss terms, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypedDict

import torch
from pytorch_lightning.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn

from lightning_ae.architectures import MLP, Architecture
from lightning_ae.batches import mask_of, rows_of
from lightning_ae.config import Configurable, from_plain, to_plain
from lightning_ae.descriptions import DescribedModule, brief, parameters
from lightning_ae.errors import InputError
from lightning_ae.generation import Code, Generation
from lightning_ae.parts.corruptions import Corruption
from lightning_ae.parts.head import LikelihoodHead
from lightning_ae.parts.likelihoods import Gaussian, Likelihood
from lightning_ae.parts.moves import Way, add, each_by_itself
from lightning_ae.parts.schedules import Schedule
from lightning_ae.pretrained import Pretrained
from lightning_ae.scores import Scores, asked
from lightning_ae.shapes import check_multiple, fits, is_any, least, words
from lightning_ae.signatures import complete
from lightning_ae.training import private
from lightning_ae.training.constraints import Constraints
from lightning_ae.training.module import ExactModule
from lightning_ae.training.speed import adamw, compile_in_place, scheduled
from lightning_ae.training.units import warn_of_idle_units, warn_of_scale
from lightning_ae.training.weights import weights_type


class TrainingOptions(TypedDict, total=False):
    """How a model is trained: what every variant passes on to `Autoencoder`."""

    lr: float | None
    lr_schedule: Schedule | None
    weight_decay: float


class NetworkOptions(TrainingOptions, total=False):
    """What a variant passes on that has a likelihood of its own."""

    architecture: Architecture
    corruption: Corruption | None


class LikelihoodOptions(TrainingOptions, total=False):
    """What a variant passes on that has networks of its own."""

    likelihood: Likelihood


class Options(NetworkOptions, LikelihoodOptions, total=False):
    """All that a variant may pass on to `Autoencoder`."""


class Autoencoder(DescribedModule, Pretrained, Generation, Scores, ExactModule):  # type: ignore[misc]  # Lightning's loader is no classmethod
    r"""An encoder and a decoder trained to reconstruct their input through a code.

    With encoder :math:`\phi` and decoder :math:`\psi`, it minimises the mean over samples of

    .. math:: -\log p(x \mid \psi(\phi(x))),

    summed over the dimensions of a sample. With the default likelihood, a Gaussian of fixed variance, that is the
    squared error up to a factor and a constant. A code narrower than the input makes it *undercomplete*: it has to
    find what the data have in common (Hinton & Salakhutdinov 2006). With linear layers and squared error it spans the
    principal subspace (Baldi & Hornik 1989).

    It is also the base class of all variants. A variant overrides `loss`, and `encoder_features`, `encode` or
    `corrupt` where it must. Every hyper-parameter is kept as plain data, a subclass's too, so `load_from_checkpoint`
    needs nothing but the path.

    Codes have the shape `code_shape`, channels first: (latent_dim,), or (latent_dim, ...) of a network that gives a map
    or tokens. A model that takes more of a batch than its input names it in `given`; see `unpack`.

    Images may be of any size where the architecture's networks are: with None for height and width in `input_shape`, a
    model takes all in multiples of `multiple`, nothing resizes what it is given, and `code_shape_of` says what a code's
    shape is. A batch is of one size. The weights are those of a model of one size, and the other way round.

    Args:
        input_shape: the shape of one sample without the batch, channels first: (dimensions,) for vectors, (channels,
            length), (channels, height, width) for images, and so on; (channels, None, None) for images of any size.
        latent_dim: the number of values of the code at each position; of a vector, its dimensions.
        architecture: builds the encoder and the decoder.
        likelihood: p(x | z), the distribution whose parameters the decoder gives.
        corruption: what happens to the input in a step, a corruption of `lightning_ae.parts`; the target stays clean.
        lr: the learning rate of AdamW; by default `default_lr`, 1e-3.
        lr_schedule: what lr is multiplied with at each step, a schedule of `lightning_ae.parts`.
        weight_decay: AdamW's decoupled weight decay; with 0 it is Adam.

    Raises:
        InputError: when an argument cannot work, naming it.
    """

    reference: ClassVar[str] = "Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647"

    latents: ClassVar[tuple[str, ...]] = ("mean",)
    """What it can say of a code: "mean", without randomness; "sample", a draw; "indices", numbers of a codebook."""
    encodes_with: ClassVar[tuple[str, ...]] = ("encoder",)
    """Its networks that `encode` takes; a pretrained encoder leaves the "decoder" out where it is not among them."""
    needs_data_size: ClassVar[bool] = False
    """Whether the loss asks for `data_size`."""

    data_size: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        complete(cls)

    def __init__(
        self,
        input_shape: Sequence[int | None],
        latent_dim: int = 16,
        *,
        architecture: Architecture = MLP(),
        likelihood: Likelihood = Gaussian(),
        corruption: Corruption | None = None,
        lr: float | None = None,
        lr_schedule: Schedule | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(to_plain(input_shape, "input_shape"))  # numpy's integers, too
        self.latent_dim = to_plain(latent_dim, "latent_dim")
        self.architecture = from_plain(Architecture, architecture, "architecture")
        self.likelihood = from_plain(Likelihood, likelihood, "likelihood").of_model(self)
        self.corruption = None if corruption is None else from_plain(Corruption, corruption, "corruption")
        self.lr: float = to_plain(self.default_lr if lr is None else lr, "lr")
        self.save_hyperparameters({"lr": self.lr})  # what is written must mean the same under later defaults
        self.lr_schedule = None if lr_schedule is None else from_plain(Schedule, lr_schedule, "lr_schedule")
        self.weight_decay = to_plain(weight_decay, "weight_decay")
        self.implied = self.likelihood.takes
        self._least_code: tuple[tuple[tuple[int, ...], ...], bool] | None = None
        self._seen_data = False  # by a fit
        self.sampler = None
        _check_arguments(self)
        self.likelihood.check(self.input_shape)

        self.encoder = self.build_encoder()
        if is_any(self.input_shape):
            assert self.multiple is not None
            self.encoder.register_forward_pre_hook(_OfMultiples(self.multiple))
        self.decoder = self.build_decoder()
        self.architecture.tie(self.encoder, self.decoder)
        self.head = LikelihoodHead(self.likelihood, self.input_shape)
        _check_decoder(self)
        if self.needs_data_size:
            self.register_buffer("data_size", torch.zeros((), dtype=torch.long))

    # ---- what it says of itself ---------------------------------------------------------------------------------

    def described(self) -> dict[str, str]:
        """What `repr` says, and a notebook's table: input, code, size and parts; `print(model)` shows torch's tree."""
        facts = {"input": words(self.input_shape, self.multiple) if is_any(self.input_shape) else f"{self.input_shape}"}
        if self.device_mesh is None and self.device.type != "meta":  # the network is asked, all ranks of a sharded one
            code = f"{self.feature_dim} channels" if is_any(self.input_shape) else f"{self.code_shape}"
            facts["code"] = code
        facts["parameters"] = parameters(self)
        first = ("architecture", "likelihood")
        parts = {name: vars(self)[name] for name in sorted(vars(self), key=lambda name: name not in first)}
        if type(self).build_encoder is not Autoencoder.build_encoder:
            parts.pop("architecture")  # it has networks of its own
        facts |= {name: brief(part) for name, part in parts.items() if isinstance(part, Configurable)}
        if self.sampler is not None:
            facts["sampler"] = brief(self.sampler.config)
        return facts

    @property
    def drawn_objective(self) -> str | None:
        """What an evaluation calls the loss, where chance is a part of it."""
        return "denoising_loss" if self.corrupts else None

    @property
    def multiple(self) -> int | None:
        """What height and width of its images must be multiples of, where they may be any; None of one size."""
        return self.architecture.multiple if is_any(self.input_shape) else None

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that it can be asked for, of a model that takes a "label" and knows them."""
        return ()

    @property
    def corrupts(self) -> bool:
        """Whether the encoder sees something else than the target in a step."""
        return self.corruption is not None or type(self).corrupt is not Autoencoder.corrupt

    # ---- what a variant overrides -------------------------------------------------------------------------------

    @property
    def default_lr(self) -> float:
        """The learning rate where none was given; the architecture is known by then."""
        return 1e-3

    @property
    def encoder_features(self) -> int:
        """How many values the encoder network gives for a sample, at each position."""
        return self.latent_dim

    @property
    def code_features(self) -> int:
        """How many values the code has at each position, which is what the decoder network takes."""
        return self.latent_dim

    def build_encoder(self) -> nn.Module:
        """The network from (B, *input_shape) to (B, encoder_features, ...)."""
        return self.architecture.encoder(self.input_shape, self.encoder_features)

    def build_decoder(self) -> nn.Module:
        """The network from (B, *code_shape) to (B, *shape), where the likelihood says how many values it needs."""
        return self.architecture.decoder(self.code_features, self.likelihood.output_shape(self.input_shape))

    def corrupt(self, x: Tensor) -> Tensor:
        """What the encoder sees of `x` (B, *input_shape) in a step; the reconstruction's target stays clean."""
        return x if self.corruption is None else self.corruption(x, self.noise("corruption"))

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        """The code of `x`, without randomness: (B, *input_shape) to (B, *code_shape), or a tuple of codes."""
        self.check_given(given)
        code: Tensor = self.encoder(x)
        return code

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The named terms of the objective, of which "loss" is the one minimised.

        Args:
            x: what the encoder sees, (B, *input_shape).
            target: what is to be reconstructed, (B, *input_shape).
            given: what else the model takes of a batch, by the names in `given`; a model that takes nothing more may
                leave it out.

        Returns:
            Scalars, each summed over the dimensions of a sample and averaged over the batch.
        """
        reconstruction = self.reconstruction_loss(self.encode(x, **given), target, **given)
        return {"loss": reconstruction, "reconstruction": reconstruction}

    def rate(self, x: Tensor, **given: Tensor) -> Tensor | None:
        """The bits that the code of each sample costs, (B,), where the model itself says so: a divergence, indices."""
        return None

    def kl_by_unit(self, x: Tensor, **given: Tensor) -> Tensor | None:
        """What each value of a code has of its divergence from the prior, in nats: of (B, *input_shape), (B, values).

        The values are those of `units`. None where there is no prior, or where the divergence is no sum over values in
        closed form.
        """
        return None

    def active(self, code: Tensor) -> Tensor | None:
        """Which units of a sparse code are in use, of the code's shape; None where codes are dense."""
        return None

    def draw(self, x: Tensor, **given: Tensor) -> Any:
        """A code of `x` drawn from the model's distribution over codes, in the shape of `encode`'s.

        Raises:
            InputError: where it has none, and `latents` no "sample".
        """
        raise InputError(
            f"{type(self).__name__} gives one code for an input, and no distribution to draw from",
            "use encode, or a VAE",
        )

    def ways(self, features: Tensor) -> list[Way]:
        """What `move` can do with codes, from the features that `pool` makes of those of data, (N, feature_dim)."""
        return each_by_itself(features)

    def move(self, code: Code, feature: int, by: Tensor) -> Code:
        """Codes of which one feature, a number of what `pool` gives, is larger by `by` (B,); else they are the same.

        Of a map or tokens, a feature is a channel, which moves at all positions. Where codes are no points of a flat
        space, their posterior says what a step is, so that they stay codes.
        """
        moved = list(_parts(code))
        for i, part in enumerate(moved):
            if feature < part.shape[1]:
                moved[i] = add(part, feature, by)
                break
            feature -= part.shape[1]
        return tuple(moved) if isinstance(code, tuple) else moved[0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups of parameters, with "lr" or "weight_decay" where they differ from the model's."""
        return [{"params": list(self.parameters())}]

    def constrain(self) -> None:
        """Brings weights back to where they must be (a decoder of unit norm, say): after each step of an optimizer.

        Also before the first step of a fit; so it must leave alone weights that are where they must be, to rounding,
        or resuming would not be bit for bit. It is called without gradients.
        """

    # ---- what a user calls --------------------------------------------------------------------------------------

    def decode(self, z: Any, **given: Tensor) -> Tensor:
        """The likelihood's mean, in data units: (B, *code_shape) to (B, *input_shape)."""
        return self.likelihood.mean(self.decoder_parameters(z, **given))

    def forward(self, x: Tensor, **given: Tensor) -> Tensor:
        """The reconstruction of `x`: (B, *input_shape) to the same shape."""
        given = self.completed(x, given)
        return self.decode(self.encode(x, **given), **given)

    @torch.no_grad()
    def features(self, data: Any, pooled: bool | None = None, **given: Any) -> Tensor:
        """The codes of data in natural units, as vectors, after the preprocessing that the model was trained with.

        Of a model of images of any size they are maps, unless `pooled` says otherwise.

        Args:
            data: images of any form, size and mode: a PIL image, a sequence of such or of arrays, an array or a tensor
                (B, H, W), (B, C, H, W) or (B, H, W, C), uint8 or floats in [0, 1]; vectors (B, dimensions) as an array,
                a tensor or nested lists, or by the names of their columns as a data frame or a dict.
                `Preprocess.natural` says more. A model that no data module trained takes its own units.
            pooled: whether `pool` makes a vector of each code, a map by its mean; by default all codes but those of a
                model of images of any size, whose map is what there is to have of a photograph.
            given: what else the model takes, by the names in `given`.

        Returns:
            (B, feature_dim), or (B, *code_shape) where not pooled, on the model's device and in its weights' type,
            under autocast too.

        Raises:
            InputError: naming row, place or column, and value of what the model was not trained on: NaN, another range,
                columns that are missing.
        """
        x, _, roles = self.read_natural(data, given)
        code = self.encode(x, **roles)
        if pooled if pooled is not None else not is_any(self.input_shape):
            code = self.pool(code)
        elif isinstance(code, tuple):
            raise InputError(
                f"{type(self).__name__} gives {len(code)} codes for an input, which only a vector joins",
                "leave pooled out, or call encode",
            )
        return code.to(self.dtype) if code.is_floating_point() else code

    @property
    def code_shape(self) -> Any:
        """The shape of a sample's code, channels first; of a hierarchy, a tuple of such shapes.

        The network is asked once, with zeros, in evaluation mode.

        Raises:
            InputError: of a model of images of any size, whose codes have no one shape.
        """
        if is_any(self.input_shape):
            raise InputError(
                f"the codes of this {type(self).__name__} have no one shape: it takes "
                f"{words(self.input_shape, self.multiple)}",
                f"code_shape_of(({self.input_shape[0]}, height, width)) is that of an image's",
            )
        return self.code_shape_of(self.input_shape)

    def code_shape_of(self, input_shape: Sequence[int]) -> Any:
        """The shape of the code of a sample of that shape, as `code_shape`: where images may be of any size, its own.

        Raises:
            InputError: where the model takes no such samples.
        """
        if not self.takes(tuple(input_shape)):
            raise InputError(
                f"{type(self).__name__} takes {words(self.input_shape, self.multiple)}, not samples of the shape "
                f"{tuple(input_shape)}"
            )
        if self._least_code is None:
            with asked(self):
                codes = self.encode(self.new_inputs(1), **self.stand_ins(1))
            of_each = tuple(tuple(code.shape[1:]) for code in _parts(codes))
            self._least_code = (of_each, isinstance(codes, tuple))
        shapes, many = self._least_code
        if (m := self.multiple) is not None:  # in proportion
            shapes = tuple((c, *(n // m * k // 2 for n, k in zip(input_shape[1:], s, strict=True))) for c, *s in shapes)
        return shapes if many else shapes[0]

    @property
    def feature_dim(self) -> int:
        """How many features `pool` makes of a code."""
        found = self.code_shape_of(least(self.input_shape, self.multiple))
        return sum(shape[0] for shape in (found if isinstance(found[0], tuple) else (found,)))

    def encoding(self, given: Mapping[str, Tensor]) -> Callable[[Tensor], Any]:
        """`encode` as a function of its input alone: of the samples that are given this, or the first of them."""
        return lambda x: self.encode(x, **rows_of(given, slice(len(x))))

    def pool(self, code: Code) -> Tensor:
        """A vector of each code, (B, feature_dim): the mean over the positions; a tuple's parts beside each other."""
        return torch.cat([part.flatten(2).mean(dim=2) if part.ndim > 2 else part for part in _parts(code)], dim=1)

    def zeros(self, n: int) -> Any:
        """Zeros in the shape of `n` codes, (n, *code_shape), where the model's weights are; a tuple for a hierarchy."""
        shapes = self.code_shape
        if isinstance(shapes[0], tuple):
            return tuple(torch.zeros(n, *shape, dtype=self.dtype, device=self.device) for shape in shapes)
        return torch.zeros(n, *shapes, dtype=self.dtype, device=self.device)

    def new_inputs(self, n: int) -> Tensor:
        """Zeros in the shape of `n` inputs, (n, *input_shape), where the encoder's weights are.

        Where images may be of any size, of the smallest whose codes have more than one position.
        """
        shape = least(self.input_shape, self.multiple)
        return torch.zeros(n, *shape, dtype=weights_type(self.encoder, self), device=self.device)

    def stand_ins(self, n: int, **examples: Tensor) -> dict[str, Tensor]:
        """What `given` is where `n` inputs stand alone: a "mask" of all known, a "label" that goes through `classes`.

        It is fixed, for golden values and for questions of shape. Override it where the model takes something else, or
        give `examples` of that.
        """
        label = torch.tensor(self.classes or (0,), device=self.device).repeat(n)[:n]
        examples |= {"label": label, "mask": torch.ones_like(self.new_inputs(n), dtype=torch.bool)}
        if lacking := [role for role in self.given if role not in examples]:
            raise InputError(
                f"{type(self).__name__} takes {', '.join(lacking)}, which nothing can stand for but what it says",
                "override stand_ins(n), which gives an example of each",
            )
        return {role: examples[role] for role in self.given}

    def decoder_parameters(self, z: Any, **given: Tensor) -> Tensor:
        """The parameters of p(x | z): (B, *code_shape) to (B, likelihood.num_parameters, *input_shape)."""
        self.check_given(given)
        return self.parameters_of(self.decoder(z.to(weights_type(self.decoder, self))), **given)

    def parameters_of(self, output: Tensor, **given: Tensor) -> Tensor:
        """The same, of what a decoder network gave, (B, *likelihood.output_shape(input_shape))."""
        roles = (*self.implied, *self.likelihood.asks)
        parameters: Tensor = self.head(output, **{role: given[role] for role in roles if role in given})
        return parameters

    def implies(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the likelihood takes, as it follows from samples (B, *input_shape): their "library", (B,)."""
        return self.likelihood.implies(x, given.get("mask"))

    def log_likelihood(self, z: Any, target: Tensor, **given: Tensor) -> Tensor:
        """log p(target | z) in nats, summed over the dimensions of a sample: (B,).

        Where the model takes a "mask", over those only that it marks as known.
        """
        given = self.completed(target, given)
        return self.log_prob(self.decoder_parameters(z, **given), target, **given)

    def log_prob(self, parameters: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        """The same, of what `decoder_parameters` gave: (B, num_parameters, *input_shape) to (B,)."""
        return self.head.log_prob(parameters, target, **mask_of(given), held=self._fits())

    def log_prob_each(self, parameters: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        """What each value has of `log_prob` in evaluation, (B, *input_shape); 0 where a mask calls it unknown."""
        return self.head.log_prob_each(parameters, target, **mask_of(given))

    def reconstruction_loss(self, z: Any, target: Tensor, **given: Tensor) -> Tensor:
        """-log p(target | z) in nats, summed over dimensions and averaged over the batch."""
        return -self.log_likelihood(z, target, **given).mean()

    def bits_per_dimension(self, bound: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """A bound on -log p(target) in nats per sample as the term "bits_per_dimension".

        It is left out in training, on data of which the likelihood gives no probability, and where a mask leaves
        samples unequal numbers of dimensions.
        """
        if self.training or "mask" in given or not self.likelihood.is_mass_at(target):
            return {}
        return {"bits_per_dimension": bound / (math.prod(target.shape[1:]) * math.log(2))}

    def scheduled(self, schedule: Schedule | None) -> float:
        """What a schedule gives at this step of a fit; 1 without one, and in evaluation."""
        if schedule is None or not self.training or self._trainer is None:
            return 1.0
        return schedule(self.global_step, self._steps_of(schedule))

    def _steps_of(self, schedule: Schedule) -> float:
        """How many steps the fit has, where a schedule asks; one that does not fit in is refused, but for a trial."""
        if not schedule.needs_total:
            return 0.0
        total = self.total_steps()
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            schedule.check(total)
        return total

    def training_samples(self) -> Tensor:
        """`data_size`, a number on the device, where it is known.

        Raises:
            InputError: where it is not.
        """
        # in a fit the trainer has said it, and reading it back would make an accelerator wait in every step
        if (not self.training or self._trainer is None) and int(self.data_size) < 1:
            raise InputError(
                f"the loss of {type(self).__name__} asks how many samples the training data have",
                "train the model by a trainer, which says it, or set it: model.data_size.fill_(n)",
            )
        return self.data_size

    def compile(self, **options: Any) -> None:
        """Compiles the encoder and the decoder in place, with the options of `torch.compile`.

        The state_dict keeps its keys. A network that cannot be compiled runs as it is, with a warning.

        It saves passes over activations and the launches of kernels, not products of matrices; and in each step each
        network's graph costs its guards and what wraps its two passes. On one thread of a CPU that makes training
        slower, with convolutions most of all (benchmarks/speed.md, where a GPU is not measured): try it on an
        accelerator before a long run.
        """
        for network in (self.encoder, self.decoder):
            compile_in_place(network, **options)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Inside, encoder and decoder run as they are, compiled or not: where they are differentiated twice, say."""
        with private.uncompiled(self.encoder), private.uncompiled(self.decoder):
            yield

    # ---- what Lightning calls -----------------------------------------------------------------------------------

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The codes "code" (B, *code_shape) and reconstructions "reconstruction" (B, *input_shape) of a batch."""
        x, _, given = self.read(batch)
        code = self.encode(x, **given)
        return {"code": code, "reconstruction": self.decode(code, **given)}

    def configure_optimizers(self) -> Any:  # noqa: D102
        optimizer = adamw(self, self.parameter_groups(), self.lr, self.weight_decay)
        if self.lr_schedule is None:
            return optimizer
        return scheduled(optimizer, self.lr_schedule, self._steps_of(self.lr_schedule))

    def configure_callbacks(self) -> list[Any]:
        """One more where `constrain` has something to do, or the loss asks for the data's size."""
        own = type(self).constrain is not Autoencoder.constrain or self.needs_data_size
        there = any(isinstance(callback, Constraints) for callback in getattr(self._trainer, "callbacks", []))
        return [*super().configure_callbacks(), *([Constraints()] if own and not there else [])]

    def setup(self, stage: str) -> None:
        """Keeps what the data module says of its data at the first fit, so that checkpoints carry it.

        Raises:
            InputError: when a data module without `use_signature` has another preprocessing than the model's.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.data_config = getattr(data, "config", None)
            self.take_signature_of(data, self.likelihood.support, self.multiple)
        self.use_columns_of(data)
        if stage == "fit":
            self.threshold = None  # of weights that the fit will move
            self.drop_sampler()
        self._seen_data = False

    def on_train_end(self) -> None:
        """Says where most units of the code are of no use."""
        super().on_train_end()
        warn_of_idle_units(self, self.trainer)

    # ---- the step -----------------------------------------------------------------------------------------------

    def _fits(self) -> bool:
        """Whether a trainer's fit runs."""
        state = None if self._trainer is None else self._trainer.state
        return state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING

    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, target, given = self.read(batch)
        likelihood = self.likelihood
        self.check_values(target, likelihood.support, likelihood.admits, batch_idx, likelihood.distance)
        if not self.training or not self._fits():
            return self.loss(self.corrupt(x), target, **given)
        self.head.begin(batch_idx)
        if not self._seen_data:
            self._seen_data = True
            warn_of_scale(self, target)
        terms = self.loss(self.corrupt(x), target, **given)
        if self.trainer.is_last_batch:
            self.head.end_epoch()
        return terms


class _OfMultiples:
    """Refuses, whoever calls the encoder, images of which it would make a code of another size's."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        check_multiple(args[0].shape[2:], self.multiple)


def _parts(code: Code) -> tuple[Tensor, ...]:
    return code if isinstance(code, tuple) else (code,)


def _check_decoder(model: Autoencoder) -> None:
    """Whether an architecture of a user's own gives what the likelihood takes; this package's do by construction."""
    cls, ours = type(model), Autoencoder
    built = cls.build_encoder is ours.build_encoder and cls.build_decoder is ours.build_decoder
    if not built or type(model.architecture).__module__.startswith("lightning_ae."):
        return
    wanted = model.likelihood.output_shape(model.input_shape)
    with asked(model):
        output = model.encoder(model.new_inputs(1))
        code = torch.zeros(1, model.code_features, *output.shape[2:], dtype=output.dtype, device=output.device)
        found = tuple(model.decoder(code).shape[1:])
    if not fits(found, wanted, model.multiple):
        raise InputError(
            f"the decoder of {type(model.architecture).__name__} gives {found} for a code of shape "
            f"{tuple(code.shape[1:])}, where the likelihood {model.likelihood} takes {wanted}",
            "build the decoder for the output_shape that it is asked for",
        )


def _check_arguments(model: Autoencoder) -> None:
    shape = model.input_shape
    any_size = len(shape) == 3 and shape[1:] == (None, None)
    if not shape or any(not isinstance(n, int) or n < 1 for n in (shape[:1] if any_size else shape)):
        raise InputError(
            f"input_shape must be the shape of one sample, channels first, in positive integers, got {shape}",
            "(dimensions,) for vectors, (channels, height, width) for images; (channels, None, None) where both may be "
            "any",
        )
    if any_size and model.architecture.multiple is None:
        raise InputError(
            f"input_shape is {shape}, and {model.architecture} takes inputs of one size",
            "give that, or an architecture whose codes are maps: ConvNet(code='map') or ResNet(code='map')",
        )
    if not isinstance(model.latent_dim, int) or model.latent_dim < 1:
        raise InputError(f"latent_dim must be a positive integer, got {model.latent_dim!r}")
    model.check_takes()
    if not model.lr > 0:
        raise InputError(f"lr must be positive, got {model.lr}")
    if not model.weight_decay >= 0:
        raise InputError(f"weight_decay must not be negative, got {model.weight_decay}")
