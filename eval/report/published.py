"""What a bank published of its own recommender, beside ours: the figures, and whether they compare.

Its report tells AUC, logloss and the mean reciprocal rank of the first hit for all, new and existing customers, and
that its success is at most ten times that of its expert rule. How many candidates a customer had, and which share
of them was taken, it does not tell; two of the three figures depend on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from scipy.optimize import brentq
from scipy.stats import bernoulli

Group = Literal["all", "new", "existing"]


@dataclass(frozen=True)
class Published:
    """AUC, logloss and mean reciprocal rank of one group of customers."""

    auc: float
    logloss: float
    mrr: float


TABLE: Final[dict[Group, Published]] = {
    "all": Published(auc=0.89, logloss=0.45, mrr=0.78),
    "new": Published(auc=0.80, logloss=0.73, mrr=0.32),
    "existing": Published(auc=0.92, logloss=0.38, mrr=0.88),
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


def why_compare(*, products: int, base_rate: float, has_chances: bool) -> str:
    """Return whether our figures and the published ones compare, in plain words.

    Parameters
    ----------
    products
        Products on sale at an origin, the candidates of each customer here.
    base_rate
        The share of candidates bought here.
    has_chances
        Whether any recipe's scores are chances that were held against what happened, so that it has a logloss.
    """
    theirs = TABLE["all"].logloss
    sentences = [
        "They compare in part.",
        "AUC does not depend on how rare purchases are, so it may be set beside with care: other customers, "
        "other products.",
        f"Logloss does not compare: {theirs:.2f} can only come of candidates of which about one in "
        f"{1 / least_share_taken(theirs):.0f} or more is taken, or of negatives that were sampled; here one in "
        f"{1 / base_rate:,.0f} is.",
        "The reciprocal rank does not compare either: it falls with the number of candidates, "
        f"here {products:,} products.",
    ]
    if not has_chances:
        sentences.append(
            "No recipe here gives chances of a purchase within these windows, so there is no logloss of ours."
        )
    return " ".join(sentences)
