// The frame around the pages: who is logged in, where we are, what is new.

import { h, patch } from './dom.js';
import { listen, logOut, who, whenGone } from './net.js';
import * as log from './log.js';
import * as members from './members.js';
import * as models from './models.js';
import * as overview from './overview.js';
import * as rounds from './rounds.js';

const READ = ['fl:run', 'fl:audit'];
const PAGES = {
  overview: { module: overview, scopes: [...READ, 'fl:approve'] },
  rounds: { module: rounds, scopes: READ },
  members: { module: members, scopes: READ },
  models: { module: models, scopes: [...READ, 'fl:approve'] },
  log: { module: log, scopes: READ },
};
const PROBLEMS = {
  issuer:
    'The authorization server cannot be reached, or is not what the config says. Try again in a moment; if the problem stays, ask the operator of this server.',
  login: 'The login failed. Try again. If it fails again, the server’s log says why.',
  scope:
    'You are logged in, but your account has no rights here. Ask for one of the scopes fl:audit, fl:run or fl:approve.',
};
const MAIN = document.getElementById('main');
let asked = 0;
let drawn = 0;

const app = {
  session: null,
  overview: null,
  data: null,
  page: null,
  live: false,
  witnessed: null,
  dialog: document.getElementById('dialog'),

  may(...scopes) {
    return scopes.some((one) => this.session.scopes.includes(one));
  },

  say(text) {
    const place = document.getElementById('said');
    place.textContent = '';
    requestAnimationFrame(() => {
      place.textContent = text;
    });
    clearTimeout(this.hush);
    this.hush = setTimeout(() => {
      place.textContent = '';
    }, 9000);
  },

  alarm(text) {
    const place = document.getElementById('alarm');
    place.replaceChildren(
      ...(text
        ? [
            h(
              'div',
              { class: 'alarm', role: 'alert' },
              h('strong', {}, '✕ This is not the log that this browser knows.'),
              h(
                'p',
                {},
                `${text} Do not approve anything before the cause is known. What this browser saw before is kept: `,
                h('a', { href: '#/log' }, 'see the log page'),
                '.',
              ),
            ),
          ]
        : []),
    );
  },

  draw() {
    if (!this.page || this.data === undefined) return;
    const now = MAIN.cloneNode(false);
    now.append(...this.page.module.view(this, this.data).filter(Boolean));
    patch(MAIN, now);
    frame();
  },

  async reload(quiet = false) {
    const { page } = this;
    const turn = ++asked;
    try {
      const data = await page.module.load(this, page.rest, quiet);
      if (page !== this.page || turn < drawn) return; // what was asked for later was here earlier
      drawn = turn;
      this.data = data;
      this.draw();
    } catch (error) {
      if (page === this.page && error.code !== 'session.none') problem(error);
    }
  },

  /** Ask in a dialog; `done` does it and returns what to say, or throws what went wrong. */
  ask({ title, body, verb, danger, shown, done }) {
    const { dialog } = this;
    const said = h('p', { class: 'bad', role: 'alert' });
    const go = h('button', { class: danger ? 'go danger' : 'go' }, verb);
    const form = h(
      'form',
      { method: 'dialog' },
      h('h2', { id: 'dialog-title' }, title),
      body,
      said,
      h(
        'div',
        { class: 'row end' },
        h('button', { type: 'button', class: 'quiet', 'data-action': 'cancel' }, 'Cancel'),
        go,
      ),
    );
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      said.textContent = '';
      go.disabled = true;
      try {
        const text = await done();
        dialog.close();
        this.say(text);
        await this.reload();
      } catch (error) {
        said.textContent = error.message;
      } finally {
        go.disabled = false;
      }
    });
    dialog.replaceChildren(form);
    shown?.();
    const back = document.activeElement;
    dialog.addEventListener('close', () => back?.isConnected && back.focus(), { once: true });
    dialog.showModal();
    dialog.scrollTop = 0;
  },
};

function problem(error) {
  MAIN.replaceChildren(
    h('h1', { tabindex: -1 }, error.status === 404 ? 'Not found' : 'That did not work'),
    h('p', { class: 'bad' }, `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}.`.replace(/\.\.$/, '.')),
    h('p', {}, h('button', { type: 'button', class: 'quiet', 'data-action': 'again' }, 'Try again')),
  );
}

/** Header, navigation, and whether news come. */
function frame() {
  const links = Object.entries(PAGES)
    .filter(([, page]) => app.may(...page.scopes))
    .map(([name, page]) =>
      h(
        'li',
        {},
        h('a', { href: `#/${name}`, 'aria-current': app.page?.name === name ? 'page' : null }, page.module.title),
      ),
    );
  const old = document.getElementById('top');
  const now = old.cloneNode(false);
  now.append(
    h(
      'div',
      { class: 'brand' },
      h('img', { src: '/ui/static/icon.svg', alt: '', width: 26, height: 26 }),
      h('strong', {}, 'moonflower'),
    ),
    h('nav', { 'aria-label': 'Pages' }, h('ul', {}, links)),
    h(
      'div',
      { class: 'who' },
      h('span', { class: app.live ? 'live' : 'live off', role: 'status' }, app.live ? 'live' : 'no news'),
      h('span', { class: 'name' }, app.session.name || 'logged in'),
      h('button', { type: 'button', class: 'quiet small', 'data-action': 'logout' }, 'Log out'),
    ),
  );
  patch(old, now);
}

function welcome(reason = '') {
  app.page = null;
  document.title = 'Log in – moonflower';
  document.getElementById('top').replaceChildren();
  app.dialog.close();
  app.dialog.replaceChildren();
  const known = PROBLEMS[reason];
  MAIN.replaceChildren(
    h(
      'div',
      { class: 'welcome' },
      h('img', { src: '/ui/static/icon.svg', alt: '', width: 64, height: 64 }),
      h('h1', { tabindex: -1 }, 'moonflower'),
      known ? h('p', { class: 'notice', role: 'alert' }, known) : null,
      reason === 'over'
        ? h('p', { class: 'notice', role: 'status' }, 'Your session is over. Log in again to continue where you were.')
        : null,
      h('p', {}, 'Runs, members, models and the log of this federation. Log in with your organisation’s account.'),
      h('p', {}, h('a', { class: 'go', href: '/ui/login', 'data-action': 'login' }, 'Log in')),
    ),
  );
}

async function route(focus = true) {
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent);
  const found = PAGES[name] && app.may(...PAGES[name].scopes) ? name : 'overview';
  app.page = { name: found, module: PAGES[found].module, rest };
  app.data = undefined;
  document.title = `${PAGES[found].module.title} – moonflower`;
  frame();
  const slow = setTimeout(() => {
    if (app.page && app.data === undefined)
      MAIN.replaceChildren(
        h('h1', { tabindex: -1 }, app.page?.module.title ?? ''),
        h('p', { class: 'note' }, 'Loading …'),
      );
  }, 200);
  await app.reload();
  clearTimeout(slow);
  if (focus) {
    scrollTo(0, 0);
    MAIN.querySelector('h1')?.focus({ preventScroll: true });
  }
}

const actions = {
  cancel: () => app.dialog.close(),
  again: () => app.reload(),
  skip: () => MAIN.focus(),
  login: () => sessionStorage.setItem('moonflower.at', location.hash),
  async logout() {
    await logOut().catch(() => {});
    location.replace('/ui/');
  },
};

document.addEventListener('click', (event) => {
  const target = event.target.closest('[data-action]');
  if (!target) return;
  const { action } = target.dataset;
  if (action === 'skip') event.preventDefault();
  (actions[action] ?? app.page?.module.actions?.[action])?.(target, app);
});
document.addEventListener('change', (event) => {
  const name = event.target.dataset?.change;
  if (name) app.page?.module.changes?.[name]?.(event.target, app);
});
addEventListener('hashchange', () => {
  if (app.session && location.hash.startsWith('#/')) route();
});

let reloading = 0;
/** Something happened: draw what is known at once, fetch the rest at most once a second. */
function told(now) {
  const before = app.overview;
  app.overview = now;
  app.draw();
  if (
    before &&
    before.index === now.index &&
    before.run?.status === now.run?.status &&
    JSON.stringify(before.online) === JSON.stringify(now.online)
  )
    return;
  if (reloading) return;
  reloading = setTimeout(
    () => {
      reloading = 0;
      if (app.page) app.reload(true);
    },
    before ? 700 : 0,
  );
}

async function start() {
  const reason = new URLSearchParams(location.search).get('problem') ?? '';
  if (reason) history.replaceState(null, '', '/ui/');
  try {
    app.session = await who();
  } catch {
    welcome();
    return;
  }
  if (!app.session) {
    welcome(reason);
    return;
  }
  const at = sessionStorage.getItem('moonflower.at');
  sessionStorage.removeItem('moonflower.at');
  if (at && !location.hash) history.replaceState(null, '', `/ui/${at}`);
  whenGone(() => {
    if (!app.session) return;
    app.session = null;
    welcome('over');
  });
  listen(told, (is) => {
    if (app.live === is || !app.session) return;
    app.live = is;
    frame();
  });
  await route(false);
  if (app.session && app.may(...READ)) {
    await log.look(app);
    if (app.page?.name === 'log') app.draw();
  }
}

start();
