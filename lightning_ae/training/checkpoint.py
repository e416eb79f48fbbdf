"""Checkpoints: which class one holds, and loading it as that class.

A file is read as plain data and weights (see `checkpoint_file`), from which a class of an allow-list is constructed
(see `rebuild`). Lightning's own loading would construct what the file asks for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from inspect import CO_VARARGS, CO_VARKEYWORDS, currentframe
from types import FrameType
from typing import Any, TypeVar

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.config import arguments, bind_arguments, class_path, from_earlier, import_class, to_plain
from lightning_ae.data.signature import FORMAT, Signature, listed
from lightning_ae.errors import InputError, unknown
from lightning_ae.parts.sampling import PREFIX, Density
from lightning_ae.preprocess import Preprocess
from lightning_ae.signatures import passed_on
from lightning_ae.thresholds import Threshold
from lightning_ae.training.checkpoint_file import (
    CONSTRUCTING,
    METADATA_KEY,
    check_class,
    hyper_parameters,
    init_args_of,
    later_arguments,
    read_checkpoint,
    signature_of,
)
from lightning_ae.training.rebuild import DAMAGED, as_now, check_finite, check_weights, rebuild, skeleton
from lightning_ae.training.versions import of_later, written_by

C = TypeVar("C", bound="Checkpointed")

OF_TRAINING = ("lr", "lr_schedule", "weight_decay", "layer_decay")
"""Hyper-parameters that an evaluation does not look at."""


class Checkpointed:
    """What a LightningModule needs so that its checkpoints say which class they hold, and reload from their path alone.

    They also carry the preprocessing of the data that the model was trained on, and how to get those data again.
    """

    given: tuple[str, ...]
    data_config: dict[str, Any] | None = None
    """The data module's plain data, where it has some."""
    columns: dict[str, str]
    """The columns of the data that play a role besides the input, by role."""
    threshold: Threshold | None = None

    hparams: Any
    state_dict: Any
    named_parameters: Any
    _trainer: Any
    _argument_names: tuple[str, ...]
    _known_to_load = False
    _signature: Signature | None = None

    def __new__(cls: type[C], *args: Any, **kwargs: Any) -> C:
        """Notes what the class is called with, which makes it again whatever it settles for the class above it."""
        self = super().__new__(cls)
        vars(self)["_called_with"] = args, kwargs
        return self

    @property
    def signature(self) -> Signature | None:
        """What goes into the model; of the data module at the first fit. Where values may be missing, it is given a
        mask."""
        return self._signature

    @signature.setter
    def signature(self, signature: Signature | None) -> None:
        self._signature = signature
        if signature is not None and signature.masked and "mask" not in self.given:
            self.given = (*self.given, "mask")

    @property
    def preprocess(self) -> Preprocess | None:
        """From data in natural units to what the model takes: a part of its signature."""
        return None if self.signature is None else self.signature.preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess | None) -> None:
        known = self.signature
        if preprocess is None:
            self.signature = None
        else:
            self.signature = replace(known or Signature(preprocess), preprocess=preprocess, version=FORMAT)

    def take_signature_of(
        self, data: Any, support: tuple[float, float] | None = None, multiple: int | None = None
    ) -> None:
        """Keeps what a data module says of its data, at the first fit; afterwards the data are read as the model says.

        Args:
            data: has a `signature`, or a `preprocess` at least, or nothing is known of it.
            support: the closed interval of values that the model's likelihood takes.
            multiple: of height and width, of a model of images of any size: whatever size the data had, it takes all.

        Raises:
            InputError: when it preprocesses data otherwise than the model was trained with.
        """
        found = getattr(data, "signature", None)
        if found is None and isinstance(getattr(data, "preprocess", None), Preprocess):
            found = Signature(data.preprocess)
        if not isinstance(found, Signature):
            return
        known, size = self.signature, getattr(found.preprocess, "size", None)
        if multiple is not None:
            found = found.of_any_size(multiple)
            if known is None and size is not None:
                rank_zero_info(
                    f"{type(self).__name__} takes images of any size in multiples of {multiple}: it is trained on "
                    f"{size[0]} x {size[1]} pixels, and what it is given later keeps its own"
                )
        if known is not None and known.preprocess != found.preprocess:
            raise InputError(
                f"{type(data).__name__} preprocesses data otherwise than this model was trained with",
                "give the data module the model's (a method use_signature); for a training of its own on these data, "
                "set model.signature = None",
            )
        if known is None or not known.columns:
            self.signature = found if support is None else found.with_support(support)

    def keep_arguments(self) -> None:
        """Keeps the arguments of all constructors that are at work, as plain data in `hparams`.

        Raises:
            InputError: when one has no plain form.
            TypeError: when the class settles one that its options name, and that could be given twice.
        """
        args, kwargs = vars(self).pop("_called_with")
        self.columns = {}
        given = bind_arguments(type(self), args, kwargs)
        self._argument_names = tuple(given)
        kept = self._of_constructors(currentframe())
        options = passed_on(type(self)) - kwargs.keys()
        if settled := sorted(name for name in options if name in kept and kept[name] is not given[name]):
            raise TypeError(
                f"{type(self).__name__} settles {', '.join(settled)}, which its options name: leave it out of the "
                "TypedDict, or no checkpoint and no command line could build the class"
            )
        known = arguments(type(self))
        kept = {name: value for name, value in kept.items() if name in known} | given
        self.save_hyperparameters({name: to_plain(value, name) for name, value in kept.items()})

    def save_hyperparameters(
        self, *args: Any, ignore: Sequence[str] | str | None = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """As Lightning's, for constructors too that pass on `**options`, whose signature lists all of them."""
        start = frame or currentframe()
        chosen = self._of_constructors(start)
        if args and all(isinstance(name, str) for name in args):
            chosen = {name: chosen[name] for name in args}
        elif args:
            (chosen,) = (value for value in args if not isinstance(value, str))
        while start is not None and start.f_back is not None:
            start = start.f_back  # an outermost frame has no constructor for Lightning to look at
        super().save_hyperparameters(chosen, ignore=ignore, frame=start, logger=logger)  # type: ignore[misc]

    def _of_constructors(self, frame: FrameType | None) -> dict[str, Any]:
        """The arguments of all constructors of this object at work; the outermost one's count."""
        found: dict[str, Any] = {}
        while frame is not None:
            code, values = frame.f_code, frame.f_locals
            count = code.co_argcount + code.co_kwonlyargcount
            names, options = code.co_varnames[:count], code.co_varnames[count:]
            if code.co_name == "__init__" and names and values.get(names[0]) is self:
                found |= {name: values[name] for name in names[1:]}
                if code.co_flags & CO_VARKEYWORDS:
                    found |= values[options[bool(code.co_flags & CO_VARARGS)]]
            frame = frame.f_back
        return found

    @property
    def init_args(self) -> dict[str, Any]:
        """The hyper-parameters that make this module again, when its class is called with them, as plain data.

        `hparams` may hold more: what a subclass settles for the class above it, or notes for itself.
        """
        plain = self._plain_hparams()
        return {name: plain[name] for name in self._argument_names if name in plain}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes which class this is, its hyper-parameters, and its preprocessing.

        Raises:
            InputError: when the checkpoint would never load; see `check_loads`.
        """
        from lightning_ae import __version__

        if not self._known_to_load:
            self.check_loads()
        for key in CONSTRUCTING:
            checkpoint.pop(key, None)
        checkpoint["hyper_parameters"] = self._plain_hparams()
        checkpoint[METADATA_KEY] = {
            "class_path": class_path(type(self)),
            "version": __version__,
            "arguments": list(self.init_args),
            "signature": None if self.signature is None else self.signature.plain(),
            "signature_hash": None if self.signature is None else self.signature.hash,
            "data": self.data_config,
            "columns": dict(self.columns),
            **({} if self.threshold is None else {"threshold": self.threshold.plain()}),
            **({} if self.sampler_plain is None else {"sampler": self.sampler_plain}),
        }

    @property
    def sampler_plain(self) -> dict[str, Any] | None:
        """The sampler that is fitted to the model's codes, as plain data; its weights are among the model's."""
        own = getattr(self, "sampler", None)
        found: dict[str, Any] | None = to_plain(own.config, "sampler") if isinstance(own, Density) else None
        return found

    def take_sampler(self, plain: Any) -> None:
        """Takes the sampler that plain data of a file describe, whose weights follow; or none.

        Raises:
            InputError: here of any, since the class says nothing of codes.
        """
        if plain is not None:
            raise InputError(f"it has a sampler of codes, which {type(self).__name__} has not", DAMAGED)

    def check_loads(self) -> None:
        """Refuses to train what no checkpoint could bring back: networks that were changed from outside.

        Raises:
            InputError: when the class, called with the hyper-parameters, makes another module than this one.
        """
        init_args, weights = self.init_args, self.state_dict(keep_vars=True)
        try:
            make: Any = type(self).from_init_args
            plain = self.sampler_plain

            def again() -> Any:
                module = make(init_args)
                module.take_sampler(plain)
                return module

            bare: Any = skeleton(again, len(weights), _is_ours(type(self)))
            if bare is not None:
                check_weights(bare.state_dict(keep_vars=True), weights)
        except InputError as error:
            raise InputError(
                f"a checkpoint of this {type(self).__name__} would never load: called with its hyper-parameters, the "
                f"class makes another module, and {error.message}",
                "make such changes in a subclass (build_encoder, build_decoder, or its __init__), or write an "
                "Architecture; compile with model.compile(); or train with enable_checkpointing=False",
            ) from error
        self._known_to_load = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses another class's checkpoint; takes its signature, by which the data module then reads its data.

        Raises:
            InputError: when the checkpoint is of another class, of other networks or, in an evaluation, of other
                hyper-parameters; when its weights are not finite; when the data module's data are not what the model
                was trained on.
        """
        version = checkpoint.get(METADATA_KEY, {}).get("version")
        with written_by(version):
            self._take(checkpoint)
        if self._trainer is not None and (said := of_later(version)):  # what follows is Lightning's, and its errors
            rank_zero_warn(f"the checkpoint is not known to work here: {said}")

    def _take(self, checkpoint: dict[str, Any]) -> None:
        check_class(checkpoint, type(self))
        if self._trainer is not None:
            # a fit may go on with another lr or weight of a term; other networks may take the same weights
            fits = self._trainer.state.fn == "fit"
            of_fit = {"architecture", *later_arguments(checkpoint)}  # of which nobody but an earlier version spoke
            self._check_hyperparameters(hyper_parameters(checkpoint), of_fit if fits else None)
            # else it is there: the module was made with it
            self._take_sampler_of(checkpoint)
            self._take_earlier_weights(checkpoint, fits)
        # under ModelParallelStrategy the weights are loaded by then, and no longer there
        for key in ("state_dict", "current_model_state"):  # the average of a run that took one, and its weights
            check_finite(checkpoint.get(key, {}), {name for name, _ in self.named_parameters()})
        saved = checkpoint[METADATA_KEY]
        if (signature := signature_of(saved)) is not None:
            self.signature = signature
            use: Any = getattr(getattr(self._trainer, "datamodule", None), "use_signature", None)
            if use is not None:
                use(signature)
        self.data_config = saved.get("data")
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        found = None if fits else saved.get("threshold")  # of weights that a fit will move
        self.threshold = None if found is None else Threshold.from_plain(found)
        self.columns = dict(saved.get("columns") or {})

    def _take_sampler_of(self, checkpoint: dict[str, Any]) -> None:
        """The sampler of a checkpoint, before its weights are loaded; a fit, which moves the codes, leaves it out."""
        if self._trainer.state.fn != "fit":
            self.take_sampler(from_earlier(checkpoint[METADATA_KEY].get("sampler")))
            return
        for key in ("state_dict", "current_model_state"):
            if key in checkpoint and checkpoint[METADATA_KEY].get("sampler") is not None:
                kept = checkpoint[key]
                checkpoint[key] = {name: kept[name] for name in kept if not name.startswith(PREFIX)}

    def _take_earlier_weights(self, checkpoint: dict[str, Any], fits: bool) -> None:
        """Weights of an earlier version's layout as this one has them; a fit cannot go on from them, whose optimizer
        knows tensors of other shapes."""
        for key in ("state_dict", "current_model_state"):
            kept = checkpoint.get(key, {})
            now = as_now(self, kept)  # type: ignore[arg-type]  # mixed into a module
            moved = [name for name, value in now.items() if value is not kept[name]]
            changed = [name for name in moved if now[name].shape != kept[name].shape]
            if changed and fits:
                was, is_now = (tuple(each[changed[0]].shape) for each in (kept, now))
                raise InputError(
                    f"the checkpoint is of an earlier version, in which {changed[0]} had the shape {was} and not "
                    f"{is_now}: its optimizer cannot go on",
                    "start a fit anew from its weights: model = load_model(path), without ckpt_path",
                )
            if changed:
                checkpoint[key] = now

    def _check_hyperparameters(self, saved: Mapping[str, Any], names: Collection[str] | None = None) -> None:
        """Refuses weights under other hyper-parameters, of those named, than they were trained with."""
        now = self._plain_hparams()
        looked_at = saved.keys() & now.keys() - set(OF_TRAINING)
        differ = [
            f"{name} = {saved[name]!r} (here {now[name]!r})"
            for name in sorted(looked_at if names is None else looked_at & set(names))
            if saved[name] != now[name]
        ]
        if differ:
            raise InputError(
                f"the checkpoint was trained with {listed(differ)}",
                "take the model as it was trained: lightning_ae.load_model(path), whose class must settle the same",
            )

    @classmethod
    def from_init_args(cls: type[C], init_args: Mapping[str, Any]) -> C:
        """The module that plain data of a file describe.

        Raises:
            InputError: for an argument that the class does not take.
        """
        known = arguments(cls)
        for name in init_args:
            if name not in known:
                raise unknown(f"argument of {cls.__name__}", name, known)
        return cls(**init_args)

    @classmethod
    def load_from_checkpoint(
        cls: type[C],
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = "cpu",
        strict: bool | None = None,
        **changed: Any,
    ) -> C:
        """The model saved in a checkpoint; nothing but the path is needed.

        The file is read as weights and plain data, and only this class is constructed from them.

        Args:
            checkpoint_path: the file that Lightning wrote.
            map_location: the device, as for `torch.load`.
            strict: whether the weights must be the model's exactly; by default as its `strict_loading` says.
            changed: hyper-parameters to change.

        Raises:
            InputError: when the file is missing or damaged, holds another class, or weights that are not finite.
        """
        for name in ("hparams_file", "weights_only"):
            if changed.pop(name, None) not in (None, True):
                raise InputError(
                    f"{name} is no option here: a checkpoint holds its own hyper-parameters, and nothing but weights "
                    "and plain data is read",
                    "change hyper-parameters by their names",
                )
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        try:
            with written_by(checkpoint[METADATA_KEY].get("version")):
                return cls._from(checkpoint, strict, changed)
        except InputError as error:
            message = f"{os.fspath(checkpoint_path)!r} cannot be loaded: {error.message}"
            raise InputError(message, error.hint) from error

    @classmethod
    def _from(cls: type[C], checkpoint: dict[str, Any], strict: bool | None, changed: Mapping[str, Any]) -> C:
        check_class(checkpoint, cls)
        kept = hyper_parameters(checkpoint)
        init_args = {**init_args_of(checkpoint), **changed}

        def make() -> Any:
            module: Any = cls.from_init_args(init_args)
            module.configure_model()
            module.take_sampler(from_earlier(checkpoint[METADATA_KEY].get("sampler")))
            return module

        def weights_for(module: Any) -> dict[str, Tensor]:
            content = {**checkpoint, "state_dict": dict(checkpoint["state_dict"])}
            module.on_load_checkpoint(content)  # where a subclass may rename what an earlier version of it saved
            return content["state_dict"]

        weights = checkpoint["state_dict"]
        module: Any = rebuild(make, weights_for, len(weights), _is_ours(cls), strict=strict)
        if not changed:  # what the class settles, and what it leaves to defaults without naming it
            module._check_hyperparameters(kept, set(arguments(cls)) - init_args.keys())
        module.hparams.update({name: value for name, value in kept.items() if name not in init_args})
        for value in weights.values():
            return module.to(value.device)
        return module

    def _plain_hparams(self) -> dict[str, Any]:
        # Lightning's command line adds names with an underscore, which would let a file choose what is constructed
        return {name: to_plain(value, name) for name, value in self.hparams.items() if not name.startswith("_")}


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The model in a checkpoint, as the class it was trained as, in evaluation mode.

    Args:
        path: a checkpoint that Lightning wrote.
        kwargs: of `load_from_checkpoint`: `map_location`, `strict`, hyper-parameters to change.

    Raises:
        InputError: when the file is missing or damaged, or its class is not imported.
    """
    checkpoint = read_checkpoint(path)
    with written_by(checkpoint[METADATA_KEY].get("version")):
        cls: Any = import_class(checkpoint[METADATA_KEY]["class_path"], Checkpointed, "the checkpoint")
    return cls.load_from_checkpoint(path, **kwargs).eval()


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("lightning_ae.")
