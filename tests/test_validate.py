"""Validate: every check has a planted file that breaks it and one that passes it."""

# ruff: noqa: E501 (one flaw a line reads best)
from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_repo import schema as s
from feature_repo.validate import Finding, Validation, validate

CLEAN = {
    s.INTERACTIONS: (
        "customer_id,product_id,at,kind,quantity,value,discount\n"
        "ann,pen,2024-01-02,purchase,2,4,0\n"
        "ann,pen,2024-01-03,return,1,2,0\n"
        "bob,ink,2024-01-04T10:00:00Z,view,,,\n"
    ),
    s.PRODUCTS: (
        "product_id,name,price,margin,available,launched_at,withdrawn_at,valid_from,consent_x\n"
        "pen,钢笔,2,1,true,2024-01-01,2024-06-01,2024-01-01,\n"
        "pen,钢笔,3,1,true,2024-01-01,2024-06-01,2024-02-01,\n"
        "ink,墨水,5,1,true,2024-01-01,,2024-01-01,\n"
    ),
    s.CUSTOMERS: (
        "customer_id,signed_up_at,valid_from,consent_sms\n"
        "ann,2023-01-01,2023-01-01,true\nbob,2023-01-01,2023-01-01,no\n"
    ),
    s.MEASURES: "customer_id,at,name,value\nann,2024-01-01,balance,10\n",
    s.CAMPAIGNS: "campaign_id,starts_at,ends_at\nspring,2024-01-01,2024-02-01\n",
    s.CONTACTS: (
        "campaign_id,customer_id,channel,at,group,propensity,response\n"
        "spring,ann,sms,2024-01-05,target,0.8,click\n"
    ),
    s.TIES: "customer_id,other_id,at,weight\nann,bob,2024-01-01,1\n",
}


def run(
    directory: Path, tables: Mapping[str, str | None] | None = None, *, now: datetime | None = None
) -> Validation:
    for name, text in (CLEAN | dict(tables or {})).items():
        if text is not None:
            (directory / f"{name}.csv").write_text(text, encoding="utf-8")
    return validate(directory, now=now)


def find(validation: Validation, table: str, check: str) -> Finding:
    found = [f for f in validation.findings if (f.table, f.check) == (table, check)]
    assert len(found) == 1, [(f.table, f.check) for f in validation.findings]
    return found[0]


def test_clean_tables_pass_every_check_with_one_line_each(tmp_path: Path) -> None:
    validation = run(tmp_path)
    assert not validation.failed
    assert [f for f in validation.findings if f.status != "PASS"] == []
    assert validation.counts["PASS"] == len(validation.findings)
    names = [(f.table, f.check) for f in validation.findings]
    assert len(set(names)) == len(names)
    assert find(validation, s.INTERACTIONS, "returns").count == 1
    assert all(f.message for f in validation.findings)


LOG = CLEAN[s.INTERACTIONS].splitlines(keepends=True)[0]
GOOD = "ann,pen,2024-01-02,purchase,2,4,0\nbob,ink,2024-01-03,purchase,1,5,0\ncat,ink,2024-01-04,view,,,\n"
P = "product_id,price,valid_from,launched_at,withdrawn_at,available,margin,consent_x\n"
PRODUCTS = P + "pen,2,2024-01-01,2024-01-01,2024-06-01,true,1,\nink,5,2024-01-01,,,true,1,\n"
C = "customer_id,signed_up_at,valid_from,consent_sms\n"
K = "campaign_id,customer_id,channel,at,group,propensity,response\n"


@pytest.mark.parametrize(
    ("table", "check", "text", "status", "count", "first"),
    [
        # interactions: rejected rows
        ("interactions", "at readable", LOG + GOOD + "ann,pen,never,,,,\nann,pen,,,,,\n", "WARN", 2, 4),
        ("interactions", "at readable", LOG + "ann,pen,2024-01-02,,,,\n" + "ann,pen,x,,,,\n" * 2, "FAIL", 2, 2),
        ("interactions", "product_id readable", LOG + GOOD + 'ann,"  ",2024-01-02,,,,\n', "WARN", 1, 4),
        ("interactions", "kind known", LOG + GOOD + "ann,pen,2024-01-02,gift,,,\n", "WARN", 1, 4),
        ("interactions", "rows usable", LOG + GOOD + "ann,pen,never,,,,\nann,,2024-01-02,,,,\n", "WARN", 2, 4),
        ("interactions", "rows usable", LOG + "ann,pen,x,,,,\nann,,2024-01-02,,,,\n", "FAIL", 2, 1),
        ("interactions", "lines well formed", LOG + GOOD + "ann,pen\n", "WARN", 1, None),
        ("interactions", "lines well formed", LOG + "a\nb\n", "FAIL", 2, None),
        ("interactions", "not empty", LOG, "FAIL", 0, None),
        # interactions: kept rows
        ("interactions", "customer_id is an id", LOG + GOOD + "NaN,pen,2024-01-02,,,,\n", "WARN", 1, 4),
        ("interactions", "product_id is an id", LOG + GOOD + "ann,None,2024-01-02,,,,\n", "WARN", 1, 4),
        ("interactions", "quantity readable", LOG + GOOD + 'ann,pen,2024-01-02,,"1,5",,\n', "WARN", 1, 4),
        ("interactions", "value readable", LOG + GOOD + "ann,pen,2024-01-02,,,£3,\n", "WARN", 1, 4),
        ("interactions", "discount readable", LOG + GOOD + "ann,pen,2024-01-02,,,,10%\n", "WARN", 1, 4),
        ("interactions", "at not before 1990", LOG + GOOD + "ann,pen,1970-01-01,view,,,\n", "WARN", 1, 4),
        ("interactions", "at not in the future", LOG + GOOD + "ann,pen,2204-01-01,view,,,\n", "WARN", 1, 4),
        ("interactions", "customers known", LOG + GOOD + ",pen,2024-01-02,,,,\n", "WARN", 1, 4),
        ("interactions", "customers known", LOG + ",pen,2024-01-02,,,,\n", "FAIL", 1, 1),
        ("interactions", "lines differ", LOG + GOOD + GOOD[: GOOD.index("\n") + 1], "WARN", 1, 4),
        ("interactions", "returns", LOG + GOOD + "ann,pen,2024-01-03,return,1,2,\n", "PASS", 1, 4),
        ("interactions", "returns follow a purchase", LOG + GOOD + "bob,pen,2024-01-09,return,,,\n", "WARN", 1, 4),
        ("interactions", "returns follow a purchase", LOG + GOOD + "ann,pen,2024-01-01,return,,,\n", "WARN", 1, 4),
        ("interactions", "quantity above zero", LOG + GOOD * 10 + "ann,pen,2024-01-02,,0,,\n", "WARN", 1, 31),
        ("interactions", "quantity above zero", LOG + GOOD + "ann,pen,2024-01-02,,-1,,\n", "FAIL", 1, 4),
        ("interactions", "value not negative", LOG + GOOD * 10 + "ann,pen,2024-01-02,,,-1,\n", "WARN", 1, 31),
        ("interactions", "value not negative", LOG + GOOD + "ann,pen,2024-01-02,,,-1,\n", "FAIL", 1, 4),
        ("interactions", "product_id in products", LOG + GOOD + "ann,cup,2024-01-02,,,,\n", "WARN", 1, 4),
        ("interactions", "product_id in products", LOG + "ann,cup,2024-01-02,,,,\n", "FAIL", 1, 1),
        ("interactions", "customer_id in customers", LOG + GOOD, "WARN", 1, 3),
        ("interactions", "bought while on sale", LOG + GOOD + "ann,pen,2024-06-01,,,,\n", "WARN", 1, 4),
        ("interactions", "bought while on sale", LOG + GOOD + "ann,pen,2023-12-31,,,,\n", "WARN", 1, 4),
        # products
        ("products", "product_id readable", PRODUCTS + ",1,2024-01-01,,,,,\n", "WARN", 1, 3),
        ("products", "product_id is an id", PRODUCTS + "null,1,2024-01-01,,,,,\n", "WARN", 1, 3),
        ("products", "product_id once", PRODUCTS + "pen,3,2024-01-01,,,,,\n", "FAIL", 1, 3),
        ("products", "valid_from given", PRODUCTS + "cup,3,,,,,,\n", "WARN", 1, 3),
        ("products", "valid_from readable", PRODUCTS + "cup,3,soon,,,,,\n", "WARN", 1, 3),
        ("products", "price readable", PRODUCTS + "cup,dear,2024-01-01,,,,,\n", "WARN", 1, 3),
        ("products", "margin readable", PRODUCTS + "cup,3,2024-01-01,,,,slim,\n", "WARN", 1, 3),
        ("products", "available readable", PRODUCTS + "cup,3,2024-01-01,,,maybe,,\n", "WARN", 1, 3),
        ("products", "launched_at readable", PRODUCTS + "cup,3,2024-01-01,soon,,,,\n", "WARN", 1, 3),
        ("products", "withdrawn_at readable", PRODUCTS + "cup,3,2024-01-01,,soon,,,\n", "WARN", 1, 3),
        ("products", "consent_x readable", PRODUCTS + "cup,3,2024-01-01,,,,,perhaps\n", "WARN", 1, 3),
        ("products", "launched_at before withdrawn_at", PRODUCTS + "cup,3,2024-01-01,2024-02-01,2024-01-01,,,\n", "FAIL", 1, 3),
        ("products", "price above zero", PRODUCTS + "cup,0,2024-01-01,,,,,\n", "FAIL", 1, 3),
        ("products", "price above zero", PRODUCTS + "".join(f"c{i},1,2024-01-01,,,,,\n" for i in range(30)) + "cup,-1,2024-01-01,,,,,\n", "WARN", 1, 33),
        # the other tables
        ("customers", "customer_id readable", C + "ann,,2024-01-01,\nbob,,2024-01-01,\n,,,\n,,,1\n", "WARN", 2, 3),
        ("customers", "customer_id once", C + "ann,,2024-01-01,\nbob,,2024-01-01,\nann,,2024-01-01,\n", "FAIL", 1, 3),
        ("customers", "customer_id is an id", C + "ann,,2024-01-01,\nn/a,,2024-01-01,\n", "WARN", 1, 2),
        ("customers", "valid_from given", C + "ann,,2024-01-01,\nbob,,,\n", "WARN", 1, 2),
        ("customers", "valid_from readable", C + "ann,,2024-01-01,\nbob,,x,\n", "WARN", 1, 2),
        ("customers", "signed_up_at readable", C + "ann,,2024-01-01,\nbob,x,2024-01-01,\n", "WARN", 1, 2),
        ("customers", "consent_sms readable", C + "ann,,2024-01-01,1\nbob,,2024-01-01,ask\n", "WARN", 1, 2),
        ("measures", "value readable", CLEAN["measures"] + "ann,2024-01-01,balance,much\n", "WARN", 1, 2),
        ("measures", "name readable", CLEAN["measures"] + "ann,2024-01-01,,1\n", "WARN", 1, 2),
        ("campaigns", "starts_at before ends_at", "campaign_id,starts_at,ends_at\nspring,2024-02-01,2024-01-01\n", "FAIL", 1, 1),
        ("contacts", "group known", K + "spring,ann,sms,2024-01-05,control,,\n", "FAIL", 1, 1),
        ("contacts", "response known", K + "spring,ann,sms,2024-01-05,,,maybe\n", "FAIL", 1, 1),
        ("contacts", "propensity is a probability", K + "spring,ann,sms,2024-01-05,,80,\n", "FAIL", 1, 1),
        ("contacts", "campaign_id in campaigns", K + "fall,ann,sms,2024-01-05,,,\n", "WARN", 1, 1),
        ("ties", "weight readable", CLEAN["ties"] + "bob,ann,,strong\n", "WARN", 1, 2),
    ],
)  # fmt: skip
def test_planted_flaw(
    tmp_path: Path, table: str, check: str, text: str, status: str, count: int, first: int | None
) -> None:
    others = dict.fromkeys((s.MEASURES, s.CONTACTS, s.TIES))
    tables: dict[str, str | None] = {**others, s.PRODUCTS: PRODUCTS, table: text}
    finding = find(run(tmp_path, tables), table, check)
    assert (finding.status, finding.count) == (status, count)
    if first is not None:
        assert finding.examples[0][s.ROW_NUMBER] == first


def test_examples_show_the_text_of_the_file(tmp_path: Path) -> None:
    finding = find(
        run(tmp_path, {s.INTERACTIONS: LOG + GOOD + " Ann ,pen,31/12/2023,,,,\n"}),
        s.INTERACTIONS,
        "at readable",
    )
    (example,) = finding.examples
    assert (example[s.ROW_NUMBER], example[s.CUSTOMER_ID], example[s.AT]) == (4, " Ann ", "31/12/2023")


def test_the_present_is_given(tmp_path: Path) -> None:
    now = datetime(2024, 1, 3, 12, tzinfo=UTC)
    finding = find(run(tmp_path, now=now), s.INTERACTIONS, "at not in the future")
    assert (finding.status, finding.count) == ("WARN", 1)


def test_missing_tables_and_columns_fail_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    validation = run(tmp_path, {s.INTERACTIONS: "customer_id,product_id\nann,pen\n", s.PRODUCTS: None})
    assert validation.failed
    log, products = (find(validation, name, "readable") for name in (s.INTERACTIONS, s.PRODUCTS))
    assert log.status == products.status == "FAIL"
    assert "expected column(s) at" in log.message
    assert "found neither" in products.message
    assert find(validation, s.CAMPAIGNS, "starts_at before ends_at").status == "PASS"


def test_optional_tables_may_be_absent(tmp_path: Path) -> None:
    optional = dict.fromkeys((s.CUSTOMERS, s.MEASURES, s.CAMPAIGNS, s.CONTACTS, s.TIES))
    validation = run(tmp_path, optional)
    assert not validation.failed
    assert "optional" in find(validation, s.CONTACTS, "readable").message


def test_as_dict(tmp_path: Path) -> None:
    report = run(tmp_path, {s.INTERACTIONS: LOG}).to_dict()
    assert report["failed"]
    assert report["counts"]["FAIL"] == 1
    assert {"check", "table", "status", "count", "total", "share", "message", "examples"} == set(
        report["findings"][0]
    )


ORDERS = "customer_id,product_id,at,kind,quantity,value,discount,order_id,channel\n"
ORDER = (
    "ann,pen,2024-01-02T10:00:00,purchase,1,2,0,o1,web\nbob,ink,2024-01-03T11:00:00,purchase,1,5,0,o2,web\n"
)
MANY = "".join(
    f"ann,{('pen', 'ink')[i % 2]},2024-01-{2 + i % 28:02}T{i % 24:02}:0{i % 7}:00,purchase,1,{(2, 5)[i % 2]},0.1,b{i},web\n"
    for i in range(60)
)
BATCH = "".join(
    f"{('ann', 'bob')[i % 2]},ink,2024-02-05T10:{i:02}:00,purchase,1,5,0,d{i},web\n" for i in range(12)
)
SHOP = "product_id,name,category,price,margin,available,launched_at,withdrawn_at,valid_from\npen,钢笔,desk,2,1,true,2023-06-01,,2023-06-01\nink,墨水,desk,5,1,true,2023-06-01,,2023-06-01\n"
PEOPLE = "customer_id,signed_up_at,valid_from,consent_sms,consent_email\nann,2023-06-01,2023-06-01,true,true\nbob,2023-06-01,2023-06-01,true,false\nbob,2023-06-01,2024-01-10,false,false\n"
SPRING = "campaign_id,starts_at,ends_at,name,product_id\nspring,2024-01-01,2024-01-31,Frühling,pen\n"
SENT = "campaign_id,customer_id,channel,at,group,sent_at,delivered_at,opened_at,response,responded_at\n"
GOOD_CONTACT = "spring,ann,sms,2024-01-05T09:00:00,target,2024-01-05T09:00:00,2024-01-05T09:01:00,2024-01-05T09:02:00,click,2024-01-05T10:00:00\n"
HOLDOUT = "spring,bob,sms,2024-01-05T09:00:00,holdout,,,,,\n"
FACTS = "customer_id,at,name,value\nann,2024-01-01,balance,10\nann,2024-02-01,balance,10\n"
SOUND = {
    "interactions": ORDERS + ORDER, "products": SHOP, "customers": PEOPLE, "measures": FACTS,
    "campaigns": SPRING, "contacts": SENT + GOOD_CONTACT + HOLDOUT, "ties": CLEAN["ties"],
}  # fmt: skip


def warned(validation: Validation) -> dict[tuple[str, str], Finding]:
    return {(f.table, f.check): f for f in validation.findings if f.status != "PASS"}


def test_sound_tables_have_no_warning(tmp_path: Path) -> None:
    assert warned(run(tmp_path, SOUND)) == {}


def test_more_sound_rows_have_no_warning(tmp_path: Path) -> None:
    text = ORDERS + ORDER + MANY + BATCH + "ann,pen,2024-01-02T10:00:00,view,,,,,web\n" * 1
    text += "ann,pen,2024-03-05T10:00:00,return,1,2,,o1,web\n"  # weeks after, with the order it comes from
    text += "ann,pen,2023-06-01,purchase,1,2,,,web\n"  # a date on the day of signing up and launching
    assert warned(run(tmp_path, {**SOUND, "interactions": text})) == {}


@pytest.mark.parametrize(
    ("table", "check", "text", "count"),
    [
        ("interactions", "returns within what was bought", ORDERS + ORDER + "ann,pen,2024-01-04,return,2,4,,,\n", 1),
        ("interactions", "discount not negative", ORDERS + ORDER + MANY + "ann,pen,2024-01-04,purchase,1,2,-1,,\n", 1),
        ("interactions", "discount in one unit", ORDERS + ORDER + MANY + "ann,pen,2024-01-04,purchase,1,2,20,,\n", 1),
        ("interactions", "quantity within reason", ORDERS + ORDER + MANY + "ann,pen,2024-01-04,purchase,900,300,0,,\n", 1),
        ("interactions", "value within reason", ORDERS + ORDER + MANY + "ann,pen,2024-01-04,purchase,60,2000,0,,\n", 1),
        ("interactions", "unit prices of one size", ORDERS + ORDER + MANY + "ann,pen,2024-01-04,purchase,1,200,0,,\n", 1),
        ("interactions", "an order has one customer", ORDERS + ORDER + "bob,ink,2024-01-02T10:00:00,purchase,1,5,0,o1,web\n", 2),
        ("interactions", "an order is one visit", ORDERS + ORDER + "ann,ink,2024-01-09T10:00:00,purchase,1,5,0,o1,web\n", 2),
        ("interactions", "bought after signing up", ORDERS + ORDER + "cat,pen,2024-01-02,purchase,1,2,0,,web\n", 1),
        ("interactions", "bought while available", ORDERS + ORDER + "ann,cup,2024-01-09,purchase,1,3,0,,web\n", 1),
        ("interactions", "orders differ", ORDERS + ORDER + ORDER.splitlines()[0].replace("o1", "o9") + "\n", 1),
        ("interactions", "days loaded once", ORDERS + ORDER + MANY + BATCH + re.sub(",d[0-9]+,", ",,", BATCH), 12),
        ("interactions", "days differ", ORDERS + ORDER + MANY + BATCH + BATCH.replace("02-05", "02-06").replace(",d", ",e"), 12),
        ("interactions", "customer_id in one spelling", ORDERS + ORDER + "ANN,pen,2024-01-02,purchase,1,2,0,,web\n", 1),
        ("interactions", "product_id in one spelling", ORDERS + ORDER + "ann,00pen,2024-01-02,purchase,1,2,0,,web\n", 1),
        ("products", "margin within price", SHOP + "cup,杯,desk,3,4,true,2023-06-01,,2023-06-01\n", 1),
        ("products", "product_id in one spelling", SHOP + "PEN,杯,desk,3,1,true,2023-06-01,,2023-06-01\n", 1),
        ("products", "text decoded rightly", SHOP + "cup,ä½ å¥½,desk,3,1,true,2023-06-01,,2023-06-01\n", 1),
        ("products", "text decoded rightly", SHOP + "cup,CafÃ©,desk,3,1,true,2023-06-01,,2023-06-01\n", 1),
        ("products", "text decoded rightly", SHOP + "cup,na\ufffdve,desk,3,1,true,2023-06-01,,2023-06-01\n", 1),
        ("products", "text decoded rightly", SHOP + "cup,????,desk,3,1,true,2023-06-01,,2023-06-01\n", 1),
        ("customers", "customer_id in one spelling", PEOPLE + "Ann,,2023-06-01,,\n", 1),
        ("campaigns", "product_id in products", SPRING + "fall,2024-09-01,2024-10-01,Herbst,cup\n", 1),
        ("measures", "one value at an instant", FACTS + "ann,2024-01-01,balance,11\n", 2),
        ("ties", "ties between two", CLEAN["ties"] + "bob,bob,2024-01-01,1\n", 1),
        ("contacts", "delivered_at after sent_at", SENT + HOLDOUT + GOOD_CONTACT.replace("09:01", "08:59"), 1),
        ("contacts", "opened_at after delivered_at", SENT + HOLDOUT + GOOD_CONTACT.replace("T09:02", "T09:00:30").replace("30:00", "30"), 1),
        ("contacts", "responded_at after sent_at", SENT + HOLDOUT + GOOD_CONTACT.replace("T10:00", "T08:00"), 1),
        ("contacts", "holdouts are not contacted", SENT + GOOD_CONTACT * 1 + "spring,bob,sms,2024-01-05,holdout,2024-01-05,,,,\n", 1),
        ("contacts", "holdouts do not answer", SENT + GOOD_CONTACT + "spring,bob,sms,2024-01-05,holdout,,,,refused,\n", 1),
        ("contacts", "one group in a campaign", SENT + GOOD_CONTACT + HOLDOUT + "spring,ann,email,2024-01-06,holdout,,,,,\n", 2),
        ("contacts", "contacts differ", SENT + GOOD_CONTACT * 2 + HOLDOUT, 1),
        ("contacts", "contacts within their campaign", SENT + GOOD_CONTACT + HOLDOUT + "spring,ann,sms,2024-02-01,target,,,,,\n", 1),
        ("contacts", "contacted with consent", SENT + GOOD_CONTACT + "spring,bob,SMS,2024-01-12,target,,,,,\n", 1),
        ("contacts", "customer_id in customers", SENT + GOOD_CONTACT + HOLDOUT + "spring,dan,sms,2024-01-05,target,,,,,\n", 1),
    ],
)  # fmt: skip
def test_planted_fault_gives_its_finding_and_no_other(
    tmp_path: Path, table: str, check: str, text: str, count: int
) -> None:
    tables = {**SOUND, table: text}
    if check == "bought after signing up":
        tables["customers"] = PEOPLE + "cat,2024-01-03T08:00:00,2023-06-01,,\n"
    if check == "bought while available":
        tables["products"] = SHOP + (
            "cup,杯,desk,3,1,true,2023-06-01,,2023-06-01\ncup,杯,desk,3,1,false,2023-06-01,,2024-01-05\n"
        )
    if check.endswith("one spelling") and table == "interactions":
        tables["products"] = SHOP + "00pen,杯,desk,2,1,true,2023-06-01,,2023-06-01\n"
        tables["customers"] = PEOPLE + "ANN,2023-06-01,2023-06-01,true,true\n"
    found = warned(run(tmp_path, tables))
    assert found[table, check].count == count
    also = {
        # one fault seen from both sides: ids in the describing table are alike as well
        "customer_id in one spelling": {("customers", check), ("products", "product_id in one spelling")},
        "product_id in one spelling": {("products", check), ("customers", "customer_id in one spelling")},
    }.get(check, set())
    assert set(found) <= {(table, check)} | also


@pytest.mark.parametrize(
    "name", ["Café crème", "Ångström", "marché\u00a0»", "Really?", "São João", "钢笔？", "Größe 7½", "Ãâ"]
)
def test_good_text_is_not_taken_for_garbled(tmp_path: Path, name: str) -> None:
    text = SHOP + f"cup,{name},desk,3,1,true,2023-06-01,,2023-06-01\n"
    assert warned(run(tmp_path, {**SOUND, "products": text})) == {}


def test_paid_without_a_price(tmp_path: Path) -> None:
    free = SHOP.replace("desk,2,1", "desk,0,").replace("desk,5,1", "desk,5,1")
    found = warned(run(tmp_path, {**SOUND, "products": free}))
    assert found[s.INTERACTIONS, "what is paid for has a price"].count == 1
    assert set(found) == {(s.INTERACTIONS, "what is paid for has a price"), (s.PRODUCTS, "price above zero")}


def test_anonymous_sales_by_date_are_no_repeated_batch(tmp_path: Path) -> None:
    """Times that are dates and no customers: the same line many times a day is how such a shop records."""
    rng = random.Random(0)
    lines = "".join(
        f",{('pen', 'ink')[sold % 2]},2024-01-{2 + day:02},purchase,{1 + sold // 2},{(2, 5)[sold % 2]},0,,web\n"
        for day in range(20)
        for sold in rng.choices(range(14), k=40 + day)
    )
    found = warned(run(tmp_path, {**SOUND, "interactions": ORDERS + ORDER + lines}))
    assert not {check for _, check in found} & {"days loaded once", "days differ", "orders differ"}
