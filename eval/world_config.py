"""Every parameter of the simulated world, named and documented, with the defaults the demo uses.

The defaults are chosen before any model is judged on the world and then left alone. Deliberately absent:
anything about models, and the hand-written vocabulary (``eval.world_names``), which is not for turning.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveFloat, field_validator

from eval.world_names import CATEGORIES


class WorldConfig(BaseModel):
    """Every parameter of the simulated world; unknown keys are refused.

    The defaults give a shop of which one can say, as of Online Retail: few products make most of the sales,
    about three purchases in ten repeat an earlier one, and few customers place most of the orders.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    customers: int = Field(5000, ge=1, description="Customers who ever sign up.")
    products: int = Field(800, ge=len(CATEGORIES), description="Products ever listed.")
    months: int = Field(18, ge=1, description="Length of the history, calendar months.")
    seed: int = Field(0, ge=0, description="Seed of the one source of chance.")
    ends_at: AwareDatetime = Field(datetime(2026, 6, 1, tzinfo=UTC), description="First instant not told.")

    # tastes
    factors: int = Field(8, ge=1, description="Hidden dimensions of taste, beside eco and price level.")
    tastes: int = Field(3, ge=1, description="Tastes a customer mixes; each visit follows one of them.")
    sharpness: PositiveFloat = Field(4.5, description="How strongly a match of taste draws views (logits).")
    individuality: float = Field(0.75, ge=0, description="Norm of what is each taste's and product's own.")
    brand_effect: float = Field(0.35, ge=0, description="Norm of what products of one brand share.")
    appeal_spread: float = Field(1.4, ge=0, description="Deviation of a product's log popularity.")
    attribute_signal: float = Field(0.7, ge=0, description="Pull of region and age on taste (logits).")
    eco_spread: float = Field(0.2, ge=0, description="Deviation between customers in liking eco goods.")
    price_spread: float = Field(0.12, ge=0, description="Deviation in liking dear goods of a kind.")

    # catalogue
    new_share: float = Field(0.3, ge=0, le=1, description="Share of products launched within the history.")
    withdrawn_share: float = Field(0.12, ge=0, le=1, description="Share of products withdrawn within it.")
    unavailable_share: float = Field(0.01, ge=0, le=1, description="Share listed but never on sale.")
    eco_share: float = Field(0.25, ge=0, le=1, description="Share of products that are eco.")
    novelty: float = Field(1.2, ge=0, description="Extra draw of a product on its launch day (logits).")
    novelty_days: PositiveFloat = Field(30.0, description="Days in which that fades to 1/e.")
    price_sigma: float = Field(0.45, ge=0, description="Deviation of log price within a category.")

    # coming, visiting and going
    founder_share: float = Field(0.4, ge=0, le=1, description="Share signed up before the history starts.")
    lifetime_days: PositiveFloat = Field(700.0, description="Scale of lifetimes (Pareto II), days.")
    lifetime_shape: PositiveFloat = Field(2.0, description="Shape of lifetimes; small = more uneven.")
    visits_per_month: PositiveFloat = Field(0.75, description="Median browsing visits in 30 days.")
    visits_spread: float = Field(0.95, ge=0, description="Deviation of the log visit rate.")
    year_swing: float = Field(0.25, ge=0, lt=1, description="Relative swing of visits over the year.")
    year_peak_day: float = Field(335.0, description="Day of the year with most visits.")
    weekdays: tuple[float, ...] = Field(
        (0.9, 0.9, 0.95, 1.0, 1.1, 1.2, 0.95), min_length=7, max_length=7, description="Monday to Sunday."
    )
    hours: tuple[float, ...] = Field(
        (1, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 11, 12, 11, 9, 9, 10, 12, 14, 16, 16, 12, 7, 3),
        min_length=24,
        max_length=24,
        description="Relative traffic in each hour of the day, UTC.",
    )

    # what happens in a visit
    views_per_visit: PositiveFloat = Field(7.5, ge=1, description="Mean products looked at in a visit.")
    cart_bias: float = Field(-0.4, description="Logit of carting a viewed product that matches fully.")
    cart_slope: float = Field(1.2, ge=0, description="Logits lost as the match falls from 1 to 0.")
    checkout_rate: float = Field(0.62, gt=0, le=1, description="Share of carts that are paid.")
    extra_quantity: float = Field(0.3, ge=0, lt=1, description="Chance of each further unit of a consumable.")
    discount_share: float = Field(0.15, ge=0, le=1, description="Share of purchases with a discount.")
    discounts: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3), min_length=1, description="Discounts given, shares of the list price (0..1)."
    )
    return_rate: float = Field(0.05, ge=0, le=1, description="Share of purchase lines sent back.")
    return_days: PositiveFloat = Field(12.0, description="Mean days until a return.")

    # buying again
    again_rate: float = Field(0.25, ge=0, le=1, description="What remains of interest in a product one has.")
    rebuy_rate: float = Field(0.54, ge=0, lt=1, description="Chance a consumable is bought again.")
    rebuy_shape: PositiveFloat = Field(4.0, description="Weibull shape of the time between; high = regular.")
    rebuy_patience_days: float = Field(4.0, ge=0, description="Wait for an own visit before coming for it.")

    @field_validator("ends_at")
    @classmethod
    def _in_utc(cls, ends_at: datetime) -> datetime:
        return ends_at.astimezone(UTC)

    @property
    def starts_at(self) -> datetime:
        """First instant of the history, ``months`` before ``ends_at``."""
        start: datetime = (pd.Timestamp(self.ends_at) - pd.DateOffset(months=self.months)).to_pydatetime()
        return start
