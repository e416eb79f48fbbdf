"""What a model draws samples from: a sampler that was fitted to its codes, or a distribution of its own."""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.moves import Geometry, along
from lightning_ae.parts.priors import Prior
from lightning_ae.parts.sampling import Density, Sampler, Space

Code = Tensor | tuple[Tensor, ...]
"""(B, *code_shape); of a hierarchy, one for each level."""


class _WithSampler:
    """True of a model that has a sampler; False of any other, and of its class."""

    def __get__(self, model: Any, owner: Any = None) -> bool:
        return model is not None and model.sampler is not None


class Generation:
    """Base of the models, whose codes may have a density fitted to them: each of them can be made to generate."""

    generates: ClassVar[bool] = _WithSampler()  # type: ignore[assignment]
    """Whether `sample` has a distribution over codes to draw from: of the class, or of a model with a `sampler`."""
    sampler: Density | None
    """The density that `lightning_ae.samplers.fit_sampler` fits to its codes, from which `sample` draws.

    It takes the place of any prior; None takes it away. Checkpoints and entries of the zoo hold it; a fit of the model,
    which moves the codes, takes it away.
    """

    code_shape: Any
    dtype: torch.dtype
    active: Any
    decode: Any
    zeros: Any

    # ---- codes as vectors ---------------------------------------------------------------------------------------

    def units(self, code: Code) -> Tensor:
        """All values of each code beside each other, (B, values)."""
        return torch.cat([part.flatten(1) for part in (code if isinstance(code, tuple) else (code,))], dim=1)

    def from_units(self, units: Tensor) -> Any:
        """Codes in their shape, (B, *code_shape) or a tuple of such, of all their values, (B, values)."""
        shapes = self.code_shape
        if not isinstance(shapes[0], tuple):
            return units.unflatten(1, shapes)
        parts = units.split([math.prod(shape) for shape in shapes], dim=1)
        return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))

    @property
    def code_space(self) -> Space:
        """Where codes lie, as a density of them sees it.

        Raises:
            InputError: where no sampler here is a density of such codes.
        """
        zeros = self.zeros(1)
        if self.active(zeros) is not None:
            raise InputError(
                f"the codes of {type(self).__name__} are sparse, of which no sampler is a density: in its draws all "
                "units would be in use",
                "fit one to the codes of a model whose units are all in use, such as Autoencoder or VAE",
            )
        return Space(self.units(zeros).shape[1])

    def coordinates(self, code: Code) -> Tensor:
        """Codes as what a density is fitted to, (B, units): numbers, or indices."""
        return self.units(code)

    def coordinates_of(self, x: Tensor, **given: Tensor) -> Tensor:
        """The same of inputs (B, *input_shape), whose codes are drawn where the model draws them."""
        model: Any = self
        return self.coordinates(model.draw(x, **given) if "sample" in model.latents else model.encode(x, **given))

    def from_coordinates(self, values: Tensor) -> Any:
        """Codes of what a density draws, (B, units), which need not be coordinates of any: then those nearest."""
        return self.from_units(values)

    @property
    def geometry(self) -> Geometry:
        """Of the space that codes lie in."""
        return "flat"

    def between(self, a: Code, b: Code, t: Tensor) -> Any:
        """Codes on the shortest path from a to b, (B, *code_shape), at the places t in [0, 1], (B,).

        Raises:
            InputError: where nothing lies between codes.
        """
        if isinstance(a, tuple):
            return tuple(torch.lerp(first, second, along(t, first)) for first, second in zip(a, b, strict=True))
        return torch.lerp(a, b, along(t, a))  # type: ignore[arg-type]  # b as a

    # ---- samples ------------------------------------------------------------------------------------------------

    @property
    def untempered(self) -> str | None:
        """What `sample` draws codes from, where a temperature says nothing of it; None where it does."""
        if self.sampler is not None:
            return None if self.sampler.tempered else type(self.sampler.config).__name__
        model: Any = self
        prior = getattr(model, "prior", None)  # a hierarchy's is a method, of Gaussians
        return type(prior).__name__ if isinstance(prior, Prior) and not prior.tempered(model) else None

    def prior_codes(self, n: int, temperature: float = 1.0) -> Any:
        """`n` codes drawn from the model's own distribution over them, in their shape; see `sample`.

        Raises:
            InputError: where it has none.
        """
        raise InputError(
            f"{type(self).__name__} has no distribution over codes to sample from",
            "fit one to its codes, lightning_ae.samplers.fit_sampler(model, data), on the command line `lightning-ae "
            "sample CHECKPOINT --sampler mixture`; or train a VAE",
        )

    def draw_codes(self, n: int, temperature: float = 1.0) -> Any:
        """`n` codes in their shape: drawn from the `sampler` where one is fitted, else from `prior_codes`.

        Raises:
            InputError: where there is neither; for a temperature as of `sample`.
        """
        if temperature != 1:
            self._check_temperature(temperature)
        if self.sampler is None:
            return self.prior_codes(n) if temperature == 1 else self.prior_codes(n, temperature)
        with torch.no_grad():
            code = self.from_coordinates(self.sampler.sample(n, Noise(temperature=temperature)))
        return tuple(part.to(self.dtype) for part in code) if isinstance(code, tuple) else code.to(self.dtype)

    def sample(self, n: int, *, temperature: float = 1.0, **given: Any) -> Tensor:
        """`n` samples in data units, (n, *input_shape): the likelihood's means for codes of `draw_codes`.

        Args:
            n: how many.
            temperature: what the standard deviations of the Gaussians that codes are drawn from are multiplied by
                (Kingma & Dhariwal 2018; Vahdat & Kautz 2020, section 4.1): of N(0, I), of each component of a mixture
                (whose weights stay), of what a flow begins with, of each level given those above. Below 1 samples are
                likelier and more alike; 0 gives the means.
            given: what the model takes besides, for the decoder; codes are drawn whatever it is.

        Raises:
            InputError: of a model without a distribution over codes; `lightning_ae.samplers.fit_sampler` gives it one;
                for a temperature that is negative, NaN or infinite, or is not 1 where codes are not drawn from
                Gaussians: from a sphere, from categories, from indices.
        """
        samples: Tensor = self.decode(self.draw_codes(n, temperature), **given)
        return samples

    def _check_temperature(self, temperature: float) -> None:
        if not 0 <= temperature < math.inf:
            raise InputError(f"temperature must be 0 or more, and finite, got {temperature}")
        if (name := self.untempered) is not None:
            raise InputError(
                f"temperature = {temperature:g} multiplies standard deviations of Gaussians, and codes of "
                f"{type(self).__name__} are drawn from {name}, which has none",
                "leave it out; or fit a sampler that has some, such as MixtureSampler(), where codes are numbers",
            )
        if self.sampler is None:
            try:
                inspect.signature(self.prior_codes).bind(1, temperature)
            except TypeError:
                raise InputError(
                    f"temperature = {temperature:g} was given, and prior_codes of {type(self).__name__} takes none",
                    "write it as prior_codes(self, n, temperature=1.0), or leave the temperature out",
                ) from None

    # ---- what files hold ----------------------------------------------------------------------------------------

    def take_sampler(self, plain: Any) -> None:
        """Takes the sampler that plain data of a file describe, whose weights follow; or none.

        Raises:
            InputError: when they describe none, or none of such codes.
        """
        self.sampler = None
        if plain is not None:
            sampler = from_plain(Sampler, plain, "sampler")
            self.sampler = sampler.build(self.code_space).requires_grad_(False).eval()

    def drop_sampler(self) -> None:
        """Takes away a sampler of codes that a fit will move, and says so."""
        if self.sampler is not None:
            rank_zero_info(
                f"{type(self.sampler.config).__name__} is fitted to codes that this fit of {type(self).__name__} will "
                "move: it is dropped; fit_sampler(model, data) fits one again"
            )
            self.sampler = None
