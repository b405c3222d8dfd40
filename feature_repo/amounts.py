"""What is counted and summed of events, each once: orders, lines, units, money, looks.

Each takes the aged events of an entity and which of them are in the window, and returns a reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_repo.feature import Windowed, count, total


def orders(e: Any, w: Any) -> Any:
    """Orders begun."""
    return count(w & e.is_order)


def lines(e: Any, w: Any) -> Any:
    """Purchase lines."""
    return count(w & e.is_purchase)


def units(e: Any, w: Any) -> Any:
    """Units bought."""
    return total(e.quantity, w & e.is_purchase)


def spend(e: Any, w: Any) -> Any:
    """Money paid."""
    return total(e.value, w & e.is_purchase)


def discounts(e: Any, w: Any) -> Any:
    """Money let off."""
    return total(e.discount, w & e.is_purchase)


def list_prices(e: Any, w: Any) -> Any:
    """Money asked before discounts."""
    return total(e.value + e.discount, w & e.is_purchase)


def returns(e: Any, w: Any) -> Any:
    """Return lines."""
    return count(w & e.is_return)


def returned(e: Any, w: Any) -> Any:
    """Money given back."""
    return total(e.value, w & e.is_return)


def looks(e: Any, w: Any) -> Any:
    """Views, clicks and carts."""
    return count(w & e.is_browse)


def carts(e: Any, w: Any) -> Any:
    """Events of putting something into a cart."""
    return count(w & e.is_cart)


def first_buys(e: Any, w: Any) -> Any:
    """Lines with which a known customer buys a product for the first time."""
    return count(w & e.is_first_buy)


def buyers(e: Any, w: Any) -> Any:
    """Known customers who bought."""
    return e.customer.nunique(where=w & e.is_purchase).cast("float64")


def only(amount: Windowed, condition: Callable[[Any], Any]) -> Windowed:
    """Return the amount over those events alone for which ``condition`` holds."""
    return lambda e, w: amount(e, w & condition(e))
