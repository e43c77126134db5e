"""A report as a list of blocks, and the two ways to write it: Markdown with files beside it, and one HTML file.

Knows no sweep. All text is escaped here and nowhere else.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `style` is a CSS class."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Code:
    """Commands, one a line."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A frame of text; columns by name that hold numbers, code, long text."""

    frame: pd.DataFrame
    numbers: Sequence[str] = ()
    code: Sequence[str] = ()
    long: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A figure that lies as FOLDER/figures/NAME.svg and .png."""

    name: str
    caption: str


@dataclass(frozen=True)
class Links:
    """Names with a web address (a link) or anything else (shown as code)."""

    links: Mapping[str, str]


Block = Heading | Text | Code | Table | Picture | Links


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report as GitHub-flavoured Markdown; pictures link to figures/NAME.png."""
    return "\n\n".join([f"# {_plain(title)}", *(_markdown(block) for block in blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The report as one HTML file that needs no other: style inside, pictures read from `folder` and inlined."""
    style = resources.files("sweeps.answer").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_safe(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{_safe(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Code(lines):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0))
            return "\n".join([f"{fence}sh", *lines, fence])
        case Table(frame, numbers):
            rule = ["---:" if column in numbers else "---" for column in frame]
            rows = [[_plain(str(cell)) for cell in row] for row in frame.itertuples(index=False)]
            return "\n".join(
                f"| {' | '.join(row)} |" for row in [[_plain(str(column)) for column in frame], rule, *rows]
            )
        case Picture(name, caption):
            return f"![{_plain(caption)}](figures/{name}.png)\n\n{_plain(caption)}"
        case Links(links):
            items = [
                f"- [{_plain(name)}](<{_address(target)}>)" if _is_web(target) else f"- {_plain(name)}: {_code(target)}"
                for name, target in links.items()
            ]
            return "\n".join(items)


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_safe(text)}</h2>"
        case Text(text, style):
            return f'<p class="{_safe(style)}">{_safe(text)}</p>' if style else f"<p>{_safe(text)}</p>"
        case Code(lines):
            return f"<pre>{_safe(chr(10).join(lines))}</pre>"
        case Table():
            return _html_table(block)
        case Picture(name, caption):
            svg = base64.b64encode((folder / "figures" / f"{name}.svg").read_bytes()).decode("ascii")
            image = f'<img alt="{_safe(caption)}" src="data:image/svg+xml;base64,{svg}">'
            return f'<figure><div class="scroll">{image}</div><figcaption>{_safe(caption)}</figcaption></figure>'
        case Links(links):
            items = [
                f'<li><a href="{_safe(target)}">{_safe(name)}</a></li>'
                if _is_web(target)
                else f"<li>{_safe(name)}: <code>{_safe(target)}</code></li>"
                for name, target in links.items()
            ]
            return f"<ul>{''.join(items)}</ul>"


def _html_table(table: Table) -> str:
    def cell(tag: str, column: str, text: str) -> str:
        style = "number" if column in table.numbers else "long" if column in table.long and tag == "td" else ""
        content = _safe(text)
        if column in table.code and tag == "td" and text:
            content = f"<code>{content}</code>"
        return f"<{tag}{f' class={style}' if style else ''}>{content}</{tag}>"

    columns = [str(column) for column in table.frame]
    head = "".join(cell("th", column, column) for column in columns)
    rows = "\n".join(
        f"<tr>{''.join(cell('td', column, str(text)) for column, text in zip(columns, row, strict=True))}</tr>"
        for row in table.frame.itertuples(index=False)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " * (len(fence) > 1)
    return f"{fence}{pad}{text}{pad}{fence}"


def _is_web(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _address(target: str) -> str:
    return target.replace("<", "%3C").replace(">", "%3E").replace("\n", "")
