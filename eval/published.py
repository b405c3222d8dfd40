"""What a bank published of its own recommender, beside ours: the figures, and whether they compare.

Its report tells AUC, logloss and the mean reciprocal rank of the first hit for all, new and existing customers, and
that its success is at most ten times that of its expert rule. How many candidates a customer had, and which share
of them was taken, it does not tell; all but the AUC depend on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from scipy.optimize import brentq
from scipy.stats import bernoulli

from eval.evaluate import ALL, EXISTING, NEW
from eval.metrics import F1, HR, MRR, PRECISION, RECALL
from eval.pooled import Pooled
from eval.results import (
    BesidePublished,
    CandidateScore,
    Estimate,
    Group,
    ListScore,
    OriginInfo,
    OwnGroup,
    PublishedGroup,
)
from eval.scorecard import AUC, entropy
from eval.slices import NEWCOMERS, STANDING, WITH_MEASURES, WITHOUT_MEASURES

TABLE: Final[dict[Group, PublishedGroup]] = {
    "all": PublishedGroup(group="all", auc=0.89, logloss=0.45, mrr=0.78),
    "new": PublishedGroup(group="new", auc=0.80, logloss=0.73, mrr=0.32),
    "existing": PublishedGroup(group="existing", auc=0.92, logloss=0.38, mrr=0.88),
}
MOST_TIMES_THE_EXPERT: Final = 10.0


def least_share_taken(logloss: float) -> float:
    """Return the least share of candidates taken at which a logloss can belong to a model worth having.

    Always saying the share p itself has the logloss :math:`H(p)`, and a model worth having is not worse than that;
    below half, :math:`H` grows with p.
    """
    if logloss >= float(bernoulli.entropy(0.5)):
        return 0.5
    return float(brentq(lambda p: float(bernoulli.entropy(p)) - logloss, 1e-9, 0.5))


def why_compare(*, products: int, base_rate: float | None, has_chances: bool) -> str:
    """Return whether our figures and the published ones compare, in plain words.

    Parameters
    ----------
    products
        Products on sale at an origin, the candidates of each customer here.
    base_rate
        The share of candidates bought here, None where none is.
    has_chances
        Whether any recipe's scores are chances that were held against what happened, so that it has a logloss.
    """
    theirs = TABLE["all"].logloss
    here = "here none is."
    if base_rate:
        here = (
            f"here one in {1 / base_rate:,.0f} is. What to hold ours against is {entropy(base_rate):.4f}, the logloss "
            "of always saying that share."
        )
    sentences = [
        "They compare in part.",
        "AUC does not depend on how rare purchases are, so it may be set beside with care: other customers, "
        "other products.",
        f"Logloss does not compare: {theirs:.2f} can only come of candidates of which about one in "
        f"{1 / least_share_taken(theirs):.0f} or more is taken, or of negatives that were sampled; {here}",
        "The reciprocal rank, precision and recall do not compare either: they fall with the number of candidates, "
        f"there probably some tens of products, as banks have, here {products:,} on sale.",
    ]
    if not has_chances:
        sentences.append(
            "No recipe here gives chances of a purchase within these windows, so there is no logloss of ours."
        )
    return " ".join(sentences)


#: The groups in the order in which they are told, and the slice of lists that each is.
_SLICES: Final[dict[Group, tuple[str, str]]] = {
    "all": (ALL, ALL),
    "new": (STANDING, NEW),
    "new with measures": (NEWCOMERS, WITH_MEASURES),
    "new without measures": (NEWCOMERS, WITHOUT_MEASURES),
    "existing": (STANDING, EXISTING),
}


def beside_published(
    recipe: str, pooled: Pooled, origins: Sequence[OriginInfo], *, k: int
) -> BesidePublished:
    """Return a recipe's figures beside the published ones.

    Parameters
    ----------
    recipe
        Whose figures.
    pooled
        What was found.
    origins
        What the candidates were.
    k
        How many products were shown.
    """
    whole = next((row for row in pooled.candidates if (row.value, row.at) == (ALL, None)), None)
    return BesidePublished(
        recipe=recipe,
        k=k,
        published=list(TABLE.values()),
        published_times_expert=MOST_TIMES_THE_EXPERT,
        ours=list(_ours(recipe, pooled)),
        why=why_compare(
            products=origins[-1].products_on_sale,
            base_rate=None if whole is None else whole.base_rate,
            has_chances=bool(pooled.calibration),
        ),
    )


def _ours(recipe: str, pooled: Pooled) -> Iterator[OwnGroup]:
    """Iterate over the groups in which anybody is judged, by purchased policy."""
    lists = {
        (row.purchased, row.dimension, row.value): row
        for row in pooled.lists
        if row.recipe == recipe and row.at is None
    }
    candidates = {row.value: row for row in pooled.candidates if row.recipe == recipe and row.at is None}
    times = {
        (row.purchased, row.dimension, row.value): row.multiple
        for row in pooled.success
        if row.recipe == recipe
    }
    for policy in dict.fromkeys(purchased for purchased, _, _ in lists):
        for group, (dimension, value) in _SLICES.items():
            row = lists.get((policy, dimension, value))
            if row is not None:
                ratio = times.get((policy, dimension, value))
                yield _own(group, row, candidates.get(group), ratio)


def _own(
    group: Group, row: ListScore, pairs: CandidateScore | None, times_expert: Estimate | None
) -> OwnGroup:
    return OwnGroup(
        group=group,
        purchased=row.purchased,
        customers=row.customers,
        rows=row.rows,
        asked=0 if pairs is None else pairs.rows,
        auc=None if pairs is None else pairs.auc,
        logloss=None if pairs is None else pairs.logloss,
        logloss_constant=None if pairs is None else pairs.logloss_constant,
        base_rate=None if pairs is None else pairs.base_rate,
        auc_within=row.metrics.get(AUC),
        mrr=row.metrics.get(MRR),
        precision=row.metrics.get(PRECISION),
        recall=row.metrics.get(RECALL),
        f1=row.metrics.get(F1),
        hr=row.metrics.get(HR),
        times_expert=times_expert,
    )
