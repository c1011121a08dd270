// What is happening now.

import { badge, h, many, when } from './dom.js';
import { get } from './net.js';
import { charts } from './rounds.js';
import { about, kind, title as word } from './words.js';

export const title = 'Overview';

export async function load(app, _, quiet) {
  const may = app.may('fl:run', 'fl:audit');
  const [rounds, page] = may ? await Promise.all([get('rounds', quiet), get('log?limit=60', quiet)]) : [null, null];
  return { rounds, page };
}

export function view(app, { rounds, page }) {
  const now = app.overview;
  if (!now) return [h('h1', { tabindex: -1 }, 'Overview'), h('p', {}, 'Looking …')];
  const open = now.run && ['queued', 'running'].includes(now.run.status);
  const done = rounds ? rounds.rounds.filter((one) => one.status !== 'running').length : 0;
  return [
    h('p', { class: 'over' }, app.session.federation),
    h('h1', { tabindex: -1 }, 'Now'),
    h('p', { class: 'lede', id: 'sentence', 'aria-live': 'polite' }, now.sentence),
    open && now.away.length ? away(now.away) : null,
    now.waiting && (now.waiting.approvals || !open) ? decide(app, now.waiting) : null,
    open && now.progress.members.length ? members(now) : null,
    h(
      'dl',
      { class: 'figures' },
      figure(
        'Rounds promoted',
        now.run ? `${now.promoted} of ${rounds ? done : now.run.of}` : '–',
        now.run ? `${now.run.of} planned` : 'no run yet',
      ),
      figure(
        'Released model',
        now.released === null ? 'none' : `version ${now.released}`,
        now.released === null ? 'no version should be used yet' : 'the one to use',
      ),
      now.online ? figure('Connected', `${now.online.length} of ${now.members.length}`, 'members') : null,
      figure('Log', String(now.index + 1), 'entries'),
    ),
    rounds && rounds.rounds.length
      ? h('section', { 'aria-labelledby': 'gate' }, h('h2', { id: 'gate' }, 'The gate’s metric'), charts(rounds, 'now'))
      : null,
    page ? newest(page) : null,
  ];
}

function decide(app, waiting) {
  const missing = waiting.required - waiting.approvals;
  const what = waiting.step === 'approve' ? 'a release' : 'a roll-back';
  return h(
    'p',
    { class: 'notice' },
    h(
      'span',
      {},
      `Version ${waiting.version}: ${waiting.approvals} of ${many(waiting.required, 'approval')} for ${what}, ${missing} missing. `,
    ),
    h('a', { href: `#/models/${waiting.version}` }, app.may('fl:approve') ? 'Look and decide' : 'Look at it'),
  );
}

const STEPS = {
  enrol: 'take part',
  key: 'make the key of the circle',
  seat: 'take its seat',
  seal: 'send its sealed update',
  answer: 'answer the list',
  open: 'open the sum',
};
const WHY = { absent: 'not connected', silent: 'connected', broke: 'its process broke', revoked: 'revoked' };

/** The members for which the run waits. Nothing is lost meanwhile, and no other member repeats its work. */
function away(all) {
  return h(
    'ul',
    { class: 'lines', 'aria-label': 'The run waits' },
    all.map((one) =>
      h(
        'li',
        { 'data-key': `away-${one.member}` },
        when(one.since, true),
        badge('warn', 'Waited for'),
        h(
          'span',
          { class: 'about' },
          `${one.member}, to ${STEPS[one.step] ?? one.step} · ${WHY[one.why] ?? one.why}` +
            (one.returns ? ` · came back ${many(one.returns, 'time')}` : ''),
        ),
      ),
    ),
  );
}

function members(now) {
  const { members: all, sent, left_out: out, step } = now.progress;
  const collecting = step === 'collect';
  return h(
    'ul',
    { class: 'chips', 'aria-label': 'Members in this round' },
    all.map((name) => {
      if (out.includes(name)) return chip(name, 'bad', '✕', 'not taken');
      if (sent.includes(name) && now.progress.round) return chip(name, 'good', '✓', 'update received');
      return chip(name, 'plain', collecting ? '…' : '·', collecting ? 'training' : 'waiting');
    }),
  );
}

function chip(name, tone, mark, said) {
  return h(
    'li',
    { class: `chip ${tone}`, 'data-key': `chip-${name}` },
    h('span', { class: 'mark', 'aria-hidden': 'true' }, mark),
    h('span', {}, h('strong', {}, name), h('small', {}, said)),
  );
}

function figure(term, value, more) {
  return h('div', {}, h('dt', {}, term), h('dd', {}, value, h('small', {}, more)));
}

const NOISE = new Set(['set_closed', 'opened', 'judged', 'answered', 'enrolled']);

function newest(page) {
  const telling = page.entries.filter(
    (one) => !NOISE.has(one.event) && (one.event !== 'envelope_accepted' || one.details.purpose === 'update'),
  );
  return h(
    'section',
    { 'aria-labelledby': 'latest' },
    h('h2', { id: 'latest' }, 'Latest'),
    h(
      'ol',
      { class: 'lines' },
      telling
        .slice(0, 8)
        .map((entry) =>
          h(
            'li',
            { 'data-key': `e${entry.index}` },
            when(entry.time, true),
            badge(kind(entry), word(entry)),
            h('span', { class: 'about' }, about(entry)),
          ),
        ),
    ),
    h('p', {}, h('a', { href: '#/log' }, 'The whole log')),
  );
}
