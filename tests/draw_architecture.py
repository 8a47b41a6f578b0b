"""docs/pictures/architecture.svg from the imports: `python -m tests.draw_architecture`.

One row for each layer, the lowest at the bottom; a box for each folder,
with what it imports as its title. The red lines go up: the exceptions of the import test.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from tests.test_import_direction import LAYERS, MODULES, OURS, area, upward
from vexp.registry import KINDS

PICTURE = Path(__file__).parents[1] / "docs/pictures/architecture.svg"
WIDTH, BOX, GAP, LABEL = 1000, 26, 8, 70
PER_LINE = 8  # boxes
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}"
    "rect{fill:#eef3fb;stroke:#8ba3c7}"
    "path{fill:none;stroke:#c0362c;stroke-width:1.5;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
    "rect{fill:#17233a;stroke:#4d6a96}}"
)


def rows() -> list[tuple[str, list[str]]]:
    """Layers from the highest down, each with its folders."""
    present = {area(name) for name in MODULES}
    shown = []
    for layer in reversed(LAYERS):
        folders = sorted(name for name in layer if name in present and name not in ("", "__main__"))
        label = "kinds" if layer is KINDS else "ground" if "errors" in layer else ""
        shown.append((label, folders))
    return shown


def draw() -> str:
    """The picture, the same for the same imports."""
    where: dict[str, tuple[float, float]] = {}
    boxes, top = [], 20.0
    for label, folders in rows():
        count = -(-len(folders) // PER_LINE)
        width = (WIDTH - LABEL - GAP) / min(PER_LINE, max(len(folders), 4)) - GAP
        if label:
            boxes.append(f'<text x="10" y="{top + 19:g}">{escape(label)}</text>')
        for number, name in enumerate(folders):
            line, column = divmod(number, PER_LINE)
            x, y = LABEL + column * (width + GAP), top + line * (BOX + GAP)
            where[name] = (x + width / 2, y + BOX / 2)
            imported = sorted(
                {area(i.imported) for i in OURS if area(i.importer) == name} - {name, ""}
            )
            title = f"vexp/{name} imports {', '.join(imported) or 'nothing of vexp'}"
            boxes.append(
                f'<g><title>{escape(title)}</title><rect x="{x:g}" y="{y:g}" width="{width:g}" '
                f'height="{BOX}" rx="5"/>'
                f'<text x="{x + 8:g}" y="{y + 17:g}">{escape(name)}</text></g>'
            )
        top += count * (BOX + GAP) + 8
    paths = []
    for above, below in sorted({(area(i.imported), area(i.importer)) for i in OURS if upward(i)}):
        (x1, y1), (x2, y2) = where[above], where[below]
        middle = (y1 + y2) / 2
        paths.append(
            f'<path d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"/>'
        )
    name = quoteattr("The folders of vexp in layers; each imports those below it")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" role="img" '
            f"aria-label={name}>",
            f"<style>{STYLE}</style>",
            *boxes,
            *paths,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
