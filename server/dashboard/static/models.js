// Model versions, and what people decide about them.

import { badge, digest, fixed, h, listed, many, pairs, when } from './dom.js';
import { get } from './net.js';
import { decide } from './decide.js';
import { votes } from './words.js';

export const title = 'Models';
const TONE = {
  released: 'good',
  rejected: 'bad',
  refused: 'warn',
  kept: 'plain',
  promoted: 'plain',
  replaced: 'plain',
  start: 'plain',
};

export async function load(app, [name], quiet) {
  if (!name) return { listing: await get('models', quiet) };
  const [shown, listing] = await Promise.all([get(`models/${encodeURIComponent(name)}`, quiet), get('models', quiet)]);
  return { shown, listing };
}

export function view(app, { shown, listing }) {
  return shown ? one(app, shown, listing) : all(app, listing);
}

function status(entry) {
  const missing = entry.required - entry.approvals;
  if (entry.status === 'released') return badge('good', 'released');
  if (entry.status === 'rejected') return badge('bad', 'rejected');
  if (entry.status === 'refused') return badge('warn', 'refused by the gate');
  if (entry.status === 'kept') return badge('plain', 'kept, no better');
  if (entry.step === 'approve')
    return badge(
      entry.approvals ? 'ask' : 'plain',
      entry.approvals ? `${entry.approvals} of ${entry.required} approvals, ${missing} missing` : 'not released',
    );
  if (entry.step === 'rollback')
    return badge(
      entry.approvals ? 'ask' : 'plain',
      entry.approvals ? `roll-back: ${entry.approvals} of ${entry.required} approvals` : 'was released before',
    );
  return badge('plain', entry.status === 'start' ? 'start' : 'older, never released');
}

function all(app, listing) {
  const good = listing.versions.filter((entry) => entry.version !== null && entry.verdict !== 'start').reverse();
  const others = listing.versions.filter((entry) => entry.version === null).reverse();
  const { released } = listing;
  return [
    h('p', { class: 'over' }, app.session.federation),
    h('h1', { tabindex: -1 }, 'Models'),
    h(
      'p',
      { class: 'lede' },
      released
        ? `Version ${released.version} is the released one.`
        : good.length
          ? 'No version is released.'
          : 'There is no model version yet.',
    ),
    good.length
      ? h(
          'ol',
          { class: 'cards', 'aria-label': 'Versions, newest first' },
          good.map((entry, at) => card(entry, at === 0)),
        )
      : null,
    others.length
      ? h(
          'details',
          {},
          h('summary', {}, `${many(others.length, 'candidate')} that the gate kept or refused`),
          h(
            'ol',
            { class: 'lines' },
            others.map((entry) =>
              h(
                'li',
                { 'data-key': entry.sha256 },
                h('a', { href: `#/models/${entry.sha256.slice(0, 16)}` }, `no. ${entry.number}`),
                badge(entry.code ? 'warn' : 'plain', entry.code || entry.verdict),
                digest(entry.sha256),
              ),
            ),
          ),
        )
      : null,
  ];
}

function card(entry, newest) {
  return h(
    'li',
    { 'data-key': `${entry.run}-${entry.sha256}` },
    h(
      'h2',
      {},
      h('a', { href: `#/models/${entry.version}` }, `Version ${entry.version}`),
      ' ',
      status(entry),
      newest ? [' ', badge('ask', 'newest')] : null,
    ),
    h(
      'p',
      { class: 'facts' },
      metrics(entry.metrics),
      h('span', {}, listed(entry.members)),
      h('span', {}, 'round no. ', String(entry.number)),
      digest(entry.sha256),
    ),
  );
}

function metrics(found) {
  const order = ['loss', 'auc', 'accuracy', ...Object.keys(found ?? {})];
  const known = [...new Set(order)]
    .map((name) => [name, found?.[name]])
    .filter(([, value]) => typeof value === 'number');
  return known.slice(0, 3).map(([name, value]) => h('span', {}, `${name} `, h('b', {}, fixed(value))));
}

function one(app, { lineage, card: facts, approvers }, listing) {
  const { release, gate, round, crypto } = facts;
  const name = facts.version === null ? `Candidate no. ${round.number}` : `Version ${facts.version}`;
  return [
    h('p', { class: 'over' }, h('a', { href: '#/models' }, 'Models'), ' · ', facts.federation),
    h('h1', { tabindex: -1 }, name),
    h('p', { class: 'lede' }, sentence(facts, approvers)),
    release.step || release.rejected || release.by ? panel(app, facts, approvers, listing) : null,
    h(
      'section',
      { 'aria-labelledby': 'quality' },
      h('h2', { id: 'quality' }, 'Quality'),
      facts.metrics
        ? h(
            'dl',
            { class: 'figures' },
            Object.entries(facts.metrics).map(([term, value]) =>
              h('div', {}, h('dt', {}, term.replaceAll('_', ' ')), h('dd', {}, fixed(value))),
            ),
          )
        : h('p', {}, 'This version was not measured on all members’ test rows.'),
      h('p', {}, gateSaid(gate)),
    ),
    h(
      'section',
      { 'aria-labelledby': 'origin' },
      h('h2', { id: 'origin' }, 'Where it comes from'),
      pairs(
        ['Made', when(facts.created)],
        ['Members', listed(round.members)],
        [
          'Round',
          round.number
            ? `${round.planned} of ${round.of} (no. ${round.number}) of run ${facts.run}`
            : 'none: the start',
        ],
        ['Task', h('code', {}, facts.task.ref)],
        facts.parameters === null ? null : ['Parameters', String(facts.parameters)],
        ['SHA-256', h('code', {}, facts.sha256)],
        round.base ? ['Trained from', h('code', {}, round.base)] : null,
        ['Signed by', listed(Object.keys(lineage.proof.signatures))],
      ),
    ),
    h(
      'section',
      { 'aria-labelledby': 'limits' },
      h('h2', { id: 'limits' }, 'What to know before you use it'),
      h(
        'ul',
        { class: 'plain' },
        facts.limits.map((text) => h('li', {}, text)),
      ),
      h(
        'details',
        {},
        h('summary', {}, `What the sealing does not protect against`),
        h(
          'ul',
          { class: 'plain' },
          crypto.does_not_protect.map((text) => h('li', {}, text)),
        ),
      ),
    ),
  ];
}

/** Members one of whose approvers can still add an approval that counts. */
export function openTo(release, approvers) {
  const signed = new Set(release.approvals.map((one) => one.member));
  const keys = new Set(release.approvals.map((one) => one.key));
  return [
    ...new Set(approvers.filter((one) => !signed.has(one.member) && !keys.has(one.key)).map((one) => one.member)),
  ];
}

function sentence({ version, release, gate }, approvers) {
  if (release.status === 'released') return 'This is the released version, the one to use.';
  if (release.status === 'rejected') return 'It was rejected. It can never be released and must not be used.';
  if (release.status === 'refused') return `The gate refused it (${gate.code}). The model does not contain it.`;
  if (release.status === 'kept')
    return 'The gate kept it: it is the next base, but no better than the best version. It is never released.';
  if (release.status === 'start') return 'The start of a run. Nothing was learned yet.';
  if (!release.step) return 'It is older than the released version and was never released.';
  const { missing, required } = release;
  const left = openTo(release, approvers);
  const who =
    left.length ? `from ${listed(left, 'or')}` : 'but no other member has an approver';
  const what = release.step === 'approve' ? 'Not released' : 'It was released before, and another version is now';
  if (release.approvals.length)
    return `${what}: ${release.approvals.length} of ${required} approvals are there; ${missing} more ${missing === 1 ? 'is' : 'are'} missing, ${who}.`;
  return `${what}: ${release.step === 'approve' ? 'it takes' : 'going back to it takes'} ${many(required, 'approval')} from different members ${left.length ? `: ${listed(left, required < left.length ? 'or' : 'and')} can give ${required === 1 ? 'it' : 'them'}` : ', and no member has an approver'}.`;
}

function gateSaid(gate) {
  const verdicts = { promoted: 'promoted it', kept: 'kept it', refused: `refused it (${gate.code})` };
  const said = `The gate ${verdicts[gate.verdict] ?? 'did not judge it'}. `;
  if (!Object.keys(gate.votes).length) return `${said}No vote was taken.`;
  return `${said}Compared with the best version before it, by ${gate.metric} on members’ own rows: ${votes(gate.votes)}.`;
}

function panel(app, facts, approvers, listing) {
  const { release } = facts;
  const by = release.by && release.status === 'released' ? release.by.approvals : [];
  const signed = release.step ? release.approvals : by;
  const members = [...new Set([...signed.map((one) => one.member), ...approvers.map((one) => one.member)])].sort();
  const needed = release.step ? release.required : (release.by?.required ?? 0);
  return h(
    'section',
    { class: 'panel', 'aria-labelledby': 'release' },
    h('h2', { id: 'release' }, 'Release'),
    release.rejected
      ? h(
          'p',
          { class: 'bad' },
          `Rejected by ${release.rejected.approver} of ${release.rejected.member}, `,
          when(release.rejected.time),
          `: “${release.rejected.reason}”`,
        )
      : null,
    needed && !release.rejected
      ? h(
          'div',
          { class: 'meter' },
          h(
            'p',
            {},
            h('strong', {}, `${signed.length} of ${needed}`),
            ` ${needed === 1 ? 'approval' : 'approvals'}, each from a different member`,
          ),
          h(
            'div',
            { class: 'bars', 'aria-hidden': 'true' },
            Array.from({ length: needed }, (_, at) => h('i', { class: at < signed.length ? 'full' : null })),
          ),
        )
      : null,
    release.rejected || !members.length
      ? null
      : h(
          'ul',
          { class: 'people' },
          members.map((member) => {
            const found = signed.find((one) => one.member === member);
            const who = approvers.filter((one) => one.member === member).map((one) => one.approver);
            if (found)
              return h(
                'li',
                { 'data-key': member, class: 'good' },
                h('span', { class: 'mark', 'aria-hidden': 'true' }, '✓'),
                h(
                  'span',
                  {},
                  h('strong', {}, member),
                  ' — ',
                  `${found.approver} signed `,
                  when(found.time),
                  found.reason ? `: “${found.reason}”` : '',
                ),
              );
            const open = release.step && signed.length < needed;
            return h(
              'li',
              { 'data-key': member },
              h('span', { class: 'mark', 'aria-hidden': 'true' }, open ? '○' : '·'),
              h('span', {}, h('strong', {}, member), ' — ', open ? `may sign: ${listed(who, 'or')}` : 'did not sign'),
            );
          }),
        ),
    approvers.length || signed.length
      ? null
      : h(
          'p',
          { class: 'bad' },
          'No member’s card names an approver, so nobody can release it. A member adds one with [[approver]] in its client.toml.',
        ),
    buttons(app, facts, listing),
  );
}

function buttons(app, { release, version }) {
  if (!release.step || ['refused', 'kept'].includes(release.status)) return null;
  if (!app.may('fl:approve')) return h('p', { class: 'note' }, 'You may look, but not decide: that needs the scope fl:approve.');
  const button = (action, text, kind) =>
    h(
      'button',
      { type: 'button', class: kind, 'data-action': 'decide', 'data-decide': action, 'data-version': version },
      text,
    );
  return h(
    'div',
    { class: 'row' },
    release.step === 'approve' ? button('approve', 'Approve …', 'go') : button('rollback', 'Roll back to it …', 'go'),
    button('reject', 'Reject …', 'quiet danger'),
  );
}

export const actions = {
  decide(target, app) {
    decide(app, target.dataset.decide, app.data.shown, app.data.listing);
  },
};
