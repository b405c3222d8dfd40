"""Text files in any encoding, rewritten as UTF-8 with one kind of line end.

The reader of rows knows UTF-8 only, and wants lines that end alike. The file is rewritten line by line, so a large
one needs no memory. Bytes that are no text are marked in the rewritten line, which is then rejected with them; when
most lines have some, the declared encoding is wrong and that is an error. Deliberately absent: guessing of an
encoding. The sentence about a wrong one suggests another, and a person decides.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo.errors import ConfigError
from feature_repo.importers.sources.source_map import FileShape, nearest

__all__ = ["MARK", "Rewritten", "original", "rewrite"]

#: Stands before the hexadecimal digits of a byte that is no text: a code point that no text may contain.
MARK: Final = "\ufdd0"

_ENCODINGS: Final = [
    "utf-8",
    "gb18030",
    "gbk",
    "big5",
    "shift_jis",
    "euc-kr",
    "latin-1",
    "cp1252",
    "utf-16",
    "utf-32",
]


def original(column: str) -> str:
    """Return SQL for a text column with marked bytes written as ``\\xff``."""
    return f"replace({column}, chr({ord(MARK)}), '\\x')"


@dataclass(frozen=True)
class Rewritten:
    """What was met while rewriting: lines with nothing in them, and lines with bytes that are no text."""

    empty_lines: int = 0
    undecodable: int = 0


def rewrite(path: Path, plain: Path, shape: FileShape, *, quote: str, where: str) -> Rewritten:
    """Write a text file again as UTF-8 with one kind of line end, no empty lines, and unreadable bytes marked."""
    encoding = shape.encoding or "utf-8"
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    codecs.register_error("nextbest-mark", _mark)
    empty = bad = other = first_bad = number = 0
    inside = False
    try:
        source = path.open(encoding=name, errors="nextbest-mark")
    except LookupError as error:
        raise ConfigError(
            f"expected an encoding that Python knows for {where}, found {encoding!r}; {nearest(encoding, _ENCODINGS)}"
        ) from error
    with source, plain.open("w", encoding="utf-8", newline="") as target:
        try:
            for number, line in enumerate(source, start=1):
                if number <= shape.skip:
                    continue
                if not line.isascii():
                    other += 1
                    if MARK in line:
                        bad, first_bad = bad + 1, first_bad or number
                if not inside and not line.strip(" \t\r\n"):
                    empty += 1
                    continue
                if quote and line.count(quote) % 2:
                    inside = not inside
                target.write(line)
        except UnicodeError as error:
            raise ConfigError(
                f"expected {encoding} text in {path} for {where}, found {error}; {_suggestion(path, encoding)}"
            ) from error
    if bad * 2 > other and shape.undecodable == "stop":
        raise ConfigError(
            f"expected {encoding} text in {path} for {where}, found other bytes on {bad:,} of "
            f"{other:,} lines that are not plain "
            f"ASCII, first on line {first_bad}; {_suggestion(path, encoding)}, or undecodable = "
            '"reject" to leave such lines out'
        )
    return Rewritten(empty, bad)


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"{MARK}{byte:02x}" for byte in error.object[error.start : error.end]), error.end


def _suggestion(path: Path, declared: str) -> str:
    """Return which encoding the beginning of the file looks like."""
    with path.open("rb") as file:
        begin = file.read(1 << 20)
    runs = re.findall(rb"[\x80-\xff]+", begin)
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        likely = "utf-16"
    elif not runs or begin.decode("utf-8", "replace").count("\ufffd") * 2 < len(runs):
        likely = "utf-8"
    else:  # letters of the West stand alone among plain ones; Chinese ones are two bytes and come in rows
        likely = "gb18030" if sum(len(run) > 1 for run in runs) * 2 > len(runs) else "cp1252"
    return f'perhaps it is encoding = "{likely}"' if likely != declared else "declare its encoding"
