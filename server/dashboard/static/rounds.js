// The rounds of a run, and the gate's metric over them.

import { badge, fixed, h, listed, many } from './dom.js';
import { get, post } from './net.js';
import { overRounds } from './chart.js';
import { votes } from './words.js';

export const title = 'Rounds';
const NAMES = { loss: 'Loss', accuracy: 'Accuracy', auc: 'AUC', average_precision: 'Average precision' };
const TONE = { promoted: 'good', kept: 'plain', refused: 'warn', failed: 'bad', running: 'plain' };

export function load(app, [run], quiet) {
  return get(run ? `rounds?run=${encodeURIComponent(run)}` : 'rounds', quiet);
}

export function view(app, data) {
  if (!data)
    return [
      h('h1', { tabindex: -1 }, 'Rounds'),
      h(
        'p',
        {},
        'There was no run yet. A submitter (scope fl:run) starts one with ',
        h('code', {}, 'moonflower run'),
        '.',
      ),
    ];
  const open = ['queued', 'running'].includes(data.status);
  return [
    h('p', { class: 'over' }, `Run ${data.run}`),
    h('h1', { tabindex: -1 }, 'Rounds'),
    h('p', { class: 'lede' }, state(data)),
    h(
      'div',
      { class: 'row' },
      data.runs.length > 1
        ? h(
            'label',
            {},
            'Run ',
            h(
              'select',
              { 'data-change': 'run' },
              [...data.runs].reverse().map((one) => h('option', { value: one, selected: one === data.run }, one)),
            ),
          )
        : null,
      open && app.may('fl:run')
        ? h(
            'button',
            { type: 'button', class: 'quiet danger', 'data-action': 'stop', 'data-run': data.run, disabled: data.stop },
            data.stop ? 'Stopping …' : 'Stop this run …',
          )
        : null,
    ),
    data.rounds.length ? charts(data, 'run') : null,
    h(
      'section',
      { 'aria-labelledby': 'each' },
      h('h2', { id: 'each' }, 'Each round'),
      table(data, everybody(data, app.overview?.members ?? [])),
    ),
  ];
}

function state(data) {
  const count = (status) => data.rounds.filter((one) => one.status === status).length;
  const ended = ['promoted', 'kept', 'refused', 'failed'].filter((one) => count(one)).map((one) => `${count(one)} ${one}`);
  const converged = data.code === 'run.converged';
  const ends =
    {
      queued: 'Accepted, not begun',
      running: 'Running',
      done: 'Ended well',
      policy: 'Ended by its own rules',
      stopped: 'Stopped',
      failed: 'Failed',
    }[data.status] ?? data.status;
  const how = converged ? 'Converged, with nothing more to gain' : ends + (data.code ? ` (${data.code})` : '');
  return `${how}: ${ended.length ? listed(ended) : 'no round has ended'}, of ${many(data.of, 'round')} planned.`;
}

/** The gate’s metric, and how many members found each candidate better than the best version before it. */
export function charts(data, id) {
  const name = NAMES[data.metric] ?? data.metric;
  const lower = data.metric === 'loss';
  const marks = (value, digits) =>
    data.rounds
      .filter((one) => one.status !== 'running')
      .map((one) => ({
        round: one.round,
        number: one.number,
        status: one.status,
        value: value(one),
        note: `Round ${one.round}, ${one.status}${one.code ? ` (${one.code})` : ''}: ${fixed(value(one), digits)}`,
      }));
  const measured = data.rounds.some((one) => typeof one.metrics?.[data.metric] === 'number');
  return h(
    'div',
    { class: 'charts' },
    measured || !data.rounds.length
      ? overRounds(
          `${id}-metric`,
          `${name}, ${lower ? 'lower' : 'higher'} is better`,
          'Over all members’ test rows together.',
          marks((one) => one.metrics?.[data.metric], 3),
          { of: data.of },
        )
      : null,
    overRounds(
      `${id}-votes`,
      'Members that found the candidate better',
      'Compared with the best version, each member on its own validation rows. A candidate is promoted if more than half of the members that judge find it better. A candidate that is kept is the next base, no better than the best version, and is never released.',
      marks((one) => one.votes.better, 0),
      { of: data.of, digits: 0, guide: 0 },
    ),
  );
}

/** Who is a member now, or was one during a round of this run. */
function everybody(data, members) {
  const took = data.rounds.flatMap((one) => [...one.members, ...one.named.map((out) => out.member)]);
  return [...new Set([...members, ...took])].sort();
}

function present(members, all) {
  if (!members.length) return '–';
  const away = all.filter((one) => !members.includes(one));
  if (members.length < 3 || members.some((one) => !all.includes(one)) || away.length > 1) return listed(members);
  return away.length ? `all but ${away[0]}` : `all ${members.length}`;
}

function table(data, all) {
  if (!data.rounds.length) return h('p', { class: 'none' }, 'None yet.');
  const heads = ['round', 'no.', 'status', 'votes', data.metric, 'members', 'named'];
  const number = (text) => h('td', { class: 'num' }, text);
  return h(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Rounds, as a table' },
    h(
      'table',
      {},
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          heads.map((one, at) => h('th', { scope: 'col', class: at === 4 ? 'num' : null }, one)),
        ),
      ),
      h(
        'tbody',
        {},
        [...data.rounds]
          .reverse()
          .map((one) =>
            h(
              'tr',
              { 'data-key': `r${one.number}` },
              h('th', { scope: 'row' }, `${one.round}`),
              h('td', {}, String(one.number)),
              h(
                'td',
                {},
                badge(TONE[one.status] ?? 'plain', one.status),
                one.code ? h('small', { class: 'code' }, one.code) : null,
              ),
              h('td', {}, votes(one.votes)),
              number(fixed(one.metrics?.[data.metric], 3)),
              h('td', {}, present(one.members, all)),
              h('td', {}, one.named.length ? listed(one.named.map((out) => `${out.member} (${out.code})`)) : '–'),
            ),
          ),
      ),
    ),
  );
}

export const changes = {
  run(target) {
    location.hash = `#/rounds/${target.value}`;
  },
};

export const actions = {
  stop(target, app) {
    const { run } = target.dataset;
    app.ask({
      title: 'Stop this run?',
      body: [
        h(
          'p',
          {},
          'It ends before its next exchange with the members. The last good model stays, and the log says that a stop was requested. A stopped run cannot be continued.',
        ),
      ],
      verb: 'Stop the run',
      danger: true,
      async done() {
        await post(`runs/${encodeURIComponent(run)}/stop`, {});
        return 'The run is being stopped.';
      },
    });
  },
};
