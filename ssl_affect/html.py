"""Self-contained HTML pages: one file, no scripts from elsewhere, pictures and sounds inside."""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_affect.files import write_text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { opacity: .75; font-size: .9em; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; } .note { opacity: .8; }
"""


class Page:
    """An HTML page put together from top to bottom; all text is escaped.

    Args:
        title: Title and heading.
        style: Rules to add to those of all pages.
        script: JavaScript that runs when the page is there.
        media: Where pictures and sound may come from besides the page itself, as a Content-Security-Policy says it. With a
            script or this the browser is told to load nothing else, whatever the page holds.

    Example:
        >>> page = Page("Run 7")
        >>> page.heading("Loss")
        >>> page.table(["step", "loss"], [[1, 0.9]])
        >>> page.write(Path("report.html"))
    """

    def __init__(self, title: str, *, style: str = "", script: str = "", media: str = "") -> None:
        self.title = title
        self._style, self._script, self._media = style, script, media
        self._body: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section heading."""
        self._body.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._body.append(f"<p>{html.escape(text)}</p>")

    def markup(self, text: str) -> None:
        """HTML as it is; what stands in it has been escaped by the caller."""
        self._body.append(text)

    def code(self, text: str) -> None:
        """Preformatted text."""
        self._body.append(f"<pre>{html.escape(text)}</pre>")

    def details(self, summary: str, text: str) -> None:
        """Preformatted text that is folded away under a summary."""
        self._body.append(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table; numbers are set flush right."""
        head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        self._body.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def image(self, data: bytes, caption: str = "", *, kind: str = "png", width: int | None = None) -> None:
        """A picture from its encoded bytes (``kind`` png or jpeg); ``width`` is in CSS pixels."""
        size = f' width="{width}"' if width else ""
        self._body.append(
            f'<figure><img{size} alt="{html.escape(caption, quote=True)}" src="{data_uri(data, f"image/{kind}")}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def audio(self, data: bytes, caption: str = "", *, kind: str = "flac") -> None:
        """A sound that can be played, from its encoded bytes."""
        self._body.append(
            f'<figure><audio controls preload="none" src="{data_uri(data, f"audio/{kind}")}"></audio>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def render(self) -> str:
        """The whole page as text."""
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width">{self._policy()}<style>{_STYLE}{self._style}</style>'
            "</head><body>"
            + "\n".join(self._body)
            + (f"<script>{self._script}</script>" if self._script else "")
            + "</body></html>\n"
        )

    def _policy(self) -> str:
        """What the browser may load and run: this page's own script, known by its hash."""
        if not self._script and not self._media:
            return ""
        digest = base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode()
        rules = (
            f"default-src 'none'; img-src data:; media-src data: blob: {self._media}; style-src 'unsafe-inline';"
            f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )
        return f'<meta http-equiv="Content-Security-Policy" content="{html.escape(rules, quote=True)}">'

    def write(self, path: Path) -> None:
        """Writes the page atomically."""
        write_text(path, self.render())


def data_uri(data: bytes, mime: str) -> str:
    """``data:`` address of some bytes."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape(str(value))}</td>"
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f'<td class="n">{value:.4g}</td>'
