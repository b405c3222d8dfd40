"""``experiments.toml``: which variants of what is served go to whom.

    holdout = 0.02                       # of all customers, who see segment and popular only, whatever else is here

    [[experiments]]
    name = "ranked"
    salt = "ranked"                      # the name, if absent; another salt draws customers anew
    surfaces = ["home", "basket"]        # absent: everywhere
    customers = {country = ["DE", "AT"]} # absent: everybody; one of the values of each attribute
    [[experiments.variants]]             # the first is the control
    name = "control"
    weight = 90
    [[experiments.variants]]
    name = "trees"
    weight = 10
    bundle = "nextbest:VERSION"          # absent: what is live
    rules = "trees.toml"                 # beside this file; absent: rules.toml of the home
    shadow = true                        # its customers see the control; it answers too, and is counted

    [[experiments]]
    name = "mixed"
    kind = "interleave"                  # "split" if absent; each answer is made of the lists of two variants, so that
    [[experiments.variants]]             # weights and shadows have no place here (``serving.interleaving``)
    name = "control"
    [[experiments.variants]]
    name = "trees"
    bundle = "nextbest:VERSION"

The file is strict: what it does not know it refuses. How weights may be changed in a running experiment, so that
customers stay where they are, stands in ``serving.variants``. Deliberately absent: whether bundles and files of rules
can be loaded, which is seen by whoever serves them (``serving.follower``).
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from serving.bundle import NAME
from serving.errors import ConfigError
from serving.toml_place import place
from serving.validation import shown

#: The experiment and the variant that answers to customers of the holdout name.
HOLDOUT: Final = "holdout"
FALLBACK: Final = "fallback"
#: What answers outside experiments are called where they are read.
LIVE: Final = "live"
#: What stands for the file's content where there is no file.
NO_FILE: Final = "none"
#: The kind of experiment in which everybody sees two variants mixed.
INTERLEAVE: Final = "interleave"
#: The variant that their answers are of.
INTERLEAVED: Final = "interleaved"

_TAKEN: Final = {HOLDOUT: "the holdout", LIVE: "answers outside experiments"}
_NO_VARIANT: Final = {
    INTERLEAVED: "that of answers made of two",
    FALLBACK: "that by which testers ask for the holdout",
}

Value = str | bool | int | float
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


def _values(given: Any) -> tuple[Value, ...]:
    values = given if isinstance(given, list) else [given]
    if not values or not all(isinstance(value, str | bool | int | float) for value in values):
        raise ValueError("expected a text, a number, true or false, or a list of them")
    return tuple(values)


def _tag(tag: str) -> str:
    if not tag.startswith(f"{NAME}:") or not tag.partition(":")[2] or "/" in tag:
        raise ValueError(f"expected a tag such as {NAME}:VERSION (`nextbest models` lists them)")
    return tag


def _distinct(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected {what} with a name of its own each, found {shown(name)} twice")


def _weightless(variant: Any) -> Any:
    """Return a variant of an interleaved experiment with the weight that both have."""
    if isinstance(variant, dict) and "weight" in variant:
        raise ValueError(
            f"expected no weights where answers are interleaved, since everybody sees both variants, found "
            f"{shown(variant['weight'])}; leave weight out"
        )
    return {**variant, "weight": 1.0} if isinstance(variant, dict) else variant


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(_Strict):
    """One variant: its share is its weight over the sum of the experiment's."""

    name: Name
    weight: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    bundle: Annotated[str, Field(strict=True), AfterValidator(_tag)] | None = None
    rules: Text | None = None
    shadow: Annotated[bool, Field(strict=True)] = False

    @property
    def version(self) -> str | None:
        """The version of the bundle; None for the live one."""
        return None if self.bundle is None else self.bundle.partition(":")[2]


class Experiment(_Strict):
    """One experiment; its first variant is the control.

    Customers are split among variants by their weights; where it interleaves, everybody sees two of them mixed.
    """

    name: Name
    kind: Literal["split", "interleave"] = "split"
    salt: Text = ""
    surfaces: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    customers: dict[Text, Annotated[tuple[Value, ...], BeforeValidator(_values)]] = {}
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _salted(cls, given: Any) -> Any:
        if isinstance(given, dict) and "name" in given:
            given = {"salt": given["name"], **given}
            if given.get("kind") == INTERLEAVE and isinstance(given.get("variants"), list):
                given["variants"] = [_weightless(variant) for variant in given["variants"]]
        return given

    @model_validator(mode="after")
    def _sound(self) -> Experiment:
        _distinct("variants", [variant.name for variant in self.variants])
        if self.name in _TAKEN:
            raise ValueError(
                f"expected another name than {shown(self.name)}, which is that of {_TAKEN[self.name]}"
            )
        if self.variants[0].shadow:
            raise ValueError("expected the first variant, the control, to be shown, found it a shadow")
        for variant in self.variants:
            if variant.name in _NO_VARIANT:
                raise ValueError(
                    f"expected another name than {shown(variant.name)} for a variant: {_NO_VARIANT[variant.name]}"
                )
        if self.is_interleaved:
            if len(self.variants) != 2:
                raise ValueError(f"expected two variants to interleave, found {len(self.variants)}")
            if self.variants[1].shadow:
                raise ValueError("expected two variants that are shown, found a shadow; leave shadow out")
        return self

    @property
    def is_interleaved(self) -> bool:
        """Whether each answer is made of the lists of two variants."""
        return self.kind == INTERLEAVE


class Experiments(_Strict):
    """The content of ``experiments.toml``; ``digest`` stands for its bytes."""

    holdout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    holdout_salt: Text = HOLDOUT
    experiments: tuple[Experiment, ...] = ()
    digest: str = Field(default=NO_FILE, exclude=True)

    @model_validator(mode="after")
    def _sound(self) -> Experiments:
        _distinct("experiments", [experiment.name for experiment in self.experiments])
        for experiment in self.experiments:
            if experiment.salt == self.holdout_salt:
                raise ValueError(
                    f"expected {experiment.name} to have another salt than the holdout, found "
                    f"{shown(experiment.salt)} for both; the holdout would take customers of one variant alone"
                )
        return self

    @property
    def versions(self) -> set[str]:
        """The versions of the bundles that variants name."""
        variants = (variant for experiment in self.experiments for variant in experiment.variants)
        return {variant.version for variant in variants if variant.version is not None}

    @property
    def rules(self) -> set[str]:
        """The files of rules that variants name."""
        variants = (variant for experiment in self.experiments for variant in experiment.variants)
        return {variant.rules for variant in variants if variant.rules is not None}

    @property
    def attributes(self) -> set[str]:
        """The attributes of customers that it depends on who is in an experiment."""
        return {name for experiment in self.experiments for name in experiment.customers}

    @classmethod
    def read(cls, path: Path) -> Experiments:
        """Read ``path``; without the file there are no experiments.

        Raises
        ------
        ConfigError
            It is no TOML, has an unknown key or a value that does not fit.
        """
        try:
            told = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise ConfigError(f"expected a readable file at {path}, found: {error}; correct it") from error
        return cls.parse(told, path)

    @classmethod
    def parse(cls, told: bytes, path: Path) -> Experiments:
        """Parse the bytes of ``path``; see ``read``."""
        try:
            values = tomllib.loads(told.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"expected TOML in {path}, found: {error}; correct it") from error
        if "digest" in values:
            raise ConfigError(f"{path}: {_unknown(('digest',))}; correct it")
        try:
            return cls.model_validate({**values, "digest": hashlib.sha256(told).hexdigest()[:12]})
        except ValidationError as error:
            raise ConfigError(f"{path}: {_explained(error, values)}; correct it") from error


_KEYS: Final[tuple[type[BaseModel], ...]] = (Experiments, Experiment, Variant)


def _explained(error: ValidationError, values: dict[str, Any]) -> str:
    """Return the first misfit as a sentence: where, what was expected, what was found."""
    errors = error.errors(include_url=False)
    # a key that is misspelt is missing, too: the misspelling says more
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    kind, at, found = first["type"], first["loc"], first.get("input")
    where = place(at, values)
    if kind == "extra_forbidden":
        return _unknown(at)
    if kind == "missing":
        return f"expected the key {at[-1]} in {place(at[:-1], values) or 'the file'}, found none"
    if kind == "value_error":
        told = str(first["ctx"]["error"])
        told = told if "found" in told else f"{told}, found {shown(found)}"
        return f"{where}: {told}" if where else told
    expected = {
        "string_type": "a text",
        "string_pattern_mismatch": "letters, digits, dots, dashes and underscores",
        "string_too_short": "a text that is not empty",
        "string_too_long": "a shorter text",
        "float_type": "a number",
        "finite_number": "a finite number",
        "greater_than": "a positive number",
        "greater_than_equal": "a share of at least 0",
        "less_than": "a share below 1",
        "bool_type": "true or false",
        "literal_error": "split or interleave",
        "tuple_type": "a list",
        "dict_type": "a table",
        "model_type": "a table",
        "too_short": "at least one entry",
    }.get(kind, first["msg"])
    return f"{where}: expected {expected}, found {shown(found)}"


def _unknown(at: tuple[int | str, ...]) -> str:
    model = _KEYS[min(sum(isinstance(part, int) for part in at), len(_KEYS) - 1)]
    known = [name for name in model.model_fields if name != "digest"]
    near = difflib.get_close_matches(str(at[-1]), known, n=1)
    meant = f" (the nearest is {near[0]})" if near else ""
    return f"expected one of the keys {', '.join(known)}; found {shown(at[-1])}{meant}"
