// Who takes part.

import { badge, digest, h, many, when } from './dom.js';
import { get } from './net.js';

export const title = 'Members';

export function load(app, _, quiet) {
  return get('members', quiet);
}

export function view(app, data) {
  const here = data.members.filter((one) => !one.revoked);
  const gone = data.members.filter((one) => one.revoked);
  const connected = here.filter((one) => one.online).length;
  return [
    h('p', { class: 'over' }, app.session.federation),
    h('h1', { tabindex: -1 }, 'Members'),
    h(
      'p',
      { class: 'lede' },
      here.length ? `${connected} of ${many(here.length, 'member')} connected.` : 'Nobody is on the roster yet.',
    ),
    h(
      'ul',
      { class: 'cards two' },
      here.map((one) => card(app, one, data.size)),
    ),
    ...data.circles.map(circle),
    gone.length
      ? h(
          'section',
          {},
          h('h2', {}, 'Revoked'),
          h(
            'ul',
            { class: 'cards two' },
            gone.map((one) => card(app, one, data.size)),
          ),
        )
      : null,
    h(
      'p',
      { class: 'note' },
      'A pin is the fingerprint of a node’s key. Compare it with the member over another channel. Witnessed: how much of the log the member has countersigned.',
    ),
  ];
}

/** A circle: who signed it and who did not, what it changes, and its recipe in sentences. */
function circle(one) {
  return h(
    'section',
    { 'data-key': `c-${one.number}-${one.circle}` },
    h('h2', {}, `Circle ${one.number} `, one.begun ? badge('good', 'has begun') : badge('warn', 'waits for signatures')),
    h(
      'dl',
      { class: 'pairs' },
      one.members.flatMap((who) => [
        h('dt', {}, who.name),
        h('dd', {}, who.signed ? 'signed' : 'has not signed', ' · ', who.words, ' ', digest(who.pin, 10)),
      ]),
      h('dt', {}, 'Digest'),
      h('dd', {}, h('code', {}, `sha256:${one.circle}`)),
    ),
    lines('What it changes', one.act),
    Object.entries(one.recipe).map(([heading, said]) => lines(heading, said)),
  );
}

function lines(heading, said) {
  if (!said.length) return null;
  return h('details', {}, h('summary', {}, heading), h('ul', {}, said.map((line) => h('li', {}, line))));
}

function card(app, one, size) {
  const progress = app.overview?.progress;
  const open = app.overview?.run?.status === 'running' && progress?.step === 'collect';
  const training =
    open &&
    progress.members.includes(one.name) &&
    !progress.sent.includes(one.name) &&
    !progress.left_out.includes(one.name);
  const states = [];
  if (one.revoked) states.push(badge('bad', 'revoked'));
  else if (one.online === null) states.push(badge('plain', 'unknown'));
  else states.push(one.online ? badge('good', 'connected') : badge('warn', 'not connected'));
  if (training) states.push(badge('plain', 'training'));
  if (open && progress.sent.includes(one.name)) states.push(badge('plain', 'update received'));
  return h(
    'li',
    { 'data-key': `m-${one.name}` },
    h('h2', {}, one.name, ' ', states),
    h(
      'dl',
      { class: 'pairs' },
      h('dt', {}, 'Approvers'),
      h(
        'dd',
        {},
        one.approvers.length
          ? one.approvers.map((who) => h('div', {}, who.name, ' ', digest(who.key, 10)))
          : 'none: nobody can approve a release for this member',
      ),
      h('dt', {}, 'Witnessed'),
      h('dd', {}, one.witness ? [`${one.witness.size} of ${size} entries, `, when(one.witness.time_s)] : 'nothing yet'),
      h('dt', {}, 'Pin'),
      h('dd', {}, h('code', {}, one.pin)),
    ),
  );
}
