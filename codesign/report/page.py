"""The report page's fixed parts: skeleton, style, and the script that sorts and filters the table."""

from __future__ import annotations

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>$title</title>
<style>$style</style>
</head>
<body>
"""

FIGURE_PAGE = f"""{_HEAD}
<main>$figure</main>
</body>
</html>
"""

PAGE = f"""{_HEAD}
<header><h1>$model <small>on</small> $device</h1><p>$run</p></header>
<p class="verdict $state">$verdict</p>
<div class="cards">$cards</div>
<div class="notes">$notes</div>
<main>
$figures
<section class="whole"><h2>How does each operation fare?</h2>$table</section>
</main>
<footer>$about</footer>
<script>$script</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5a6b7d; --line: #dde2e9; --good: #2a9d74; --bad: #c0392b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1380px; padding: 20px; background: #f5f7fa; color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h1 small { color: var(--soft); font-weight: normal; }
h2 { font-size: 17px; margin: 0; }
h3 { font-size: 14px; margin: 0 0 4px; }
header p, section > p { color: var(--soft); margin: 2px 0 8px; overflow-wrap: anywhere; }
.verdict { margin: 12px 0; padding: 12px 16px; background: white; border-left: 6px solid; border-radius: 6px;
  font-size: 17px; overflow-wrap: anywhere; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 10px; }
.card, .note, section { background: white; border: 1px solid var(--line); border-radius: 8px; }
.card { padding: 8px 12px; }
.card span { display: block; color: var(--soft); font-size: 13px; }
.card b { font-size: 17px; font-weight: 600; white-space: nowrap; }
.notes { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 10px; margin: 12px 0; }
.note { padding: 10px 14px; border-top: 3px solid var(--line); }
.note.good { border-top-color: var(--good); }
.note.lever { border-top-color: #2f6fde; }
.note.warning { border-top-color: #e0a82a; }
.note ul { margin: 0; padding-left: 18px; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px; }
section { padding: 14px 16px; min-width: 0; }
section.whole { grid-column: 1 / -1; }
.scroll { overflow: auto; max-height: 720px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: white; text-align: left; cursor: pointer; white-space: nowrap;
  border-bottom: 2px solid var(--line); padding: 6px 10px; user-select: none; }
th[data-order="1"]::after { content: " \\25b4"; }
th[data-order="-1"]::after { content: " \\25be"; }
td { padding: 4px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:nth-child(2) { white-space: normal; overflow-wrap: anywhere; min-width: 220px; }
td[data-v], th:nth-child(1), th:nth-child(n+4):nth-child(-n+9) { text-align: right; }
td i { display: inline-block; height: 9px; background: #2f6fde; margin-right: 6px; }
input { float: right; padding: 4px 8px; border: 1px solid var(--line); border-radius: 6px; min-width: 220px; }
footer { color: var(--soft); font-size: 13px; margin: 16px 4px; overflow-wrap: anywhere; }
@media (max-width: 900px) {
  main { grid-template-columns: minmax(0, 1fr); }
  body { padding: 10px; }
  input { float: none; }
  .modebar { display: none; }
}
@media print { .scroll { max-height: none; } section { break-inside: avoid; } }
"""

SCRIPT = """
const body = document.querySelector('#ops tbody'), heads = [...document.querySelectorAll('#ops th')];
const key = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
};
heads.forEach((head, column) => head.addEventListener('click', () => {
  const numeric = body.rows.length && body.rows[0].cells[column].dataset.v !== undefined;
  const order = head.dataset.order ? -head.dataset.order : (numeric && column ? -1 : 1);
  heads.forEach(other => delete other.dataset.order);
  head.dataset.order = order;
  const compare = (a, b) => numeric ? a - b : a.localeCompare(b);
  body.append(...[...body.rows].sort((a, b) => order * compare(key(a, column), key(b, column))));
}));
document.querySelector('#filter').addEventListener('input', event => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
"""
