"""A configuration that does not fit, told in one sentence: which key of which recipe, what was expected and found.

pydantic knows what is wrong; recipes are told by their names here, not by their places. Only the first misfit is told.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

_RECIPES: Final = "recipes"
_KINDS: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
    "string_too_short": "a text that is not empty",
}
_BOUNDS: Final = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}

Loc = tuple[int | str, ...]


def explained(error: ValidationError, told: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return the sentence.

    Parameters
    ----------
    error
        The misfit.
    told
        What was given.
    model
        What it should have been.
    """
    first = error.errors(include_url=False)[0]
    loc, kind, found = first["loc"], first["type"], first.get("input")
    where = _where(loc, told)
    if kind == "extra_forbidden":
        return f"expected a known key, found {where}; {_hint(loc, told, model)}"
    if loc == (_RECIPES,) and kind in ("missing", "too_short"):
        return "expected at least one recipe, a table [[recipes]] with name and model, found none; add one"
    if loc == (_RECIPES,) and kind == "tuple_type":
        return f"expected a list of tables ([[recipes]]), found {_shown(found)}; correct it"
    if kind == "missing":
        return f"expected {where}, found none; add it"
    context = first.get("ctx", {})
    if kind == "value_error":
        return f"expected a valid {where}, found {_shown(found)}: {context['error']}"
    expected = _KINDS.get(kind) or context.get("expected") or first["msg"]
    for name, words in _BOUNDS.items():
        if name in context:
            expected = f"a number {words} {context[name]}"
    return f"expected {expected} for {where}, found {_shown(found)}; correct it"


def _where(loc: Loc, told: Mapping[str, Any]) -> str:
    """Return the path of a key in words; recipes by their names."""
    if loc[:1] != (_RECIPES,) or len(loc) < 2:
        return ".".join(map(str, loc)) or "configuration"
    place = loc[1]
    name = _recipe(loc, told).get("name")
    recipe = f"the recipe {name!r}" if isinstance(name, str) and name else f"recipe number {int(place) + 1}"
    path = ".".join(str(part) for part in loc[2:])
    return f"{path} of {recipe}" if path else recipe


def _recipe(loc: Loc, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recipe that a key is in; nothing where it is in none."""
    if loc[:1] != (_RECIPES,) or len(loc) < 2:
        return {}
    held = told[_RECIPES][loc[1]]
    return held if isinstance(held, dict) else {}


def _hint(loc: Loc, told: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Say which key may be meant: one of the same table, else one of that name elsewhere, else what there is."""
    key = str(loc[-1])
    table = ".".join(str(part) for part in loc[:-1] if not isinstance(part, int))
    paths = _paths(model)
    beside = [path for path in paths if path.rpartition(".")[0] == table]
    own = f"{_RECIPES}.{_recipe(loc, told).get('model')}."
    # of several tables with such a key that of the recipe's own model, then the first
    elsewhere = sorted(paths, key=lambda path: not path.startswith(own))
    for among in (beside, elsewhere):
        leaves = {path.rpartition(".")[2]: path for path in reversed(among)}
        if near := difflib.get_close_matches(key, leaves, n=1):
            return f"the nearest valid key is {leaves[near[0]]!r}"
    return f"valid there are {', '.join(path.rpartition('.')[2] for path in beside)}"


def _paths(model: Any, above: str = "") -> Sequence[str]:
    """Return every key with the keys above it, outermost first."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(f"{above}{name}")
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(inner, "model_fields"):
                paths += _paths(inner, f"{above}{name}.")
    return paths


def _shown(value: Any) -> str:
    """Return a value as TOML has it, or nearly, and not much of it."""
    text = (
        json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, float) else f"{value:g}"
    )
    return text if len(text) <= 80 else text[:77] + "..."
