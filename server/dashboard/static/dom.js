// Building and updating the page. Text is always text: no script of these pages parses HTML.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

/** An element; children are nodes, texts, or lists of them; null and false are left out. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function s(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Change `old` into `now` in as few steps as possible, so that focus, open details and typed text stay. */
export function patch(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName || key(old) !== key(now)) {
    old.replaceWith(now);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.isEqualNode(now)) return;
  for (const { name, value } of now.attributes) {
    if (name === 'open') continue; // a person opened or closed it
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (name !== 'open' && !now.hasAttribute(name)) old.removeAttribute(name);
  }
  children(old, [...now.childNodes]);
}

function children(old, wanted) {
  const keyed = new Map([...old.childNodes].filter((one) => key(one)).map((one) => [key(one), one]));
  let at = old.firstChild;
  for (const one of wanted) {
    const held = key(one) ? keyed.get(key(one)) : undefined;
    if (held) {
      if (held === at) at = at.nextSibling;
      else old.insertBefore(held, at);
      patch(held, one);
    } else if (!key(one) && at && !key(at) && at.nodeName === one.nodeName) {
      const next = at.nextSibling;
      patch(at, one);
      at = next;
    } else {
      old.insertBefore(one, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function key(node) {
  return node.dataset?.key ?? '';
}

// How things are written

const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });

/** A time, as this machine writes it; `text` is ISO or seconds since 1970. */
export function when(text, short = false) {
  const date = new Date(typeof text === 'number' ? text * 1000 : text);
  if (Number.isNaN(date.getTime())) return h('span', {}, '–');
  const today = date.toDateString() === new Date().toDateString();
  const shown = short && today ? CLOCK.format(date) : WHEN.format(date);
  return h('time', { datetime: date.toISOString(), title: date.toISOString() }, shown);
}

/** A number with a fixed count of decimals and a true minus, or a dash. */
export function fixed(value, digits = 3) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  return value.toFixed(digits).replace('-', '−');
}

export function many(count, what) {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

export function listed(names, word = 'and') {
  return names.length < 2 ? (names[0] ?? 'nobody') : `${names.slice(0, -1).join(', ')} ${word} ${names.at(-1)}`;
}

/** A digest: its first digits to read, all of it to copy. */
export function digest(text, length = 12) {
  return text ? h('code', { title: text }, text.length > length ? `${text.slice(0, length)}…` : text) : '–';
}

export function badge(kind, text) {
  return h('span', { class: `badge ${kind}` }, text);
}

/** Pairs of term and value. */
export function pairs(...items) {
  return h(
    'dl',
    { class: 'pairs' },
    items.filter(Boolean).map(([term, value]) => [h('dt', {}, term), h('dd', {}, value)]),
  );
}
