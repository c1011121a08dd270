"""How the report looks: its style sheet, and the part of it that a chart needs elsewhere. No font and no network."""

from __future__ import annotations

_LIGHT = """--bg: #faf9f6; --card: #ffffff; --ink: #1e2230; --soft: #5a6070; --line: #dddcd5;
  --federated: #3f4ea3; --personalised: #1d7a6c; --alone: #a3a7b1; --pooled: #5a6070; --warn: #93560a;
  --bad: #a4262c; --bad-bg: #fbeceb; --warn-bg: #fbf3e4;"""

_CHARTS = """
svg text { fill: var(--ink); font-size: 12px; }
svg .tick { fill: var(--soft); font-size: 11.5px; }
svg .value { font-weight: 650; }
svg .member { font-size: 13px; font-weight: 600; }
svg .end { text-anchor: end; }
svg .mid { text-anchor: middle; }
svg .grid, svg .axis { stroke: var(--line); fill: none; }
svg .guide { stroke: var(--soft); stroke-dasharray: 1 3; fill: none; }
svg .rule { stroke: var(--line); stroke-dasharray: 3 3; fill: none; }
svg .line { stroke: var(--federated); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg .promoted { fill: var(--federated); }
svg .kept { fill: var(--bg); stroke: var(--federated); stroke-width: 1.8; }
svg .refused { fill: var(--bg); stroke: var(--warn); stroke-width: 1.8; }
svg .failed { fill: none; stroke: var(--bad); stroke-width: 2.2; stroke-linecap: round; }
svg .named { fill: var(--soft); }
svg .bar.alone { fill: var(--alone); }
svg .bar.federated { fill: var(--federated); }
svg .bar.personalised { fill: var(--personalised); }
svg .bar.pooled { fill: none; stroke: var(--pooled); stroke-dasharray: 3 2; }
svg .diagonal { stroke: var(--soft); stroke-dasharray: 1 3; fill: none; }
svg .frame { stroke: var(--line); fill: none; }
svg .whisker { stroke: var(--federated); stroke-width: 1.4; opacity: .55; fill: none; }
"""

STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}"
    + """
@media (prefers-color-scheme: dark) { :root { --bg: #14161c; --card: #1b1e26; --ink: #e5e6ea;
  --soft: #a3a8b5;
  --line: #31353f; --federated: #9aa7fb; --personalised: #63c3b3; --alone: #6d7382; --pooled: #a3a8b5;
  --warn: #e5b062;
  --bad: #ff948e; --bad-bg: #3a1c1e; --warn-bg: #352a17; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums lining-nums; overflow-wrap: break-word; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 56px; }
h1, h2, .lede { font-family: ui-serif, "Iowan Old Style", "Palatino Linotype", Palatino, Georgia,
  "DejaVu Serif", serif;
  font-weight: 500; }
h1 { font-size: 40px; line-height: 1.15; margin: 4px 0 14px; }
h2 { font-size: 25px; line-height: 1.25; margin: 0 0 6px; }
h3 { font-size: 15px; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 72ch; }
.lede { font-size: 21px; line-height: 1.45; max-width: 44em; }
.over, .note, figcaption, .none, footer { color: var(--soft); font-size: 14px; }
.over { margin: 0; letter-spacing: .02em; }
section { border-top: 1px solid var(--line); padding: 30px 0 34px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 18px 28px;
  margin: 26px 0 36px; }
.figures div { border-top: 2px solid var(--line); padding-top: 10px; }
dt { color: var(--soft); font-size: 14px; }
dd { margin: 0; }
.figures dd { font-size: 24px; line-height: 1.3; }
.figures dd small { display: block; font-size: 14px; color: var(--soft); line-height: 1.5; }
.alarm, .caution { border-left: 6px solid var(--bad); background: var(--bad-bg); padding: 16px 20px;
  margin: 22px 0; }
.alarm strong { display: block; font-size: 21px; color: var(--bad); }
.caution { border-color: var(--warn); background: var(--warn-bg); }
.alarm p, .caution p { margin: 2px 0 0; }
.bad { color: var(--bad); font-weight: 700; }
.charts { display: grid; gap: 26px 36px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px),
  1fr)); }
.charts.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 14px 0 6px; min-width: 0; }
.chart { display: block; width: 100%; max-width: 560px; height: auto; overflow: visible; }
.charts.three .chart { max-width: 420px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 10px 0;
  font-size: 14px; }
.legend svg { vertical-align: -2px; margin-right: 7px; }
ul.plain { padding-left: 20px; margin: 0 0 12px; max-width: 76ch; }
ul.plain li { margin-bottom: 6px; }
.scroll { overflow-x: auto; margin: 10px 0; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--federated); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.4; }
th, td { text-align: left; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
thead th { color: var(--soft); font-weight: 500; border-bottom-color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody + tbody th[rowspan] { padding-top: 6px; }
.num { text-align: right; white-space: nowrap; }
thead .num { white-space: normal; min-width: 3.6em; }
tr.refused .status { color: var(--warn); font-weight: 600; }
tr.failed .status { color: var(--bad); font-weight: 600; }
.best { font-weight: 650; }
td.best { padding-right: calc(16px - .52em); }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--federated); width: fit-content; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .92em;
  overflow-wrap: anywhere; }
.matrix td, .matrix thead th { text-align: right; padding: 6px 14px; }
.matrix .right { font-weight: 650; background: var(--card); }
.changed td, .changed th { font-weight: 650; }
.pairs { display: grid; grid-template-columns: minmax(150px, auto) 1fr; gap: 6px 24px; margin: 10px 0;
  width: fit-content; }
footer { padding-bottom: 48px; }
@media (max-width: 600px) {
  main, header, footer { padding-left: 18px; padding-right: 18px; }
  header { padding-top: 30px; }
  h1 { font-size: 31px; } .lede { font-size: 18.5px; } .figures { grid-template-columns: 1fr 1fr;
  gap: 16px; }
  .figures dd { font-size: 20px; }
  .pairs { grid-template-columns: 1fr; gap: 0; } .pairs dd { margin-bottom: 10px; }
  .charts:not(.three) svg text { font-size: 14.5px; } .charts:not(.three) svg .tick { font-size: 13.5px; }
}
@media print { body { background: none; } details::details-content { content-visibility: visible;
  block-size: auto; }
  .scroll { overflow: visible; } figure, tr { break-inside: avoid; } }
"""
    + _CHARTS
)
"""The whole style sheet of the page."""


def within(name: str) -> str:
    """Return the rules of charts for the inside of elements of a class: light colours, and nothing else is touched."""
    rules = _CHARTS.strip().splitlines()
    scoped = [", ".join(f".{name} {one.strip()}" for one in rule.partition(" {")[0].split(",")) for rule in rules]
    bodies = [rule.partition(" {")[2] for rule in rules]
    colours = f".{name} {{ color-scheme: light; {_LIGHT} background: var(--bg); color: var(--ink); }}"
    return "\n".join([colours, *(f"{names} {{{body}" for names, body in zip(scoped, bodies, strict=True))])
