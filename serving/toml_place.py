"""Where something is in a file of TOML tables, in words."""

from __future__ import annotations

from typing import Any


def place(at: tuple[int | str, ...], values: Any) -> str:
    """Return where something is, by the names that were given: ``experiments ranked, variants trees, weight``."""
    parts: list[str] = []
    for part in at:
        values = values[part] if _has(values, part) else None
        if isinstance(part, int) and parts:
            named = values.get("name") if isinstance(values, dict) else None
            parts[-1] += f" {named}" if isinstance(named, str) else f" number {part + 1}"
        else:
            parts.append(str(part))
    return ", ".join(parts)


def _has(values: Any, part: int | str) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values
