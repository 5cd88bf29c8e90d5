"""HTML, piece by piece. What comes in as text is escaped here and nowhere else; `Markup` is what already is HTML."""

import re
from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Markup


def html(content: Content) -> Markup:
    """The content as HTML: text is escaped, markup stays."""
    return content if isinstance(content, Markup) else Markup(escape(str(content)))


def element(tag: str, *contents: Content, **attributes: str) -> Markup:
    """`element("p", "a < b", id="x")` is `<p id="x">a &lt; b</p>`; `class_` stands for class, `_` for `-`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    inside = "".join(f' {names[name]}="{escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{inside}>{''.join(html(content) for content in contents)}</{tag}>")


def join(parts: Iterable[Content]) -> Markup:
    return Markup("\n".join(html(part) for part in parts))


def table(
    caption: str, header: Sequence[Content], rows: Iterable[Sequence[Content]], *, words: int = 1
) -> Markup:
    """A table that scrolls sideways when it must; its first `words` columns hold text, the others numbers."""

    def cell(column: int, content: Content) -> Markup:
        if column == 0:
            return element("th", content, scope="row")
        return element("td", content, class_="words" if column < words else "number")

    head = element(
        "tr",
        *(
            element("th", title, scope="col", class_="" if i < words else "number")
            for i, title in enumerate(header)
        ),
    )
    body = [element("tr", *(cell(i, content) for i, content in enumerate(row))) for row in rows]
    return element(
        "div",
        element(
            "table",
            element("caption", element("span", caption)),
            element("thead", head),
            element("tbody", join(body)),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def picture(svg: str, *, name: str, alternative: str) -> Markup:
    """An SVG to stand in the page: its ids made its own, its size left to the page."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    return Markup(f'{opening} role="img" aria-label="{escape(alternative)}">{rest}')
