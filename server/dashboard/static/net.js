// What the page asks the server. The session is a cookie that no script can read.

export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

const OWN = { 'X-Moonflower': '1' };
let gone = () => {};

/** Call back when the session is over. */
export function whenGone(callback) {
  gone = callback;
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { credentials: 'same-origin', redirect: 'error', cache: 'no-store', ...options });
  } catch {
    throw new Problem(0, 'net', 'The server cannot be reached.');
  }
  const value = await reply.json().catch(() => undefined);
  if (reply.ok && value !== undefined) return value;
  const problem = new Problem(
    reply.status,
    value?.code ?? 'net',
    value?.detail ?? `The server answered with status ${reply.status}.`,
  );
  if (problem.code === 'session.none') gone();
  throw problem;
}

/** Data of the API. `quiet`: the page asks by itself, so this does not count as use of the session. */
export function get(path, quiet = false) {
  return ask(`/ui/api/${path}`, quiet ? { headers: { 'X-Moonflower-Poll': '1' } } : {});
}

export function post(path, body) {
  const headers = { ...OWN, 'Content-Type': 'application/json' };
  return ask(`/ui/api/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
}

/** Who is logged in, or null. */
export async function who() {
  const reply = await fetch('/ui/session', { credentials: 'same-origin', cache: 'no-store' });
  return reply.ok ? reply.json() : null;
}

export function logOut() {
  return ask('/ui/logout', { method: 'POST', headers: OWN });
}

/** Listen to changes. `told` gets each overview, `connected` whether the connection is up. */
export function listen(told, connected) {
  const source = new EventSource('/ui/events');
  source.addEventListener('overview', (event) => {
    connected(true);
    told(JSON.parse(event.data));
  });
  source.addEventListener('open', () => connected(true));
  source.addEventListener('end', () => {
    source.close();
    gone();
  });
  source.addEventListener('error', () => {
    connected(false);
    if (source.readyState === EventSource.CLOSED)
      who().then(
        (one) => (one ? setTimeout(() => listen(told, connected), 5000) : gone()),
        () => setTimeout(() => listen(told, connected), 5000),
      );
  });
}
