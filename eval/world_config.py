"""Every parameter of the simulated world, named and documented, with the defaults the demo uses.

The defaults are chosen before any model is judged on the world and then left alone. Deliberately absent:
anything about models, and the hand-written vocabulary (``eval.world_names``), which is not for turning.

Every part of the world draws from a stream of chance of its own (``WorldConfig.chance``), so that a new table
or a changed campaign leaves everything else as it was.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime

import numpy as np
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
    appeal_spread: float = Field(1.12, ge=0, description="Deviation of a product's log popularity.")
    attribute_signal: float = Field(0.7, ge=0, description="Pull of region and age on taste (logits).")
    eco_spread: float = Field(0.2, ge=0, description="Deviation between customers in liking eco goods.")
    price_spread: float = Field(0.12, ge=0, description="Deviation in liking dear goods of a kind.")

    # catalogue
    new_share: float = Field(0.3, ge=0, le=1, description="Share of products launched within the history.")
    withdrawn_share: float = Field(0.12, ge=0, le=1, description="Share of products withdrawn within it.")
    unavailable_share: float = Field(0.01, ge=0, le=1, description="Share listed but never on sale.")
    flagged_share: float = Field(
        0.05, ge=0, le=1, description="Share named for new customers, and as many for loyal ones."
    )
    stockouts_per_year: float = Field(0.8, ge=0, description="Times a year a product runs out of stock.")
    stockout_days: PositiveFloat = Field(10.0, description="Mean days until it is there again.")
    price_changes_per_year: float = Field(0.7, ge=0, description="Lasting changes of a price in a year.")
    price_change_sigma: float = Field(0.08, ge=0, description="Deviation of the log of such a change.")
    promotions_per_year: float = Field(0.8, ge=0, description="Passing price cuts of a product in a year.")
    promotion_days: PositiveFloat = Field(12.0, description="Mean days of a price cut.")
    eco_share: float = Field(0.25, ge=0, le=1, description="Share of products that are eco.")
    novelty: float = Field(1.2, ge=0, description="Extra draw of a product on its launch day (logits).")
    novelty_days: PositiveFloat = Field(30.0, description="Days in which that fades to 1/e.")
    price_sigma: float = Field(0.45, ge=0, description="Deviation of log price within a category.")

    # coming, visiting and going
    founder_share: float = Field(0.4, ge=0, le=1, description="Share signed up before the history starts.")
    lifetime_days: PositiveFloat = Field(1000.0, description="Scale of lifetimes (Pareto II), days.")
    lifetime_shape: PositiveFloat = Field(1.5, description="Shape of lifetimes; small = more uneven.")
    visits_per_month: PositiveFloat = Field(0.262, description="Median browsing visits in 30 days.")
    visits_spread: float = Field(1.13, ge=0, description="Deviation of the log visit rate.")
    year_swing: float = Field(0.25, ge=0, lt=1, description="Relative swing of visits over the year.")
    year_peak_day: float = Field(335.0, description="Day of the year with most visits.")
    weekdays: tuple[float, ...] = Field(
        (1.0, 1.1, 1.2, 1.4, 1.0, 0.1, 0.75), min_length=7, max_length=7, description="Monday to Sunday."
    )
    hours: tuple[float, ...] = Field(
        (0, 0, 0, 0, 0, 1, 2, 5, 9, 12, 14, 15, 14, 12, 10, 7, 4, 2, 1, 1, 1, 0, 0, 0),
        min_length=24,
        max_length=24,
        description="Relative traffic in each hour of the day, UTC.",
    )

    # what happens in a visit
    views_per_visit: PositiveFloat = Field(
        68.0, ge=1, description="Mean looks in a visit where reference_products are listed."
    )
    reference_products: PositiveFloat = Field(
        3700.0, description="Size of the catalogue that views_per_visit is meant for."
    )
    breadth: float = Field(
        0.6, ge=0, le=1, description="Looks shrink with this power of a catalogue smaller than that."
    )
    views_spread: float = Field(
        0.75, ge=0, description="Deviation between customers of the log of their mean looks in a visit."
    )
    views_shape: PositiveFloat = Field(
        1.5, description="Gamma shape of the looks of one customer's visits; small = more uneven."
    )
    cart_bias: float = Field(0.7, description="Logit of carting a viewed product that matches fully.")
    cart_slope: float = Field(1.2, ge=0, description="Logits lost as the match falls from 1 to 0.")
    checkout_rate: float = Field(0.62, gt=0, le=1, description="Share of carts that are paid.")
    extra_quantity: float = Field(0.3, ge=0, lt=1, description="Chance of each further unit of a consumable.")
    discount_share: float = Field(0.15, ge=0, le=1, description="Share of purchases with a discount.")
    discounts: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3), min_length=1, description="Discounts given, shares of the list price (0..1)."
    )
    return_rate: float = Field(0.023, ge=0, le=1, description="Share of purchase lines sent back.")
    return_days: PositiveFloat = Field(12.0, description="Mean days until a return.")

    price_sensitivity: float = Field(
        3.0, ge=0, description="Mean logits of carting gained if a product cost nothing (price sensitivity)."
    )
    sensitivity_shape: PositiveFloat = Field(
        1.2, description="Gamma shape of sensitivities; small = few customers care, and much."
    )
    stores_per_region: int = Field(3, ge=1, description="Stores in each region.")
    home_store: float = Field(0.85, ge=0, le=1, description="Share of store visits in the nearest one.")

    # lists shown
    listed_share: float = Field(0.3, ge=0, le=1, description="Share of online visits shown a ranked list.")
    list_length: int = Field(12, ge=1, description="Products in such a list.")
    examination_power: float = Field(
        1.0, ge=0, description="Position k is examined with chance k to the power of minus this."
    )

    # campaigns
    campaigns: int = Field(6, ge=0, description="Campaigns wanted; fewer where the history is short.")
    audience_share: float = Field(0.25, ge=0, le=1, description="Share of those who consent in an audience.")
    contact_days: int = Field(5, ge=1, description="Days over which the contacts of a campaign are spread.")
    response_days: int = Field(14, ge=1, description="Days after a contact in which purchases count.")
    persuadable_share: float = Field(0.25, ge=0, le=1, description="Share that contacts can persuade.")
    sleeping_dog_share: float = Field(0.08, ge=0, le=1, description="Share that contacts put off.")
    persuasion: float = Field(
        0.5, ge=0, le=1, description="Chance that a message opened at its best persuades a persuadable."
    )
    putting_off: float = Field(0.6, ge=0, le=1, description="Chance that a contact puts off a sleeping dog.")
    offer_discount: float = Field(0.15, ge=0, lt=1, description="Discount of an offer, share of the price.")
    agents: int = Field(12, ge=1, description="Agents who make the calls.")
    agent_spread: float = Field(0.35, ge=0, description="Deviation of the log of their skill.")

    # what else is known of customers
    consent_changes: float = Field(0.15, ge=0, le=1, description="Share whose consent to a channel changes.")
    ties_per_customer: float = Field(1.5, ge=0, description="Mean acquaintances each customer starts.")
    homophily: float = Field(0.8, ge=0, le=1, description="Share of ties between people of one main taste.")
    balance_rise: float = Field(
        0.5, ge=0, description="Relative rise of the balance in the month before a usual order."
    )

    # buying again
    again_rate: float = Field(0.9, ge=0, le=1, description="What remains of interest in a product one has.")
    rebuy_rate: float = Field(0.7, ge=0, lt=1, description="Chance a consumable is bought again.")
    rebuy_shape: PositiveFloat = Field(4.0, description="Weibull shape of the time between; high = regular.")
    rebuy_patience_days: float = Field(45.0, ge=0, description="Wait for an own visit before coming for it.")
    rebuy_trip_rate: float = Field(0.02, ge=0, le=1, description="Share that then does come for it alone.")

    @field_validator("ends_at")
    @classmethod
    def _in_utc(cls, ends_at: datetime) -> datetime:
        return ends_at.astimezone(UTC)

    def chance(self, part: str) -> np.random.Generator:
        """Return the stream of chance of one part of the world; the same part always gives the same one."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode())])

    @property
    def mean_looks(self) -> float:
        """Mean looks in a visit in a catalogue of this size."""
        size = min(1.0, self.products / self.reference_products)
        return float(1 + (self.views_per_visit - 1) * size**self.breadth)

    @property
    def starts_at(self) -> datetime:
        """First instant of the history, ``months`` before ``ends_at``."""
        start: datetime = (pd.Timestamp(self.ends_at) - pd.DateOffset(months=self.months)).to_pydatetime()
        return start
