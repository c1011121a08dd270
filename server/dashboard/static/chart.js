// One metric over rounds, drawn as in the report: shapes and numbers carry the meaning, not colour alone.

import { fixed, h, s } from './dom.js';

const WIDTH = 560;
const LEFT = 66;
const TOP = 14;
const PLOT = 190;

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step)
    found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return found;
}

function shape(kind, x, y) {
  if (kind === 'refused') return s('path', { class: 'refused', d: `M${x} ${y}m0 -6l6 6l-6 6l-6 -6z` });
  if (kind === 'failed') return s('path', { class: 'failed', d: `M${x} ${y}m-5 -5l10 10m0 -10l-10 10` });
  return s('circle', { class: kind === 'kept' ? 'kept' : 'promoted', cx: x, cy: y, r: 4 });
}

/**
 * A figure with the chart, a legend of what is in it, and the same numbers as a table.
 * marks: [{ round, number, status, value, note }]; a mark without a value stands below the plot.
 */
export function overRounds(id, name, note, marks, { of, digits = 3, guide = null } = {}) {
  const measured = marks.filter((one) => typeof one.value === 'number');
  if (!measured.length)
    return h(
      'figure',
      {},
      h('h3', {}, name),
      h('p', { class: 'none' }, marks.length ? 'Not measured in any round yet.' : 'There was no round yet.'),
    );
  const right = digits > 3 ? 94 : 72;
  const values = measured.map((one) => one.value).concat(guide === null ? [] : [guide]);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.12;
  [low, high] = [low - room, high + room];
  const last = Math.max(of ?? 1, ...marks.map((one) => one.round), 2);
  const x = (round) => +(LEFT + ((WIDTH - LEFT - right) * (round - 1)) / (last - 1)).toFixed(1);
  const y = (value) => +(TOP + (PLOT * (high - value)) / (high - low)).toFixed(1);
  const base = TOP + PLOT;
  const across = ticks(low, high, 4).filter((one) => digits || Number.isInteger(one));
  const decimals = !digits ? 0 : Math.max(0, Math.min(5, 1 - Math.floor(Math.log10(across[1] - across[0] || 1))));
  const promoted = measured.filter((one) => one.status === 'promoted');
  const lane = marks.filter((one) => ['kept', 'refused', 'failed'].includes(one.status));
  const end = promoted.at(-1);
  const kinds = ['promoted', 'kept', 'refused', 'failed'].filter((kind) => marks.some((one) => one.status === kind));
  const said =
    `${measured.length} of ${marks.length} rounds measured; ` +
    (end ? `the newest promoted round, ${end.round}, has ${fixed(end.value, digits)}.` : 'none promoted.');
  const drawing = s(
    'svg',
    {
      class: 'chart',
      viewBox: `0 0 ${WIDTH} ${base + (lane.length ? 48 : 30)}`,
      role: 'img',
      'aria-labelledby': `${id}-t ${id}-d`,
    },
    s('title', { id: `${id}-t` }, name),
    s('desc', { id: `${id}-d` }, `${said} The numbers are in the table below.`),
    across.map((one) => [
      s('path', { class: 'grid', d: `M${LEFT} ${y(one)}H${WIDTH - right}` }),
      s('text', { class: 'tick end', x: LEFT - 8, y: y(one) + 4 }, fixed(one, decimals)),
    ]),
    guide === null ? null : s('path', { class: 'guide', d: `M${LEFT} ${y(guide)}H${WIDTH - right}` }),
    ticks(1, last, 6)
      .filter((one) => Number.isInteger(one) && one >= 1)
      .map((one) => s('text', { class: 'tick mid', x: x(one), y: base + 19 }, String(one))),
    s('text', { class: 'tick end', x: LEFT - 8, y: base + 19 }, 'round'),
    s('polyline', { class: 'line', points: promoted.map((one) => `${x(one.round)},${y(one.value)}`).join(' ') }),
    measured.map((one) =>
      s('g', { 'data-key': `m${one.number}` }, s('title', {}, one.note), shape(one.status, x(one.round), y(one.value))),
    ),
    end
      ? s(
          'text',
          { class: 'value', x: Math.min(x(end.round) + 9, WIDTH - right + 9), y: y(end.value) + 4 },
          fixed(end.value, digits),
        )
      : null,
    lane.map((one) =>
      s('g', { 'data-key': `l${one.number}` }, s('title', {}, one.note), shape(one.status, x(one.round), base + 36)),
    ),
  );
  const words = { promoted: 'promoted', kept: 'kept, no better', refused: 'refused by the gate', failed: 'failed' };
  const key = kinds.map((kind) =>
    h(
      'li',
      {},
      s('svg', { width: 16, height: 16, viewBox: '0 0 16 16', 'aria-hidden': 'true' }, shape(kind, 8, 8)),
      words[kind],
    ),
  );
  return h(
    'figure',
    { 'data-key': id },
    h('h3', {}, name),
    drawing,
    h('ul', { class: 'legend' }, key),
    note ? h('figcaption', {}, note) : null,
    h('details', {}, h('summary', {}, 'The same numbers as a table'), table(name, marks, digits)),
  );
}

function table(name, marks, digits) {
  return h(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `${name}, as a table` },
    h(
      'table',
      {},
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          ['round', 'no.', 'how it ended', 'value'].map((one) => h('th', { scope: 'col' }, one)),
        ),
      ),
      h(
        'tbody',
        {},
        marks.map((one) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, String(one.round)),
            h('td', {}, String(one.number)),
            h('td', {}, one.status),
            h('td', { class: 'num' }, fixed(one.value, digits)),
          ),
        ),
      ),
    ),
  );
}
