"""What is missing of a sample, by what is known of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.errors import InputError
from lightning_ae.exact import keyed
from lightning_ae.natural import Reading, batch_of, is_array, tensor_of, vectors
from lightning_ae.parts.likelihoods import known
from lightning_ae.parts.mixed import refuse_classes
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.scores import asked
from lightning_ae.uses.units import BATCH, natural


def impute(
    model: Autoencoder,
    data: Any,
    mask: Any = None,
    *,
    steps: int = 200,
    burn_in: int = 50,
    seed: int = 0,
    **given: Any,
) -> Tensor:
    r"""Samples of which what is missing is filled in by its mean given the rest; what is known stays bit for bit.

    A model with an `impute` of its own, as `MissingDataIWAE`, does it by that, with as many draws as `steps` less
    `burn_in`. Any other that draws its codes, a VAE, does it by a Markov chain (Rezende, Mohamed & Wierstra 2014,
    appendix F), which has to be started somewhere and takes some steps to forget it:

    .. math:: z^t \sim q(z \mid x^o, x^{m,t-1}), \qquad x^{m,t} \sim p(x^m \mid z^t),

    with :math:`x^{m,0} = 0` in the model's units. Its stationary distribution is that of the model, as far as the
    approximate posterior is the true one (pseudo-Gibbs). What is filled in is the mean of
    :math:`\mathbb E[x^m \mid z^t]` over the steps after the first `burn_in`. Where gaps are large and the likelihood's
    scale is small the chain moves slowly, and may stay near where it started: half of an image that is missing in one
    piece is often filled in by one guess, not by the mean of all.

    Args:
        model: a trained one that draws its codes.
        data: in natural units, as of `model.features`, but with gaps: NaN, or what `mask` says.
        mask: true where a value is known, of the shape of the data; of images also (B, H, W), one for all channels. By
            default where data are not NaN; of images that are no array it must be given.
        steps: of the chain, or draws.
        burn_in: how many of the steps do not count, less than `steps`.
        seed: of the draws.
        given: what else the model takes, by the names in `model.given`.

    Returns:
        (B, *shape), in natural units: of images floats in [0, 1].

    Raises:
        InputError: of a model without draws; for a likelihood of classes, which have no mean; for numbers that cannot
            be; for data that cannot be used.
    """
    for name, value, least in (("steps", steps, 1), ("burn_in", burn_in, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be an integer of {least} or more, got {value!r}")
    if burn_in >= steps:
        raise InputError(f"burn_in must be less than steps, got {burn_in} and {steps}")
    own = getattr(model, "impute", None)
    if own is None and "sample" not in model.latents:
        raise InputError(
            f"{type(model).__name__} gives one code for an input, and has no distribution of what is missing",
            "take a VAE, or MissingDataIWAE, which is trained on data with gaps",
        )
    refuse_classes(model.likelihood)
    with asked(model):
        whole, filled, is_known, roles = _read(model, data, mask, given)
        found = []
        for start in tqdm(range(0, len(filled), BATCH), "imputing", delay=2, leave=False):
            part = slice(start, start + BATCH)
            x, m, of_part = filled[part], is_known[part], rows_of(roles, part)
            if own is not None:
                with keyed(seed, "impute", start, samples=len(x)):
                    found.append(own(x, m, samples=steps - burn_in, chunk=50, **of_part))
            else:
                found.append(_by_chain(model, x, m, of_part, steps, burn_in, (seed, start)))
    mean = natural(model, torch.cat(found))
    return torch.where(is_known.to(whole.device), whole, mean.to(whole))


def _by_chain(
    model: Autoencoder,
    x: Tensor,
    mask: Tensor,
    roles: dict[str, Tensor],
    steps: int,
    burn_in: int,
    key: tuple[int, int],
) -> Tensor:
    """What is known of x (B, *input_shape), and the chain's mean elsewhere."""
    total = torch.zeros_like(x, dtype=torch.float64)
    known_part = x
    for step in range(steps):
        with keyed(*key, "impute", step, samples=len(x)):
            code = model.draw(x, **roles)
            parameters = model.decoder_parameters(code, **model.completed(x, roles))
            x = torch.where(mask, known_part, model.likelihood.sample(parameters, model.noise("missing")).to(x))
        if step >= burn_in:
            total += model.likelihood.mean(parameters)
    return torch.where(mask, known_part, (total / (steps - burn_in)).to(x))


def _read(
    model: Autoencoder, data: Any, mask: Any, given: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Data with gaps in natural units; as the model takes them, with zeros in the gaps; where there are none; and what
    the model takes besides, but for the mask."""
    if mask is None and is_array(data):
        values = tensor_of(data)
        mask = ~values.isnan() if values.is_floating_point() else torch.ones_like(values, dtype=torch.bool)
    said = None if mask is None else torch.as_tensor(mask).bool()
    if said is not None and said.ndim == len(model.input_shape) == 3 and is_array(data):
        shape = tensor_of(data).shape  # one mask for all channels
        said = said.unsqueeze(1).expand(-1, shape[1] if len(shape) == 4 else 1, -1, -1)
    signature = model.signature
    how = Reading(mask=said) if signature is None else replace(signature.reading(said), masked=True)
    if signature is not None:
        whole = signature.preprocess.natural(data, how)
        x = signature.preprocess(whole.to(model.device))
    else:
        whole = vectors(data, how) if len(model.input_shape) == 1 else batch_of(data, how)
        x = whole.to(model.device)
    is_known = ~whole.isnan() if said is None else said
    if is_known.shape != x.shape:
        raise InputError(
            f"the mask has the shape {tuple(is_known.shape)}, where the model takes {tuple(x.shape)}",
            "give data of the model's own size and layout, (B, C, H, W) of images, and a mask of that shape",
        )
    is_known = is_known.to(model.device)
    roles = {role: value for role, value in given.items() if role != "mask"}
    beside = {model.columns.get(role, role): torch.as_tensor(value) for role, value in roles.items()}
    filled = known(x, is_known).to(model.dtype)
    more = {"mask": is_known} if "mask" in model.given else {}
    read, _, found = model.read({"input": filled, **beside, **more} if beside or more else filled)
    found.pop("mask", None)
    return _as_given(model, whole), read, is_known, {k: v.to(model.device) for k, v in found.items()}


def _as_given(model: Autoencoder, whole: Tensor) -> Tensor:
    """Data in natural units in those in which `natural` gives them: of images in [0, 1]."""
    preprocess = model.preprocess
    if isinstance(preprocess, ImagePreprocess):
        if whole.dtype == torch.uint8:
            return whole.float() / 255
        if preprocess.range is not None:
            low, high = preprocess.range
            return (whole.float() - low) / (high - low)
    return whole
