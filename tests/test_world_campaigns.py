"""Campaigns of the simulated world: lawful contacts, known propensities, true effects that can be found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from eval.world import World, WorldConfig, simulate
from eval.world_campaigns import ARMS, MESSAGE, NO_CONTACT, OFFER, TEMPERS
from eval.world_consent import CONTACT_CHANNELS, PHONE
from eval.world_contacts import (
    ARM,
    COST,
    DELIVERED_AT,
    EFFECT_COLUMNS,
    HOLDOUT,
    OPENED_AT,
    RESPONDED_AT,
    RESPONSE,
    RESPONSE_CHANNEL,
    RESPONSES,
    REWARD,
    SENT_AT,
    SKILL,
    SLOT,
    STOP,
    TARGET,
    TEMPER,
)
from eval.world_measures import APP_VISITS, BALANCE, INCOME
from feature_repo.schema import (
    AGENT_ID,
    AT,
    CAMPAIGN_ID,
    CATEGORY,
    CHANNEL,
    CONSENT_PREFIX,
    CUSTOMER_ID,
    ENDS_AT,
    GROUP,
    KIND,
    NAME,
    OTHER_ID,
    PRODUCT_ID,
    PROPENSITY,
    PURCHASE,
    REASON,
    SIGNED_UP_AT,
    STARTS_AT,
    VALID_FROM,
    VALUE,
)

CONFIG = WorldConfig(
    customers=9000, products=240, months=8, seed=21, audience_share=0.6, visits_per_month=0.6
)
KEY = [CAMPAIGN_ID, CUSTOMER_ID]


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(CONFIG)


@pytest.fixture(scope="module")
def outcomes(world: World) -> pd.DataFrame:
    """The truth about each contact beside what the tables show of it."""
    bought = world.interactions.loc[world.interactions[KIND] == PURCHASE, [CUSTOMER_ID, PRODUCT_ID, AT]]
    category = world.products.drop_duplicates(PRODUCT_ID).set_index(PRODUCT_ID)[CATEGORY]
    bought = bought.assign(**{CATEGORY: bought[PRODUCT_ID].map(category), "when": bought[AT]}).drop(
        columns=AT
    )
    rows = world.contacts.merge(world.campaigns[[CAMPAIGN_ID, CATEGORY]], on=CAMPAIGN_ID)
    joined = rows[[*KEY, CATEGORY, AT]].merge(bought, on=[CUSTOMER_ID, CATEGORY])
    passed = joined["when"] - joined[AT]
    window = pd.Timedelta(days=CONFIG.response_days)
    within = joined[(passed > pd.Timedelta(0)) & (passed <= window)]
    seen = pd.MultiIndex.from_frame(rows[KEY]).isin(pd.MultiIndex.from_frame(within[KEY]))
    truth = world.truth.effects.drop(columns=[AT, ARM, PROPENSITY, CHANNEL])
    return rows.assign(seen=seen).merge(truth, on=KEY, validate="one_to_one")


# --- contacts -----------------------------------------------------------------------------------------


def test_contacts_belong_to_known_campaigns_and_customers(world: World) -> None:
    contacts = world.contacts
    assert len(contacts) > 10_000
    assert not contacts.duplicated(KEY).any()
    assert set(contacts[CAMPAIGN_ID]) == set(world.campaigns[CAMPAIGN_ID])
    assert set(contacts[CUSTOMER_ID]) <= set(world.customers[CUSTOMER_ID])
    assert set(world.campaigns[CATEGORY]) <= set(world.products[CATEGORY])
    dated = contacts.merge(world.campaigns[[CAMPAIGN_ID, STARTS_AT, ENDS_AT]], on=CAMPAIGN_ID)
    assert (dated[STARTS_AT] <= dated[AT]).all()
    assert (dated[AT] + pd.Timedelta(days=CONFIG.response_days) <= dated[ENDS_AT]).all()
    assert (world.campaigns[ENDS_AT] < CONFIG.ends_at).all()
    signed_up = contacts[CUSTOMER_ID].map(world.truth.signed_up_at)
    assert (signed_up < contacts[AT]).all()


def test_times_are_in_order(world: World) -> None:
    contacts = world.contacts
    for earlier, later in (
        (AT, SENT_AT),
        (SENT_AT, DELIVERED_AT),
        (DELIVERED_AT, OPENED_AT),
        (OPENED_AT, RESPONDED_AT),
    ):
        there = contacts[contacts[later].notna()]
        assert len(there) > 100
        assert there[earlier].notna().all()
        assert (there[earlier] <= there[later]).all()
    assert contacts[RESPONDED_AT].notna().equals(contacts[RESPONSE] != RESPONSES[0])
    assert contacts[RESPONSE_CHANNEL].notna().equals(contacts[RESPONDED_AT].notna())


def test_holdout_is_never_touched(world: World) -> None:
    holdout = world.contacts[world.contacts[GROUP] == HOLDOUT]
    assert len(holdout) > 3000
    assert (holdout[ARM] == NO_CONTACT).all()
    assert holdout[[SENT_AT, DELIVERED_AT, OPENED_AT, RESPONDED_AT, AGENT_ID, REASON]].isna().all(axis=None)
    assert (holdout[[COST, REWARD, VALUE]] == 0).all(axis=None)
    assert (holdout[RESPONSE] == "none").all()
    target = world.contacts[world.contacts[GROUP] == TARGET]
    assert target[SENT_AT].notna().all() and (target[COST] > 0).all()
    assert set(target[ARM]) == {MESSAGE, OFFER}


def test_consent_is_respected(world: World) -> None:
    versions = world.customers.sort_values(VALID_FROM)
    asked = pd.merge_asof(
        world.contacts.sort_values(AT), versions, left_on=AT, right_on=VALID_FROM, by=CUSTOMER_ID
    )
    for channel in CONTACT_CHANNELS:
        rows = asked[asked[CHANNEL] == channel]
        assert len(rows) > 100
        assert rows[CONSENT_PREFIX + channel].all()
    stopped = world.contacts[world.contacts[REASON] == STOP]
    assert len(stopped) > 10
    later = stopped[[*KEY, CHANNEL, RESPONDED_AT]].merge(
        world.contacts, on=[CUSTOMER_ID, CHANNEL], suffixes=("", "_later")
    )
    assert (later[AT] <= later[RESPONDED_AT]).all()


def test_consent_changes_over_time(world: World) -> None:
    assert (world.customers.groupby(CUSTOMER_ID)[VALID_FROM].min() == world.truth.signed_up_at).all()
    changed = world.customers[CUSTOMER_ID].value_counts() > 1
    assert 0.2 < changed.mean() < 0.7
    assert (world.customers[VALID_FROM] < CONFIG.ends_at).all()


def test_answers_fit_together(world: World) -> None:
    contacts = world.contacts
    assert set(contacts[RESPONSE]) == set(RESPONSES)
    assert contacts[REASON].notna().equals(contacts[RESPONSE] == "refused")
    assert (contacts[AGENT_ID].notna() == ((contacts[CHANNEL] == PHONE) & (contacts[GROUP] == TARGET))).all()
    assert set(contacts[AGENT_ID].dropna()) <= set(world.truth.agents[AGENT_ID])
    assert ((contacts[VALUE] > 0) == (contacts[RESPONSE] == "purchase")).all()
    rewarded = contacts[contacts[REWARD] > 0]
    assert len(rewarded) > 20
    assert (rewarded[ARM] == OFFER).all()


def test_propensities_are_what_happened(outcomes: pd.DataFrame) -> None:
    """Frequencies of being contacted lie within exact binomial bounds; arms are even."""
    groups = outcomes.groupby([CAMPAIGN_ID, PROPENSITY])[GROUP]
    assert outcomes[PROPENSITY].nunique() > 2
    level = 0.001 / groups.ngroups
    for (_, propensity), group in groups:
        hits = int((group == TARGET).sum())
        assert binomtest(hits, len(group), propensity).pvalue > level
    contacted = outcomes[outcomes[GROUP] == TARGET]
    assert binomtest(int((contacted[ARM] == OFFER).sum()), len(contacted), 0.5).pvalue > 0.001


# --- effects ------------------------------------------------------------------------------------------


def test_tables_show_the_outcome_of_the_arm_that_was_drawn(outcomes: pd.DataFrame) -> None:
    assert set(EFFECT_COLUMNS) >= {f"chance_{arm}" for arm in ARMS} | {f"bought_{arm}" for arm in ARMS}
    potential = np.stack([outcomes[f"bought_{arm}"] for arm in ARMS], axis=1).astype(bool)
    drawn = outcomes[ARM].map({arm: number for number, arm in enumerate(ARMS)}).to_numpy()
    assert np.array_equal(potential[np.arange(len(drawn)), drawn], outcomes["seen"].to_numpy())


def test_chances_are_calibrated(outcomes: pd.DataFrame) -> None:
    """The true chance before a contact is the share that bought, in total and where it is highest."""
    chance, bought = outcomes[f"chance_{NO_CONTACT}"], outcomes[f"bought_{NO_CONTACT}"].astype(float)
    assert bought.sum() > 300
    for rows in (chance >= 0, chance >= chance.quantile(0.9), chance < chance.quantile(0.7)):
        # the baseline takes renewals and looks as independent: 10 % beside chance itself
        deviation = np.sqrt((chance[rows] * (1 - chance[rows])).sum())
        assert abs(bought[rows].sum() - chance[rows].sum()) < 3.3 * deviation + 0.1 * chance[rows].sum()


@pytest.mark.parametrize("arm", [MESSAGE, OFFER])
def test_weighted_difference_recovers_the_average_effect(outcomes: pd.DataFrame, arm: str) -> None:
    """Horvitz-Thompson with the known propensities finds the true effect within its 99.9 % interval."""
    seen = outcomes["seen"].to_numpy(dtype=float)
    of_arm = (outcomes[ARM] == arm) / (outcomes[PROPENSITY] / 2)
    of_none = (outcomes[ARM] == NO_CONTACT) / (1 - outcomes[PROPENSITY])
    found = seen * (of_arm - of_none).to_numpy()
    true = (outcomes[f"chance_{arm}"] - outcomes[f"chance_{NO_CONTACT}"]).mean()
    error = found.std() / np.sqrt(len(found))
    assert true > 0.01
    assert abs(found.mean() - true) < norm.ppf(0.9995) * error
    assert abs(found.mean()) > 2 * error  # there is something to be found


def test_effects_differ_between_customers_and_can_be_seen(world: World, outcomes: pd.DataFrame) -> None:
    effect = {arm: outcomes[f"chance_{arm}"] - outcomes[f"chance_{NO_CONTACT}"] for arm in (MESSAGE, OFFER)}
    temper = outcomes[TEMPER]
    unmoved, persuadable, dog = TEMPERS
    assert (effect[MESSAGE][temper == unmoved].abs() < 1e-12).all()
    assert (effect[MESSAGE][temper == persuadable] >= 0).all()
    assert (effect[MESSAGE][temper == dog] <= 0).all()
    dogs = outcomes[temper == dog]
    assert 0.03 < len(dogs) / len(outcomes) < 0.2
    assert dogs["bought_none"].sum() > dogs["bought_message"].sum()  # they exist, and are put off

    age = world.customers.drop_duplicates(CUSTOMER_ID).set_index(CUSTOMER_ID)["age_band"]
    by_age = effect[MESSAGE].groupby(outcomes[CUSTOMER_ID].map(age)).mean()
    assert by_age["18-24"] > 1.5 * by_age["65+"]
    push = outcomes[CHANNEL] == "push"
    young = outcomes[CUSTOMER_ID].map(age).isin(["18-24", "25-34"])
    by_slot = effect[MESSAGE][push & young].groupby(outcomes[SLOT]).mean()
    assert by_slot["evening"] > 1.2 * by_slot["morning"]
    sensitivity = world.truth.customers.set_index(CUSTOMER_ID)["price_sensitivity"]
    keen = outcomes[CUSTOMER_ID].map(sensitivity) > sensitivity.quantile(0.8)
    gain = (effect[OFFER] - effect[MESSAGE])[temper == persuadable].groupby(keen).mean()
    assert gain[True] > 1.5 * gain[False]


def test_agents_differ_in_skill(world: World, outcomes: pd.DataFrame) -> None:
    calls = outcomes[outcomes[AGENT_ID].notna() & (outcomes[TEMPER] == TEMPERS[1])]
    effect = calls[f"chance_{MESSAGE}"] - calls[f"chance_{NO_CONTACT}"]
    skill = calls[AGENT_ID].map(world.truth.agents.set_index(AGENT_ID)[SKILL])
    assert np.corrcoef(skill, effect)[0, 1] > 0.3


# --- measures and ties --------------------------------------------------------------------------------


def test_measures_tell_of_what_is_hidden(world: World) -> None:
    measures = world.measures
    assert set(measures[NAME]) == {BALANCE, INCOME, APP_VISITS}
    assert measures[AT].is_monotonic_increasing and (measures[AT] < CONFIG.ends_at).all()
    assert set(measures[CUSTOMER_ID]) == set(world.customers[CUSTOMER_ID])
    purchases = world.interactions[world.interactions[KIND] == PURCHASE]
    never = set(world.customers[CUSTOMER_ID]) - set(purchases[CUSTOMER_ID])
    assert len(never) > 100  # and they all have measures
    assert (measures[AT] >= measures[CUSTOMER_ID].map(world.truth.signed_up_at)).all()

    income = measures[measures[NAME] == INCOME].groupby(CUSTOMER_ID)[VALUE].mean()
    hidden = world.truth.customers.set_index(CUSTOMER_ID)
    assert np.corrcoef(np.log(income), hidden["wealth"].reindex(income.index))[0, 1] > 0.6
    app = measures[measures[NAME] == APP_VISITS]
    gone = app[AT] >= app[CUSTOMER_ID].map(world.truth.alive_until)
    assert (app[VALUE][gone] == 0).all() and app[VALUE][~gone].mean() > 0.3


def test_balance_rises_before_a_purchase(world: World) -> None:
    balance = world.measures[world.measures[NAME] == BALANCE]
    usual = balance.groupby(CUSTOMER_ID)[VALUE].transform("median")
    relative = balance.assign(relative=balance[VALUE] / usual)
    bought = world.interactions.loc[world.interactions[KIND] == PURCHASE, [CUSTOMER_ID, AT]].sort_values(AT)
    ahead = pd.merge_asof(
        relative,
        bought.assign(next=bought[AT]),
        on=AT,
        by=CUSTOMER_ID,
        direction="forward",
        tolerance=pd.Timedelta(days=30),
    )
    soon = ahead["next"].notna()
    assert ahead["relative"][soon].mean() > 1.08 * ahead["relative"][~soon].mean()


def test_friends_share_taste(world: World) -> None:
    ties = world.ties
    known = set(world.customers[CUSTOMER_ID])
    assert set(ties[CUSTOMER_ID]) <= known and set(ties[OTHER_ID]) <= known
    assert (ties[CUSTOMER_ID] != ties[OTHER_ID]).all()
    forth = pd.MultiIndex.from_frame(ties[[CUSTOMER_ID, OTHER_ID]])
    assert forth.is_unique and forth.isin(forth.swaplevel()).all()
    for side in (CUSTOMER_ID, OTHER_ID):
        assert (ties[AT] >= ties[side].map(world.truth.signed_up_at)).all()
    assert ties["weight"].between(0, 1).all()

    truth = world.truth
    mean = np.einsum("ct,ctf->cf", truth.taste_weights, truth.tastes)
    mean = (mean - mean.mean(axis=0)) / np.linalg.norm(mean - mean.mean(axis=0), axis=1, keepdims=True)
    index = pd.Index(truth.customers[CUSTOMER_ID])
    mine, theirs = index.get_indexer(ties[CUSTOMER_ID]), index.get_indexer(ties[OTHER_ID])
    shuffled = np.random.default_rng(0).permutation(theirs)
    assert (mean[mine] * mean[theirs]).sum(axis=1).mean() > 0.15 + (mean[mine] * mean[shuffled]).sum(
        axis=1
    ).mean()


def test_signing_up_columns_are_those_of_the_customer(world: World) -> None:
    assert (world.customers.groupby(CUSTOMER_ID)[SIGNED_UP_AT].nunique() == 1).all()
