// The log, newest entry first. This browser can check each entry, and the whole log against what it saw before.

import { badge, digest, h, many, when } from './dom.js';
import { get } from './net.js';
import { Fork, checkEntry, forget, seen, witness } from './witness.js';
import { about, events, kind, title as word } from './words.js';

export const title = 'Log';
const PAGE = 40;
const filter = { event: '', member: '', run: '' };
const checked = new Map(); // index → what came of it
let shown = PAGE;

export async function load(app, _, quiet) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  const page = await get(`log?limit=200&${query}`, quiet);
  let members = app.logMembers;
  if (!members) members = app.logMembers = (await get('members', quiet)).members.map((one) => one.name);
  while (page.entries.length < shown && page.entries.length && page.entries.length % 200 === 0) {
    const more = await get(`log?limit=200&before=${page.entries.at(-1).index}&${query}`, quiet);
    if (!more.entries.length) break;
    page.entries.push(...more.entries);
  }
  await look(app); // what the page says of this browser is about the log that it shows
  return { ...page, members };
}

export function view(app, page) {
  const entries = page.entries.slice(0, shown);
  const select = (name, label, options) =>
    h(
      'label',
      {},
      label,
      h(
        'select',
        { 'data-change': name },
        h('option', { value: '' }, 'all'),
        options.map(([value, text]) => h('option', { value, selected: filter[name] === value }, text)),
      ),
    );
  return [
    h('p', { class: 'over' }, app.session.federation),
    h('h1', { tabindex: -1 }, 'Log'),
    h(
      'p',
      { class: 'lede' },
      `${many(page.size, 'entry').replace('entrys', 'entries')}, each under a signed checkpoint. A check against an earlier checkpoint finds what was removed or changed.`,
    ),
    mine(app),
    h(
      'div',
      { class: 'row filters' },
      select(
        'event',
        'Event ',
        Object.keys(page.events).map((one) => [one, events[one] ?? one]),
      ),
      select(
        'member',
        'Member ',
        page.members.map((one) => [one, one]),
      ),
    ),
    entries.length
      ? h(
          'ol',
          { class: 'entries', 'aria-label': 'Entries, newest first' },
          entries.map((entry) => item(entry)),
        )
      : h('p', { class: 'none' }, 'No entry matches.'),
    page.entries.length > shown
      ? h('p', {}, h('button', { type: 'button', class: 'quiet', 'data-action': 'more' }, 'Show older entries'))
      : null,
  ];
}

function mine(app) {
  const held = seen();
  const result = app.witnessed;
  const said = [];
  if (result?.fork) said.push(h('p', { class: 'bad' }, result.fork));
  else if (result?.problem) said.push(h('p', { class: 'bad' }, `The log could not be checked: ${result.problem}`));
  else if (held) {
    said.push(
      h(
        'p',
        {},
        '✓ This browser has followed the log to entry ',
        h('strong', {}, String(held.size - 1)),
        '. It has only grown since ',
        when(held.first),
        held.signed
          ? ', always signed by the same key.'
          : '. Signatures were not checked, because this browser does not support Ed25519.',
      ),
    );
  } else said.push(h('p', {}, 'This browser has not looked at the log before.'));
  return h(
    'section',
    { class: 'panel', 'aria-labelledby': 'mine' },
    h('h2', { id: 'mine' }, 'Your browser as a witness'),
    said,
    h(
      'div',
      { class: 'row' },
      h('button', { type: 'button', class: 'quiet', 'data-action': 'witness' }, 'Check the log now'),
      held
        ? h(
            'details',
            {},
            h('summary', {}, 'The newest checkpoint'),
            h('pre', { tabindex: 0 }, held.note),
            h('p', {}, 'Key ', h('code', {}, held.key)),
            h('button', { type: 'button', class: 'quiet danger', 'data-action': 'forget' }, 'Forget it …'),
          )
        : null,
    ),
  );
}

function item(entry) {
  const result = checked.get(entry.index);
  return h(
    'li',
    { 'data-key': `e${entry.index}` },
    h(
      'details',
      {},
      h(
        'summary',
        {},
        h('span', { class: 'index' }, `#${entry.index}`),
        when(entry.time, true),
        badge(kind(entry), word(entry)),
        h('span', { class: 'about' }, about(entry)),
      ),
      h(
        'div',
        { class: 'inside' },
        fields(entry),
        result ? verdict(entry, result) : null,
        h(
          'button',
          { type: 'button', class: 'quiet', 'data-action': 'check', 'data-index': entry.index },
          result ? 'Check again' : 'Check in this browser',
        ),
      ),
    ),
  );
}

function verdict(entry, result) {
  if (result.problem)
    return h(
      'p',
      { class: 'bad', role: 'status' },
      `✕ Entry ${entry.index} is not what the log signed: ${result.problem}. Keep a copy, and ask the operator of the server.`,
    );
  return h(
    'div',
    { class: 'good', role: 'status' },
    h(
      'p',
      {},
      h(
        'strong',
        {},
        result.signed
          ? `✓ Entry ${entry.index} is in the signed log.`
          : `Entry ${entry.index} is in the log; its signature was not checked.`,
      ),
    ),
    h(
      'ol',
      { class: 'plain' },
      result.steps.map((one) => h('li', {}, one)),
    ),
  );
}

function fields(entry) {
  const { details = {}, ...head } = entry;
  return h(
    'dl',
    { class: 'pairs fields' },
    Object.entries({ ...head, ...details }).map(([name, value]) => [h('dt', {}, name), h('dd', {}, shownValue(value))]),
  );
}

function shownValue(value) {
  if (typeof value === 'string')
    return /^[0-9a-f]{40,}$|^[A-Za-z0-9_-]{40,}$/.test(value) ? h('code', {}, value) : value;
  if (typeof value !== 'object' || value === null) return String(value);
  if (Array.isArray(value) && value.every((one) => typeof one !== 'object'))
    return value.length ? value.join(', ') : 'none';
  return h(
    'details',
    {},
    h('summary', {}, Array.isArray(value) ? many(value.length, 'item') : many(Object.keys(value).length, 'field')),
    h('pre', { tabindex: 0 }, JSON.stringify(value, null, 2)),
  );
}

/** Check that the log has only grown since this browser last looked, and remember what was found. */
export async function look(app) {
  try {
    const found = await witness((since) => get(`log/checkpoint?since=${since}`, true));
    app.witnessed = { found };
  } catch (error) {
    if (error instanceof Fork) app.witnessed = { fork: error.message };
    else if (error.code === 'config.index')
      app.witnessed = { fork: `The log has fewer entries than the ${seen()?.size} that this browser saw before.` };
    else app.witnessed = { problem: error.message };
  }
  app.alarm(app.witnessed.fork ?? '');
}

export const changes = {
  event(target, app) {
    filter.event = target.value;
    shown = PAGE;
    app.reload();
  },
  member(target, app) {
    filter.member = target.value;
    shown = PAGE;
    app.reload();
  },
};

export const actions = {
  more(_, app) {
    shown += PAGE;
    app.reload();
  },
  async witness(_, app) {
    await look(app);
    app.draw();
    app.say(app.witnessed.fork ?? app.witnessed.problem ?? 'The log has only grown since this browser last looked.');
  },
  async check(target, app) {
    const index = Number(target.dataset.index);
    try {
      const proof = await get(`log/${index}/proof`);
      if (proof.index !== index) throw new Error('the server sent another entry');
      checked.set(index, await checkEntry(proof));
    } catch (error) {
      checked.set(index, { problem: error.message });
    }
    app.draw();
  },
  forget(_, app) {
    app.ask({
      title: 'Forget what this browser saw?',
      body: [
        h(
          'p',
          {},
          'The next look counts as the first. If the log was rewritten in between, this browser cannot find that any more. Do this only if you know why the log differs, for example after a restored backup.',
        ),
      ],
      verb: 'Forget it',
      danger: true,
      async done() {
        forget();
        app.witnessed = null;
        app.alarm('');
        return 'Forgotten.';
      },
    });
  },
};
