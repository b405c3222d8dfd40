"""A request that does not fit its model, told in one sentence with the path of the field.

pydantic knows what is wrong; these sentences say what was expected and what was found in the words of the
API, so that a client's developer need not know pydantic. Only the first misfit is told.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError


class InvalidRequest(Exception):  # noqa: N818
    """A request that does not fit its model: a sentence for the client and the field it is about."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], value: Any) -> Model:
    """Return JSON value ``value`` as ``model``.

    Raises
    ------
    InvalidRequest
        It does not fit; the message is about the first misfit.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        context = first.get("ctx", {})
        at = context.get("at")
        field = _path(first["loc"] if at is None else (*first["loc"], at))
        raise InvalidRequest(_told(first, context, model), field[:200] or None) from None


def shown(value: Any) -> str:
    """Return a JSON value as a short text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def sentence(message: str, *, at: str | int | None = None) -> PydanticCustomError:
    """Return a misfit for a model's own validator; ``at`` is its place in what is validated, None: all of it."""
    return PydanticCustomError("sentence", "{message}", {"message": message, "at": at})


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path.removesuffix(".[key]")


def _told(error: ErrorDetails, context: dict[str, Any], model: type[BaseModel]) -> str:
    """Return the sentence of one pydantic error."""
    kind, found = error["type"], error.get("input")
    if kind == "sentence":
        return str(context["message"])
    if kind == "missing":
        return f"expected the field {error['loc'][-1]}, found none"
    if kind == "extra_forbidden":
        known = ", ".join(_fields(model, error["loc"]))
        return f"expected one of the fields {known}; found {shown(error['loc'][-1])}"
    limit = next((context[name] for name in ("ge", "le") if name in context), None)
    most, least = context.get("max_length"), context.get("min_length")
    expected = {
        "int_type": "an integer",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "datetime_type": "an instant such as 2026-05-01T12:00:00Z",
        "datetime_parsing": "an instant such as 2026-05-01T12:00:00Z",
        "datetime_from_date_parsing": "an instant such as 2026-05-01T12:00:00Z",
        "timezone_aware": "an instant with its time zone, such as 2026-05-01T12:00:00Z",
        "string_type": "a string",
        "list_type": "a list",
        "tuple_type": "a list",
        "dict_type": "an object",
        "model_type": "an object",
        "greater_than": f"a number above {context.get('gt')}",
        "greater_than_equal": f"a number of at least {limit}",
        "less_than_equal": f"a number of at most {limit}",
        "string_too_short": f"a string of at least {least} character",
        "string_too_long": f"a string of at most {most} characters",
        "too_short": f"at least {least} entry",
        "too_long": f"at most {most} entries",
        "literal_error": str(context.get("expected")),
    }.get(kind, error["msg"])
    size = context.get("actual_length")
    return f"expected {expected}, found {shown(found) if size is None else size}"


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the object that ``loc`` is in."""
    held = model
    for part in loc[:-1]:
        if isinstance(part, int):  # an element of the list whose model is held
            continue
        inner = _model_in(held.model_fields[part].annotation)
        if inner is None:
            break
        held = inner
    return [field.alias or name for name, field in held.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, by itself or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((held for part in get_args(annotation) if (held := _model_in(part))), None)
