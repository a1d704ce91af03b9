"""The README's chart: what has a limit or a peer beside it, as bars, in SVG drawn by hand."""

from __future__ import annotations

from html import escape

from tests.bench.kit import Row

WIDTH, LINE, LEFT, RIGHT = 860, 40, 400, 150
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.small { font-size: 11px; fill: #52606d }
.limit { fill: #d5dbe1 } .ours { fill: #2563a8 }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb } .small { fill: #9aa5b1 } .limit { fill: #3e4c59 } .ours { fill: #62a8ea }
}"""


def _bar(y: int, height: int, part: float, kind: str) -> str:
    width = max(part, 0.002) * (WIDTH - LEFT - RIGHT)
    return f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{height}" rx="2"/>'


def drawn(rows: list[Row], facts: dict[str, str]) -> str:
    """Rates with a limit: the limit's bar in grey, ours in blue over it."""
    with_limit = [row for row in rows if row["value"] and row["limit"] and "/s" in row["unit"]]
    height = 64 + LINE * len(with_limit) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' aria-label="Tocsin beside its limits">',
        f"<style>{STYLE}</style>",
        '<text x="8" y="22">Tocsin (blue) beside the bare machinery or peer in the same run (grey)</text>',
    ]
    for n, row in enumerate(with_limit):
        y = 40 + n * LINE
        most = max(row["value"], row["limit"])
        parts += [
            f'<text x="8" y="{y + 17}">{escape(row["figure"])}</text>',
            _bar(y, 26, row["limit"] / most, "limit"),
            _bar(y + 6, 14, row["value"] / most, "ours"),
            f'<text class="small" x="{WIDTH - RIGHT + 8}" y="{y + 17}">{row["value"]:,.0f} / {row["limit"]:,.0f}'
            f" {escape(row['unit'])}</text>",
        ]
    text = " · ".join(f"{name} {facts[name]}" for name in ("cpu", "system", "python", "aiohttp", "sqlite"))
    parts.append(f'<text class="small" x="8" y="{height - 12}">{escape(text)}</text></svg>')
    return "\n".join(parts) + "\n"
