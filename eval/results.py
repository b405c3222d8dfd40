"""``results.json``: everything a rolling evaluation found, in a versioned schema that the report only shows.

A reader that knows ``schema_version`` knows every field; unknown ones are refused. Means come with percentile
bootstrap intervals over customers, each drawn with all the origins at which they are judged. Deliberately absent: rows
of single customers, but for the examples.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.significance import Interval
from feature_repo.quality_profile import ColumnProfile
from serving.errors import DataError
from serving.recommender import PurchasedPolicy

SCHEMA_VERSION: Final = 1
RESULTS: Final = "results.json"
_ALPHA: Final = 0.05

#: Kinds of customers whose candidates are scored apart; the two of new customers where the shop has measures.
Group = Literal["all", "new", "new with measures", "new without measures", "existing"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Strict):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """Round an interval to six digits after the point."""
        return cls(mean=round(interval.mean, 6), low=round(interval.low, 6), high=round(interval.high, 6))


class Run(_Strict):
    """How and when the evaluation was made. ``command`` repeats it; ``seconds`` is all of it, kept results included."""

    made_at: datetime
    command: str
    code_version: str
    cores: int
    seconds: float


class Data(_Strict):
    """Which tables: their directory, one hash of all and one of each file, rows, and the first and last interaction."""

    directory: str
    tables_hash: str
    files: dict[str, str]
    rows: dict[str, int]
    first: datetime
    last: datetime


class Setting(_Strict):
    """How it was judged.

    ``k`` products are shown to each customer; a window of ``horizon_days`` follows each origin, and the origins are
    ``every_days`` apart. ``asked_origins`` is how many were wanted: a short history may not have as many, and those
    at which too few bought are left out.
    """

    k: int
    seed: int
    every_days: int
    horizon_days: int
    asked_origins: int
    resamples: int
    confidence: float


class Unranked(_Strict):
    """An origin at which a recipe was fitted without its ranker, and why."""

    at: datetime
    why: str


class RecipeInfo(_Strict):
    """A recipe that was judged.

    ``chance_days``: its scores are chances of a purchase within so many days; ``unranked``: where it was judged
    without its ranker, so that it says nothing of what a ranker is worth.
    """

    name: str
    model: str
    baseline: bool
    chance_days: int | None
    recipe: dict[str, Any]
    unranked: list[Unranked] = Field(default_factory=list)
    fit_seconds: float
    judge_seconds: float


class OriginInfo(_Strict):
    """One origin: the window [at, end), whom it judges and on what.

    ``buyers`` bought in the window, ``new`` of them for the first time; ``judged`` of them are asked about.
    ``unseen`` is the share of what they bought that was not known at the origin and can only be missed.
    ``candidates`` says in words which pairs of customers and products are scored.
    """

    at: datetime
    end: datetime
    buyers: int
    judged: int
    new: int
    purchases: int
    unseen: float
    known_customers: int
    products_on_sale: int
    candidates: str


class SkippedOrigin(_Strict):
    """An origin that was left out: too few known ``customers`` made its ``purchases`` in [at, end) to judge by."""

    at: datetime
    end: datetime
    customers: int
    purchases: int


class ListScore(_Strict):
    """Means of what was shown to the customers of one slice, over all origins or at one (``at``).

    ``rows`` counts pairs of a customer and an origin, ``customers`` different customers. Metrics: see
    ``eval.metrics``, and ``auc`` a product that was bought above one that was not, within a customer; ``novelty``
    bits; ``diversity`` 0 to 1; ``repeats_shown`` the share of places that show products bought before;
    ``recall_repeats`` and ``recall_new`` recall of what was bought again and for the first time.
    """

    purchased: PurchasedPolicy
    recipe: str
    dimension: str
    value: str
    at: datetime | None = None
    customers: int
    rows: int
    metrics: dict[str, Estimate]


class CandidateScore(_Strict):
    """Scores of the candidates of known customers of a group; over all origins or at one.

    ``auc`` is of all pairs (customer, product) of an origin together. ``logloss`` is told of chances only, beside
    ``logloss_constant``, that of one who always says the share of pairs that are bought, ``base_rate``; both are None
    where no pair is.
    """

    recipe: str
    value: Group
    at: datetime | None = None
    rows: int
    auc: Estimate | None
    logloss: Estimate | None
    logloss_constant: float | None
    base_rate: float | None


class Comparison(_Strict):
    """The paired difference ``better`` − ``worse`` in a metric; ``p_holm`` is corrected for all pairs of recipes.

    The interval is that of the pair alone, so it may leave zero out where the corrected p is not below .05.
    """

    purchased: PurchasedPolicy
    metric: str
    better: str
    worse: str
    difference: Estimate
    p: float
    p_holm: float

    @property
    def disagrees(self) -> bool:
        """Whether interval and corrected p say different things of whether this is chance."""
        return (self.p_holm < _ALPHA) != (self.difference.low > 0 or self.difference.high < 0)


class Multiple(_Strict):
    """Success (the customer buys one of the k) as a multiple of the expert rule's, of all customers or of one slice.

    ``multiple`` is None where the rule never succeeds.
    """

    purchased: PurchasedPolicy
    recipe: str
    dimension: str = "all"
    value: str = "all"
    multiple: Estimate | None


class Beyond(_Strict):
    """What belongs to all lists of a recipe: means over the origins, and sums over them by tier of sales.

    ``tiers`` has, for head (the fifth sold most before the origin), middle and tail (the half sold least), the
    counts of ``products``, of what was ``bought``, ``shown`` and ``hits``.
    """

    purchased: PurchasedPolicy
    recipe: str
    coverage: float
    gini: float
    sources: dict[str, float]
    tiers: dict[str, dict[str, int]]


class Gains(_Strict):
    """Contacting the customers with the highest scores for a product first: how many of its buyers are reached.

    ``reached[i]`` is the share of buyers at ``i`` % of the customers; ``contacts_for_80`` the share of customers
    for 80 % of the buyers; ``lift`` how many times more buyers than by chance at a share of contacts.
    """

    recipe: str
    buyers: float
    reached: list[float]
    contacts_for_80: float
    lift: dict[str, float]


class CalibrationBin(_Strict):
    """Pairs whose predicted chance lies in [low, high): how many, the mean chance, the share bought; None of none."""

    low: float
    high: float
    pairs: float
    predicted: float | None
    bought: float | None


class Calibration(_Strict):
    """Predicted chances beside what happened, for a recipe whose scores are chances; ``ece`` over these ten bins."""

    recipe: str
    bins: list[CalibrationBin]
    ece: float


class PublishedGroup(_Strict):
    """What a bank published of its own recommender for a group of customers."""

    group: Group
    auc: float
    logloss: float
    mrr: float


class OwnGroup(_Strict):
    """The same figures of ours, and those of the k products shown, for a group of customers.

    ``auc`` and what follows it up to ``base_rate`` are of the candidates of known customers, as in
    ``CandidateScore``; ``auc_within`` and the rest of lists, as in ``ListScore``. ``times_expert`` is ``Multiple``.
    """

    group: Group
    purchased: PurchasedPolicy
    customers: int
    rows: int
    asked: int
    auc: Estimate | None
    logloss: Estimate | None
    logloss_constant: float | None
    base_rate: float | None
    auc_within: Estimate | None
    mrr: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    hr: Estimate | None
    times_expert: Estimate | None


class BesidePublished(_Strict):
    """The winner beside what a bank published of its recommender; ``why`` says whether the figures compare."""

    recipe: str
    k: int
    published: list[PublishedGroup]
    published_times_expert: float
    ours: list[OwnGroup]
    why: str


class Shown(_Strict):
    """A product of an example; ``hit``: the customer bought it in the window."""

    product_id: str
    name: str
    hit: bool


class Example(_Strict):
    """One customer at the last origin: what they had bought, what they bought next, what each recipe shows."""

    customer_id: str
    why: str
    at: datetime
    history: list[str]
    bought: list[str]
    shown: dict[str, list[Shown]]


class MetricDelta(_Strict):
    """A mean in the previous report and in this one."""

    purchased: PurchasedPolicy
    recipe: str
    metric: str
    then: Estimate
    now: Estimate


class Shift(_Strict):
    """How far a score or a customer feature has moved: population stability index, and what chance explains."""

    column: str
    psi: float
    noise: float
    verdict: Literal["stable", "changed a little", "changed much"]


class Drift(_Strict):
    """This report beside the previous one of the same tables."""

    previous: str
    made_at: datetime
    same_tables: bool
    metrics: list[MetricDelta]
    shifts: list[Shift]


class Verdict(_Strict):
    """Which recipe to ship, and how sure that is.

    ``sure`` when it is better than every other recipe, ``beats_baselines`` when it is better than every baseline,
    both beyond chance after correction. ``reasons`` are further sentences.
    """

    winner: str
    sure: bool
    beats_baselines: bool
    level_with: list[str]
    sentence: str
    reasons: list[str]


class Results(_Strict):
    """The whole evaluation."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["rolling evaluation"] = "rolling evaluation"
    verdict: Verdict
    run: Run
    data: Data
    setting: Setting
    recipes: list[RecipeInfo]
    origins: list[OriginInfo]
    skipped: list[SkippedOrigin] = Field(default_factory=list)
    lists: list[ListScore]
    candidates: list[CandidateScore]
    comparisons: list[Comparison]
    success: list[Multiple]
    beyond: list[Beyond]
    gains: list[Gains]
    calibration: list[Calibration]
    beside_published: BesidePublished
    examples: list[Example]
    drift: Drift | None
    profiles: dict[str, ColumnProfile]

    def write(self, directory: Path) -> Path:
        """Write ``results.json`` into ``directory`` in one step; return its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / RESULTS
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read ``results.json``.

        Raises
        ------
        DataError
            It is missing, or of another schema.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(
                f"expected results of a rolling evaluation (schema {SCHEMA_VERSION}) at {path}, found none; "
                "make them with `nextbest evaluate TABLES`"
            ) from error

    def score(
        self, recipe: str, purchased: PurchasedPolicy, *, dimension: str = "all", value: str = "all"
    ) -> ListScore | None:
        """Return the pooled list metrics of a recipe in a slice; None where nobody is judged."""
        for row in self.lists:
            if (row.at, row.recipe, row.purchased) == (None, recipe, purchased) and (
                (row.dimension, row.value) == (dimension, value)
            ):
                return row
        return None

    def multiples(self, purchased: PurchasedPolicy) -> dict[str, Estimate | None]:
        """Return by recipe the multiple of the expert rule's success, over all customers."""
        return {
            row.recipe: row.multiple
            for row in self.success
            if (row.purchased, row.dimension) == (purchased, "all")
        }

    @property
    def policies(self) -> list[PurchasedPolicy]:
        """The purchased policies under which anybody is judged, in order."""
        return list(dict.fromkeys(row.purchased for row in self.lists))
