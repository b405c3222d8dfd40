"""What ``experiments.toml`` plans: the shares by which customers are assigned, so that nobody types them again.

A shadow variant answers unseen and its customers see the control, so its share is the control's. The holdout is an
experiment over all others: who is held out sees segment and popular only, everybody else whatever is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from eval.experiment.customers import EXPERIMENT, VARIANT
from feature_repo import schema as s
from serving.experiments_file import FALLBACK, HOLDOUT, Experiments

#: What everybody who is not held out sees, whatever else is tried out on them.
PERSONAL: Final = "personal"


@dataclass(frozen=True)
class Planned:
    """What the file says of one experiment.

    Attributes
    ----------
    shares
        Variant that is seen → share; the first is the control.
    held_out
        Share of all customers whom no experiment reaches.
    shadows
        Variants that answer unseen.
    interleaved
        Every answer is made of the lists of both variants.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    held_out: float = 0.0
    shadows: tuple[str, ...] = ()
    interleaved: bool = False


def planned(experiments: Experiments, name: str) -> Planned | None:
    """Return what the file plans for an experiment, or for the holdout; None where it knows nothing of it."""
    if name == HOLDOUT:
        held = experiments.holdout
        return Planned({FALLBACK: held, PERSONAL: 1 - held}) if held else None
    found = next((one for one in experiments.experiments if one.name == name), None)
    if found is None:
        return None
    total = sum(variant.weight for variant in found.variants)
    shares = {variant.name: variant.weight / total for variant in found.variants if not variant.shadow}
    control = found.variants[0].name
    shares[control] += sum(variant.weight / total for variant in found.variants if variant.shadow)
    return Planned(
        shares,
        held_out=experiments.holdout,
        shadows=tuple(variant.name for variant in found.variants if variant.shadow),
        interleaved=found.is_interleaved,
    )


def beside_the_holdout(exposures: pd.DataFrame) -> pd.DataFrame:
    """Return all exposures as those of one experiment, the holdout beside everybody else, since it began."""
    held = exposures[EXPERIMENT] == HOLDOUT
    begun = exposures.loc[held, s.AT].min()
    told = exposures.copy()
    told[EXPERIMENT], told[VARIANT] = HOLDOUT, told[VARIANT].where(held, PERSONAL)
    kept: pd.DataFrame = told[told[s.AT] >= begun]
    return kept
