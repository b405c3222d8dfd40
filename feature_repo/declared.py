"""What a shop declares about its tables in ``features.toml`` beside them: cadence, constants, name flags.

The file is optional. ``[constant]`` names the columns of an undated table that never change, so that they may
enter past training rows; ``[name_flags]`` names flags drawn from product names by patterns. Deliberately
absent: features themselves, which are code.

::

    cadence_days = 7

    [constant]
    products = ["name", "brand"]
    customers = ["gender"]

    [name_flags]
    for_new_customers = ["新客", "new customers? only"]
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from feature_repo.errors import ConfigError

DECLARATIONS: Final = "features.toml"
FLAG_PREFIX: Final = "flag_"


def _pattern(text: str) -> str:
    if not text:
        raise ValueError("an empty pattern is in every name")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*", text):
        raise ValueError(f"{text!r} is no name of letters, digits and underscores")
    return text


class Constant(BaseModel):
    """Columns that never change, by table: ``name`` and any attribute, ``price``, ``margin``, ``category``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    products: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()

    def of(self, table: str) -> tuple[str, ...]:
        """Return the constant columns of a table."""
        columns: tuple[str, ...] = getattr(self, table)
        return columns


class Declarations(BaseModel):
    """What ``features.toml`` holds; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cadence_days: int = Field(
        7, ge=1, le=365, description="Days between snapshots; they stand on a fixed grid."
    )
    constant: Constant = Constant()
    name_flags: dict[
        Annotated[str, AfterValidator(_name)],
        Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Field(min_length=1)],
    ] = Field({}, description="Flag → regular expressions, any of which in a product's name raises it.")

    @classmethod
    def read(cls, directory: Path) -> Declarations:
        """Read the file of a directory of tables; without one nothing is declared.

        Raises
        ------
        ConfigError
            The file is no TOML, has an unknown key or a value that does not fit.
        """
        path = directory / DECLARATIONS
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"expected TOML in {path}, found: {error}; correct it") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"expected declarations in {path} ({', '.join(cls.model_fields)}), found {where}: {first['msg']}; "
                "correct it"
            ) from error

    def flags(self) -> dict[str, str]:
        """Return flag column → one regular expression for its patterns, blind to upper and lower case."""
        return {
            f"{FLAG_PREFIX}{name}": "(?i)" + "|".join(f"(?:{pattern})" for pattern in patterns)
            for name, patterns in self.name_flags.items()
        }
