"""Text in HTML and SVG: everything that a record says goes through here on its way into the page. Pure."""

import html
from collections.abc import Iterable, Sequence

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
