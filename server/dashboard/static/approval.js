// What an approver signs, byte for byte as protocol/approval.py makes it, and the key to sign with. The key stays here.

const FIELDS = ['federation', 'action', 'sha256', 'after', 'member', 'approver', 'reason'];
const PERSONAL = /@|\d{6,}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}-\d{1,2}-\d{1,2}/;
export const MAX_REASON = 200;

/** Canonical JSON of an object of texts and whole numbers: sorted names, no blanks, ASCII. */
export function canonical(value) {
  const parts = Object.keys(value)
    .sort()
    .map((name) => `${ascii(name)}:${typeof value[name] === 'number' ? whole(value[name]) : ascii(value[name])}`);
  return `{${parts.join(',')}}`;
}

function ascii(text) {
  if (typeof text !== 'string') throw new TypeError('expected a text');
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function whole(number) {
  if (!Number.isSafeInteger(number)) throw new TypeError('expected a whole number');
  return String(number);
}

/** The text of a decision. */
export function decisionText(decision) {
  return canonical({ ...Object.fromEntries(FIELDS.map((name) => [name, decision[name]])), v: 1 });
}

/** Why a reason cannot go into the log, or "". */
export function reasonProblem(action, reason) {
  if (!reason && action !== 'approve') return 'Say why: the log keeps the reason.';
  if ([...reason].length > MAX_REASON || reason !== reason.trim() || /[\p{C}\p{Zl}\p{Zp}]/u.test(reason))
    return `Use one line of at most ${MAX_REASON} characters, without blanks at its ends.`;
  if (PERSONAL.test(reason.normalize('NFKC')))
    return 'This looks like personal data: an @, a date, or six digits in a row. The log keeps it forever, so leave it out.';
  return '';
}

export const base64url = (bytes) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '');

/** The key in an approver's file: a handle that signs and cannot be read out, and its RFC 7638 thumbprint. */
export async function openKey(text) {
  let jwk;
  try {
    jwk = JSON.parse(text);
  } catch {
    throw new Error('This file is not a key: expected a private JWK, as `moonflower keys approver` makes it.');
  }
  if (jwk?.kty !== 'EC' || jwk.crv !== 'P-384' || typeof jwk.d !== 'string') {
    throw new Error(
      'This file is not an approver’s private key: expected a JWK on P-384, as `moonflower keys approver` makes it.',
    );
  }
  const { kty, crv, x, y, d } = jwk;
  let handle;
  try {
    handle = await crypto.subtle.importKey(
      'jwk',
      { kty, crv, x, y, d },
      { name: 'ECDSA', namedCurve: 'P-384' },
      false,
      ['sign'],
    );
  } catch {
    throw new Error('The key in this file is damaged.');
  }
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(canonical({ crv, kty, x, y })));
  return { handle, pin: base64url(new Uint8Array(hash)) };
}

/** A decision as the server takes it. */
export async function sign(key, decision) {
  const text = decisionText(decision);
  const message = new TextEncoder().encode(`moonflower.approval.v1\0${text}`);
  const signature = await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-384' }, key.handle, message);
  return { decision: text, signature: base64url(new Uint8Array(signature)) };
}
