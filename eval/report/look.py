"""How recipes look on the page, the same everywhere: order, colour and dashes; and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from markupsafe import Markup

from eval.metrics import NDCG
from eval.results import Estimate, ListScore, Results
from serving.recommender import PurchasedPolicy

# Okabe & Ito, told apart by the colour-blind; baselines are grey, told apart by their dashes
_MODELS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b")
_GREYS: Final = ("#3f4850", "#6b7680", "#8d97a0", "#aab2b9")
_DASHES: Final = ("6 3", "2 3", "8 3 2 3", "1 4")
_DRAWN: Final = 8
TITLES: Final[dict[PurchasedPolicy, str]] = {
    "exclude": "Only what is new to the customer",
    "allow": "Bought before may be shown",
    "due": "Bought before is shown when due",
}


class Look:
    """Colour and dashes of each recipe, the same in every chart, and the order in which they are told."""

    def __init__(self, results: Results) -> None:
        first = results.policies[0]
        means = {
            recipe.name: score.metrics[NDCG].mean
            for recipe in results.recipes
            if (score := results.score(recipe.name, first)) is not None
        }
        self.order = sorted(means, key=lambda name: -means[name])
        is_baseline = {recipe.name: recipe.baseline for recipe in results.recipes}
        models = [name for name in self.order if not is_baseline[name]]
        baselines = [name for name in self.order if is_baseline[name]]
        self.colour = {name: _MODELS[i % len(_MODELS)] for i, name in enumerate(models)}
        self.colour |= {name: _GREYS[i % len(_GREYS)] for i, name in enumerate(baselines)}
        self.dash = dict.fromkeys(models, "")
        self.dash |= {name: _DASHES[i % len(_DASHES)] for i, name in enumerate(baselines)}
        self.winner = results.verdict.winner
        #: What lines are drawn of: the winner, the models by rank, and every baseline that there is room for.
        self.drawn = [
            name for name in self.order if name in {*models[: _DRAWN - 4], *baselines[:4], self.winner}
        ]

    def keys(self, names: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Return the legend of a chart."""
        return [
            {"name": name, "colour": self.colour[name], "dash": self.dash[name]}
            for name in names or self.drawn
        ]


def number(value: float, digits: int = 4) -> str:
    """Write a number with so many digits after the point."""
    return f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """Write a share as a percentage; what is more than nothing never reads as nothing."""
    text = f"{100 * value:.{digits}f}"
    return f"< {10**-digits:g} %" if value > 0 and float(text) == 0 else f"{text} %"


def interval(estimate: Estimate | None, digits: int = 4) -> str:
    """Write a mean with its interval."""
    if estimate is None:
        return "–"
    return (
        f"{number(estimate.mean, digits)} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"
    )


def mean(estimate: Estimate | None, digits: int = 4) -> str:
    """Write a mean alone."""
    return "–" if estimate is None else number(estimate.mean, digits)


def p_value(value: float) -> str:
    """Write a p-value."""
    return "< .001" if value < 0.001 else number(value, 3).removeprefix("0")


def legend_line(key: dict[str, str]) -> Markup:
    """Return the swatch of a line."""
    dash = f' stroke-dasharray="{key["dash"]}"' if key.get("dash") else ""
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
        f'<line x1="1" x2="25" y1="4" y2="4" stroke="{key["colour"]}" stroke-width="3"{dash}/></svg>'
    )


def pooled_scores(results: Results, policy: PurchasedPolicy, look: Look) -> Iterator[ListScore]:
    """Iterate over the pooled scores of a policy, best recipe first by the first policy."""
    for name in look.order:
        score = results.score(name, policy)
        if score is not None:
            yield score
