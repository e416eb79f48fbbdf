"""Models as folders of weights and plain data: `from_pretrained` and `save_pretrained`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

P = TypeVar("P", bound="Pretrained")


class Pretrained:
    """Base of what is saved as a folder and loaded from one, whatever its class."""

    @classmethod
    def from_pretrained(
        cls: type[P], name: str | os.PathLike[str], *, revision: str | None = None, subfolder: str | None = None
    ) -> P:
        """A pretrained model, in evaluation mode, with its preprocessing; of the class that it was saved as.

        The class says what is taken: `Autoencoder.from_pretrained` gives any model, `VAE.from_pretrained` a VAE or one
        of a subclass of it. Files hold weights and plain data; nothing that they say is run or imported. Published
        weights are read where `lightning_ae.zoo.importers` knows their layout.

        Args:
            name: a folder that `save_pretrained` wrote, or an artefact's; the name of an entry of the zoo; of a
                repository on the Hugging Face hub, "organisation/name" or hf://organisation/name@commit.
            revision: of a repository on the hub: a commit, or a branch or tag, of which it is said what commit it is.
                By default the one that the hub has now.
            subfolder: of the folder or repository, "vae" say.

        Raises:
            InputError: where there is no such thing, or it holds something else: it says what it found.
        """
        from lightning_ae.zoo.pretrained import load  # the zoo stands on top of the models

        found: P = load(name, cls, revision, subfolder)
        return found

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Writes config.json, what makes the model again as plain data, and model.safetensors, its weights.

        Preprocessing, threshold and a fitted sampler travel along. What is left out: how to get the training data
        again, which may be a path of this machine, and the state of a training, which checkpoints hold.

        Args:
            folder: for `from_pretrained`, here or elsewhere; it is made.
            overwrite: whether to replace a model that is there.

        Returns:
            The folder.

        Raises:
            InputError: when what is written would never load, a weight is not finite, the folder holds a model
                already, or cannot be written.
        """
        from lightning_ae.zoo.pretrained import save

        model: Any = self
        return save(model, folder, overwrite)
