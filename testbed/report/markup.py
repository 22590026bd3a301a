"""Text in HTML and SVG: everything that a record says goes through here on its way into the page. Pure."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Control characters are shown as their pictures: a log may hold terminal codes, and NUL ends some parsers.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def plain(value: object) -> str:
    """Return `value` as text without control characters."""
    return str(value).translate(_PICTURES)


def escape(value: object) -> str:
    """Return `value` as text that is safe in an element and in a quoted attribute."""
    return html.escape(plain(value))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        caption: what it shows.
        head: the columns' names, text.
        rows: cells, already markup; the first of each row is its heading.
        words: so many columns at the start hold words, the rest numbers.
    """

    def kind(column: int) -> str:
        return "" if column < words else ' class="n"'

    columns = "".join(f'<th scope="col"{kind(index)}>{escape(name)}</th>' for index, name in enumerate(head))
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind(index)}>{cell}</td>" for index, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested tables as dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{path}{key}.")
        else:
            leaves[f"{path}{key}"] = value
    return leaves


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows of a table with two columns, key and value."""
    return [(escape(key), escape(value)) for key, value in values.items()]


def details(title: str, content: str) -> str:
    """Return markup that a reader may unfold."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def dot(colour: str) -> str:
    """Return a dot in a CSS colour, to stand before a name."""
    return f'<span class="dot" style="background:{colour}"></span>'
