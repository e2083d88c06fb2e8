"""The look of the report: one style sheet and one script, both inside the page. Nothing is loaded."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1b1f24; --soft: #626b76; --rule: #e4e6e8; --fill: #f3f4f4;
  --main: #0b6e8f; --second: #7a5ba6; --third: #8a8f98; --faint: #0b6e8f66; --compute: #0b6e8f8c; --wait:
    #d9822b;
  --good: #2b7a4b; --fair: #b0700a; --poor: #b3372f; }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --ink: #e6e8ea; --soft: #98a1ab; --rule: #2a2f35; --fill: #1c2024;
  --main: #55b4d4; --second: #b29adb; --third: #868e98; --faint: #55b4d466; --compute: #3f8ba6b0; --wait:
    #e09a4c;
  --good: #63b784; --fair: #dba64a; --poor: #e57b73; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 32px 72px; }
header p { margin: 0; }
.brand { color: var(--soft); font-size: 13px; letter-spacing: .04em; }
h1 { font-size: 34px; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 4px 0 12px;
  overflow-wrap: anywhere; }
.lead { font-size: 18px; max-width: 46em; overflow-wrap: anywhere; }
.lead b { font-weight: 600; } .finished b { color: var(--good); } .stopped b { color: var(--fair); }
.failed b, .cut b { color: var(--poor); }
h2 { font-size: 19px; font-weight: 620; letter-spacing: -.005em; margin: 56px 0 12px; }
.note { color: var(--soft); margin: -8px 0 20px; max-width: 46em; }
dl.figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 24px 32px; margin: 40px 0 0; }
.figures div { border-top: 1px solid var(--rule); padding-top: 10px; min-width: 0; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 2px 0 0; } .figures .value { font-size: 24px; font-weight: 600; line-height: 1.25;
  letter-spacing: -.01em; } .figures .detail { color: var(--soft); font-size: 13px; overflow-wrap:
    anywhere; }
.good { color: var(--good); } .fair { color: var(--fair); } .poor { color: var(--poor); }
.advice { margin: 16px 0 24px; padding: 2px 0 2px 18px; border-left: 3px solid var(--soft); }
.advice p { margin: 0; } .advice .first { font-size: 17px; font-weight: 600; color: var(--ink); }
.advice .why { color: var(--soft); margin-top: 4px; max-width: 58em; }
.advice.good { border-color: var(--good); } .advice.fair { border-color: var(--fair); }
.advice.poor { border-color: var(--poor); }
.sweep { display: block; width: 100%; height: auto; overflow: visible; }
.sweep .course { fill: none; stroke: var(--main); stroke-width: 1.5; stroke-linejoin: round; }
.sweep .course.best { stroke: var(--wait); stroke-width: 2.5; } .sweep .trial { fill: var(--main); }
.sweep .axis { stroke: var(--soft); stroke-width: 1; } .sweep text { fill: var(--soft); font-size: 12px; }
.sweep .mark { text-anchor: end; } .sweep .name { text-anchor: middle; fill: var(--ink); }
.shares .wide { width: 60%; } .share { display: block; height: 10px; background: var(--main); }
.sheet { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.charts { display: grid; grid-template-columns: 1fr; gap: 32px 40px; } .charts + .charts, .marks + .charts
  { margin-top: 32px; }
.charts.two { grid-template-columns: 1fr 1fr; } .charts.three { grid-template-columns: repeat(3, 1fr); }
.chart { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 20px; font-size: 13px;
  margin-bottom: 8px; }
figcaption b { font-weight: 600; overflow-wrap: anywhere; } small { color: var(--soft); font-size: inherit;
  font-weight: 400; }
.keys { display: flex; flex-wrap: wrap; gap: 0 16px; color: var(--soft); }
.key { white-space: nowrap; } .key output { color: var(--ink); display: inline-block; min-width: 2.6em; }
.key i { display: inline-block; width: 14px; height: 0; border-top: 2.5px solid; vertical-align: 4px;
  margin-right: 6px; } .key i.dashed { border-top-style: dashed; border-top-width: 2px; }
i.compute, i.wait { border-top-width: 10px !important; vertical-align: 0 !important; }
i.main { color: var(--main); } i.second { color: var(--second); } i.third { color: var(--third); }
i.faint { color: var(--faint); } i.compute { color: var(--compute); } i.wait { color: var(--wait); }
.plot { position: relative; padding: 0 0 22px 52px; }
.plot > svg { display: block; width: 100%; height: 230px; overflow: visible; }
.small .plot > svg { height: 120px; } .plot svg svg { overflow: hidden; }
.plot path { vector-effect: non-scaling-stroke; fill: none; }
.y, .x { color: var(--soft); font-size: 12px; line-height: 1; }
.y { position: absolute; left: 0; top: 0; bottom: 22px; width: 44px; }
.y span { position: absolute; right: 0; transform: translateY(-50%); white-space: nowrap; }
.x { position: absolute; left: 52px; right: 0; bottom: 0; height: 14px; }
.x span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.x .end { transform: translateX(-100%); }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { stroke-width: 2; stroke-linejoin: round; } .line.faint { stroke-width: 1; }
.line.dashed { stroke-dasharray: 5 4; stroke-width: 1.5; } .small .line { stroke-width: 1.5; }
.line.main, .dot.main { stroke: var(--main); } .line.second, .dot.second { stroke: var(--second); }
.line.wait, .dot.wait { stroke: var(--wait); }
.line.third, .dot.third { stroke: var(--third); } .line.faint, .dot.faint { stroke: var(--faint); }
.plot path.area.compute { fill: var(--compute); } .plot path.area.wait { fill: var(--wait); }
.bar { stroke-width: 8; } .bar.compute { stroke: var(--compute); } .bar.wait { stroke: var(--wait); }
.dot { stroke-width: 7; stroke-linecap: round; }
.checkpoint { stroke: var(--soft); stroke-width: 5; stroke-linecap: round; }
.lost { stroke: var(--poor); stroke-width: 6; stroke-linecap: round; }
.restart { stroke: var(--poor); stroke-width: 1.5; stroke-dasharray: 2 3; }
.hair { stroke: var(--soft); stroke-width: 1; visibility: hidden; }
.marks { color: var(--soft); font-size: 13px; margin: 12px 0 0 52px; }
.marks i { display: inline-block; margin-right: 6px; } .marks span { margin-right: 20px; white-space:
  nowrap; }
.marks .saved { width: 6px; height: 6px; border-radius: 3px; background: var(--soft); vertical-align: 2px; }
.marks .gone { height: 12px; border-left: 2px dotted var(--poor); vertical-align: -1px; }
.marks .nan { width: 7px; height: 7px; border-radius: 4px; background: var(--poor); vertical-align: 1px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
th, td { padding: 7px 24px 7px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { overflow-wrap: anywhere; } td.number, th.number { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; } table.short { width: auto; min-width: 50%; margin-bottom: 24px; }
code, pre { font: 13px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--fill); border-radius: 6px; padding: 12px 16px; margin: 6px 0 16px; overflow-x:
  auto; }
details { margin: 8px 0; } summary { cursor: pointer; padding: 4px 0; }
footer { margin-top: 56px; padding-top: 12px; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: 13px; }
@media (max-width: 760px) {
  main { padding: 28px 18px 48px; } h1 { font-size: 27px; } .lead { font-size: 16px; } h2 { margin-top:
    40px; }
  dl.figures { grid-template-columns: 1fr 1fr; gap: 18px 20px; margin-top: 28px; } .figures .value {
    font-size: 20px; }
  .charts.two, .charts.three { grid-template-columns: 1fr; } .plot { padding-left: 44px; } .y { width:
    38px; }
  .x { left: 44px; } .marks { margin-left: 0; } .plot > svg { height: 190px; } }
@media print { body { font-size: 11px; } main { padding: 0; max-width: none; } h2 { margin-top: 28px;
  break-after: avoid; }
  .plot > svg { height: 160px; } .small .plot > svg { height: 80px; } details::details-content {
    content-visibility: visible;
  display: block; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
for (const chart of document.querySelectorAll('[data-points]')) {
  const {from, to, steps, values} = JSON.parse(chart.dataset.points);
  const svg = chart.querySelector('svg'), hair = chart.querySelector('.hair');
  const outputs = [...chart.querySelectorAll('output')], last = outputs.map(output => output.value);
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const step = from + (to - from) * (event.clientX - box.left) / box.width;
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    if (low > 0 && step - steps[low - 1] < steps[low] - step) low -= 1;
    outputs[0].value = steps[low].toLocaleString('en');
    values.forEach((line, i) => outputs[i + 1].value = line[low]);
    hair.setAttribute('transform', `translate(${1000 * (steps[low] - from) / (to - from)} 0)`);
    hair.style.visibility = 'visible';
  });
  svg.addEventListener('pointerleave', () => {
    outputs.forEach((output, i) => output.value = last[i]);
    hair.style.visibility = 'hidden';
  });
}
"""


def page_html(title: str, body: str) -> str:
    """Return a whole document. `title` and `body` are HTML, escaped where they need to be."""
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
