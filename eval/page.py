"""Pages: HTML files that hold all they show, from the templates of this package.

Texts of the data are not trusted: the templates escape them all. A page is written beside its place and moved there,
so that whoever looks sees the old one or the new one.
"""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape


def environment() -> Environment:
    """Return the environment in which templates are rendered."""
    return Environment(
        loader=PackageLoader("eval", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(text: str, path: str | Path) -> Path:
    """Write a page to ``path`` in one step; folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
