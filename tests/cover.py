"""The parts that models are made of, each pair of those that work together once: cases to certify.

The kinds' classes are looked up in `lightning_ae.parts`, so a new one is covered by being exported there. A pair that a
constructor refuses is kept with its reason, and not passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from lightning_ae import VAE, VQVAE, InputError, get_model, list_models, parts
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.config import Configurable, arguments, to_plain
from lightning_ae.training.certify import Case

Pair = Mapping[str, Configurable]
CODES: dict[str, Configurable] = {"vector": MLP(hidden=(24,)), "map": ConvNet(channels=(4, 8), code="map")}

SMALL: dict[str, dict[str, Any]] = {"VampPrior": {"pseudo_inputs": 20}}
"""What other sizes show as well, in less time: each draw asks for the density under each pseudo-input's posterior."""


def named(kind: str) -> list[Any]:
    """The parts of a kind, with their defaults but for `SMALL`; none where there is no such kind."""
    base = getattr(parts, kind, None)
    found = [getattr(parts, name) for name in parts.__all__]
    found = [cls for cls in found if base and issubclass(cls, base) and hasattr(cls, "__dataclass_fields__")]
    return [cls(**SMALL.get(cls.__name__, {})) for cls in found]


@dataclass
class Cover:
    """Cases in which each pair appears that can be built; and those that are refused, with their reasons."""

    cases: list[Case] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, model: type, *groups: Iterable[Pair]) -> None:
        """Adds the pairs of several groups, which have no argument in common, as few cases as the longest has pairs."""
        fit = [[pair for pair in group if self._fits(model, pair)] for group in groups]
        for i in range(max(map(len, fit), default=0)):
            chosen = [group[i % len(group)] for group in fit if group]
            whole = {name: part for pair in chosen for name, part in pair.items()}
            try:
                model(input_shape=(1, 8, 8), **whole)
            except InputError:  # of pairs that get on with defaults, but not with each other
                self.cases += [case(model, pair) for pair in chosen]
            else:
                self.cases.append(case(model, *chosen))

    def once(self) -> list[Case]:
        """As few of the cases as show each part."""
        chosen, seen = [], set[str]()
        names = {case.title: set(re.split("; | x ", case.title)) for case in self.cases}
        while left := [case for case in self.cases if names[case.title] - seen]:
            chosen.append(max(left, key=lambda case: len(names[case.title] - seen)))
            seen |= names[chosen[-1].title]
        return chosen

    def _fits(self, model: type, pair: Pair) -> bool:
        try:
            model(input_shape=(1, 8, 8), **pair)
        except InputError as error:
            self.refused[title(model, pair)] = str(error)
            return False
        self.covered.append(title(model, pair))
        return True


def case(model: type, *pairs: Pair) -> Case:
    """A case of pairs of parts."""
    init_args = {name: to_plain(part, name) for pair in pairs for name, part in pair.items()}
    return Case(model.__name__, init_args, title="; ".join(title(model, pair) for pair in pairs))


def title(model: type, pair: Pair) -> str:
    """What a pair is called; of a class that another one's pairs are tried with, too, with its name."""
    names = [type(part).__name__ for part in pair.values()]
    return " x ".join([*names, *([model.__name__] if "quantizer" in pair and model is not VQVAE else [])])


def pairs(**kinds: Sequence[Configurable]) -> list[Pair]:
    """Each of one argument's values with each of another's."""
    return [dict(zip(kinds, chosen, strict=True)) for chosen in product(*kinds.values())]


def cover() -> Cover:
    """(prior, posterior) and (objective, likelihood) of the VAE; (code, quantizer) of each class that takes one."""
    found = Cover()
    found.add(
        VAE,
        pairs(prior=named("Prior"), posterior=named("Posterior")),
        pairs(objective=named("Objective"), likelihood=named("Likelihood")),
    )
    for model in map(get_model, list_models()):
        if "quantizer" in arguments(model):
            found.add(model, pairs(architecture=list(CODES.values()), quantizer=named("Quantizer")))
    return found
