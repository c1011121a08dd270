// Signing a decision: the page shows what it says, asks for the key, and then signs.

import { fixed, h, listed, many, pairs } from './dom.js';
import { MAX_REASON, decisionText, openKey, reasonProblem, sign } from './approval.js';
import { post } from './net.js';
import { votes } from './words.js';

let key = null; // kept while this page is open; it cannot be read out and is never sent

const VERBS = { approve: 'Approve', reject: 'Reject', rollback: 'Roll back to' };

export function decide(app, action, { card, approvers }, listing) {
  const { release, gate } = card;
  const state = { who: null };
  const after = release.approvals.length + 1;
  const missing = release.required - after;
  const signed = release.approvals.map((one) => `${one.member} (${one.approver})`);
  const effects = {
    approve:
      missing > 0
        ? `After your signature ${missing} more ${missing === 1 ? 'is' : 'are'} missing before it is released.`
        : 'With your signature it is released at once.',
    rollback:
      missing > 0
        ? `After your signature ${missing} more ${missing === 1 ? 'is' : 'are'} missing before it is the one to use again.`
        : 'With your signature it is the one to use again, at once.',
    reject: 'Your signature alone rejects it. It can then never be released, or released again.',
  };
  const decision = () => ({
    federation: card.federation,
    action,
    sha256: card.sha256,
    after: release.after,
    member: state.who?.member ?? '',
    approver: state.who?.approver ?? '',
    reason: field('reason').value.trim(),
  });
  const field = (name) => app.dialog.querySelector(`[name=${name}]`);
  const metrics = Object.entries(card.metrics ?? {})
    .filter(([, value]) => typeof value === 'number')
    .map(([name, value]) => `${name} ${fixed(value)}`);

  app.ask({
    title: `${VERBS[action]} version ${card.version}?`,
    verb: 'Sign and send',
    danger: action === 'reject',
    body: [
      h('p', { class: action === 'reject' ? 'bad' : null }, effects[action]),
      pairs(
        ['Model', `version ${card.version} of ${card.federation}`],
        ['SHA-256', h('code', {}, card.sha256)],
        ['Members', listed(card.members)],
        ['Quality', metrics.length ? metrics.join(' · ') : 'not measured'],
        ['Gate', `${gate.verdict}; votes by ${gate.metric}: ${votes(gate.votes)}`],
        action === 'reject' ? null : ['Signed so far', signed.length ? listed(signed) : 'nobody'],
        action === 'reject' ? null : ['Needed', `${many(release.required, 'approval')} of different members`],
        ['Released now', listing.released ? `version ${listing.released.version}` : 'none'],
      ),
      h(
        'label',
        { class: 'field' },
        'Your private key',
        h('input', {
          type: 'file',
          name: 'key',
          accept: '.jwk,.json,application/json',
          required: key ? null : true,
          'aria-describedby': 'key-said',
        }),
      ),
      h(
        'p',
        { id: 'key-said', class: 'hint', role: 'status' },
        'The file that ',
        h('code', {}, 'moonflower keys approver'),
        ' made. It stays in this tab and is never sent.',
      ),
      h('label', { class: 'field', id: 'who-field', hidden: true }, 'Sign as', h('select', { name: 'who' })),
      h(
        'label',
        { class: 'field' },
        action === 'approve' ? 'Reason (may be empty)' : 'Reason',
        h('input', {
          name: 'reason',
          maxlength: MAX_REASON,
          autocomplete: 'off',
          required: action !== 'approve',
          'aria-describedby': 'reason-said',
        }),
      ),
      h(
        'p',
        { id: 'reason-said', class: 'hint' },
        'It stays in the log permanently and all members can read it: no names of people, no addresses, and no numbers or dates that identify a person.',
      ),
      h(
        'details',
        { id: 'bytes' },
        h('summary', {}, 'The exact text that you sign'),
        h('pre', { tabindex: 0 }, h('code', { id: 'exact' }, '')),
      ),
      h(
        'p',
        { class: 'hint' },
        'This page comes from the server, and so do the facts above. If you do not want to trust it with your key, sign with ',
        h('code', {}, `moonflower model ${action} ${card.version}`),
        ' on your own machine.',
      ),
    ],
    shown() {
      const refresh = () => {
        app.dialog.querySelector('#exact').textContent = decisionText(decision());
      };
      const recognise = () => {
        const mine = approvers.filter((one) => one.key === key.pin);
        const open =
          action === 'reject'
            ? mine
            : mine.filter((one) => !release.approvals.some((other) => other.member === one.member));
        const select = field('who');
        select.replaceChildren(
          ...open.map((one, at) => h('option', { value: at }, `${one.approver} of ${one.member}`)),
        );
        app.dialog.querySelector('#who-field').hidden = open.length < 2;
        [state.who] = open;
        select.onchange = () => {
          state.who = open[Number(select.value)];
          refresh();
        };
        const said = app.dialog.querySelector('#key-said');
        said.className = open.length ? 'hint good' : 'hint bad';
        if (open.length)
          said.textContent = `✓ The key of ${listed(
            open.map((one) => `${one.approver} of ${one.member}`),
            'or',
          )}.`;
        else if (mine.length)
          said.textContent = `${listed(mine.map((one) => one.member))} has signed already. An approver of another member has to sign.`;
        else said.textContent = 'This key is on no member’s card, so it cannot approve anything here.';
        refresh();
      };
      field('key').addEventListener('change', async (event) => {
        const [file] = event.target.files;
        if (!file) return;
        state.who = null;
        try {
          if (file.size > 65536) throw new Error('This file is not a key: it is too large.');
          key = await openKey(await file.text());
          recognise();
        } catch (error) {
          key = null;
          const said = app.dialog.querySelector('#key-said');
          said.className = 'hint bad';
          said.textContent = error.message;
        }
      });
      field('reason').addEventListener('input', (event) => {
        const problem = reasonProblem(action, event.target.value.trim());
        event.target.setCustomValidity(event.target.value ? problem : '');
        refresh();
      });
      if (key) recognise();
      refresh();
    },
    async done() {
      if (!key) throw new Error('Choose the file with your private key first.');
      if (!state.who) throw new Error('This key cannot sign here.');
      const said = decision();
      const problem = reasonProblem(action, said.reason);
      if (problem) throw new Error(problem);
      const outcome = await post(`models/${card.sha256}/decisions`, await sign(key, said));
      if (outcome.event === 'approved')
        return `Signed. ${outcome.missing} more ${outcome.missing === 1 ? 'approval is' : 'approvals are'} missing.`;
      return (
        {
          released: `Version ${outcome.version} is released.`,
          rolled_back: `Version ${outcome.version} is the one to use again.`,
          rejected: `Version ${outcome.version} is rejected.`,
        }[outcome.event] ?? 'Done.'
      );
    },
  });
}
