"""The checks that ``feature_repo.validate`` runs over the rows of each table, in the order of their telling.

Those that follow from the schema come first (``checks_columns``), then what only this table can break:
interactions alone (``checks_interactions``) and beside other tables (``checks_sales``), batches loaded twice
(``checks_batches``), and the tables that describe or record contacts (``checks_contacts``). Deliberately
absent: questions to a table as a whole, which need no row numbers (``feature_repo.quality``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from feature_repo.checks_batches import REPEATS
from feature_repo.checks_columns import of_columns, of_ids, of_text
from feature_repo.checks_contacts import CONTACT_CHECKS, DESCRIPTION_CHECKS, of_consent
from feature_repo.checks_form import Check, Status
from feature_repo.checks_interactions import LINE_CHECKS
from feature_repo.checks_sales import SALE_CHECKS
from feature_repo.schema import CONTACTS, INTERACTIONS, DType, Table

__all__ = ["Check", "Status", "checks"]


def checks(
    spec: Table,
    attributes: Mapping[str, DType],
    *,
    now: str | None = None,
    consents: Sequence[str] = (),
) -> Iterator[Check]:
    """Yield the checks of one table, in the order in which they are told.

    Parameters
    ----------
    spec
        The table.
    attributes
        Its extra columns.
    now
        The present, ISO 8601 in UTC: later times are in the future. Without it, only times far beyond
        all others are.
    consents
        The columns ``consent_<channel>`` of the customers, if there are any.
    """
    yield from of_columns(spec, attributes, now=now)
    yield from _OWN.get(spec.name, ())
    if spec.name == CONTACTS and consents:
        yield of_consent(consents)
    yield from of_ids(spec)
    yield from of_text(spec, attributes)


_OWN: dict[str, tuple[Check, ...]] = {
    INTERACTIONS: LINE_CHECKS + SALE_CHECKS + REPEATS,
    CONTACTS: CONTACT_CHECKS,
    **DESCRIPTION_CHECKS,
}
