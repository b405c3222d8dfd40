"""Reads ``rules.toml``: within bounds, and with one sentence for whatever does not fit its model."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from serving.errors import ConfigError
from serving.rules.config import RulesFile
from serving.validation import InvalidRequest, parse, shown

#: A file may hold so many rules, and so many bytes; each worker takes both up while it answers.
MAX_RULES: Final = 2000
MAX_BYTES: Final = 1_000_000


def read(path: Path) -> RulesFile:
    """Read a file of rules.

    Raises
    ------
    ConfigError
        It is not there, no TOML, or says what no rule can say.
    """
    try:
        told = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"expected rules in {path}, found no such file; write it or name another") from None
    except OSError as error:
        raise ConfigError(
            f"expected rules in {path}, found {error.strerror or error}; see that it can be read"
        ) from error
    return parsed(told, path)


def parsed(told: bytes, path: Path) -> RulesFile:
    """Parse the bytes of ``path``; see ``read``."""
    if len(told) > MAX_BYTES:
        raise ConfigError(
            f"expected at most {MAX_BYTES:,} bytes of rules in {path}, found {len(told):,}; correct it: choose "
            "products by category or attributes rather than one by one"
        )
    try:
        content = tomllib.loads(told.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected TOML in UTF-8 in {path}, found: {error}; correct it") from error
    count = sum(len(rules) for rules in content.values() if isinstance(rules, list))
    if count > MAX_RULES:
        raise ConfigError(
            f"expected at most {MAX_RULES:,} rules in {path}, found {count:,}; correct it: drop those that have ended, "
            "or let one rule name several products"
        )
    try:
        return parse(RulesFile, content)
    except InvalidRequest as error:
        raise ConfigError(f"{error.message}{_place(content, error.field)}; correct {path}") from None


def _place(content: dict[str, object], field: str | None) -> str:
    """Return where a misfit is: the field, and the name of its rule where there is one."""
    if field is None:
        return ""
    kind, _, rest = field.partition("[")
    rules = content.get(kind)
    number = rest.partition("]")[0]
    if isinstance(rules, list) and number.isdigit() and int(number) < len(rules):
        rule = rules[int(number)]
        name = rule.get("name") if isinstance(rule, dict) else None
        if isinstance(name, str):
            return f" in {field} ({shown(name)})"
    return f" in {field}"
