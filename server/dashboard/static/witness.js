// The browser as a witness of the log: it checks RFC 9162 proofs and C2SP checkpoints itself.

const text = new TextEncoder();

export const hex = (bytes) => [...bytes].map((one) => one.toString(16).padStart(2, '0')).join('');

function unhex(word) {
  if (!/^(?:[0-9a-f]{2})*$/.test(word)) throw new Error('a hash of the proof is malformed');
  return Uint8Array.from(word.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function unbase64(word) {
  const bytes = Uint8Array.from(atob(word), (c) => c.charCodeAt(0));
  if (btoa(String.fromCharCode(...bytes)) !== word) throw new Error('base64 that is not canonical');
  return bytes;
}

async function sha256(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest('SHA-256', whole));
}

export const leafHash = (entry) => sha256(Uint8Array.of(0), text.encode(entry));
const nodeHash = (left, right) => sha256(Uint8Array.of(1), left, right);

const same = (one, other) => hex(one) === hex(other);

/** The root to which a path leads from leaf `index` of `size` (RFC 9162 section 2.1.3.2). */
export async function rootOf(leaf, index, size, path) {
  if (!(index >= 0 && index < size)) throw new Error(`entry ${index} cannot be in a log of ${size} entries`);
  let fn = index;
  let sn = size - 1;
  let root = leaf;
  for (const word of path) {
    if (sn === 0) throw new Error('the path is too long');
    const node = unhex(word);
    if (fn % 2 === 1 || fn === sn) {
      root = await nodeHash(node, root);
      while (fn % 2 === 0 && fn !== 0) {
        fn = Math.floor(fn / 2);
        sn = Math.floor(sn / 2);
      }
    } else {
      root = await nodeHash(root, node);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  if (sn !== 0) throw new Error('the path is too short');
  return root;
}

/** Check that a tree of `second` leaves only appends to one of `first` (RFC 9162 section 2.1.4.2). */
export async function checkGrowth(first, second, path, firstRoot, secondRoot) {
  if (first > second) throw new Error(`the log had ${first} entries and now has ${second}`);
  if (first === second) {
    if (path.length || !same(firstRoot, secondRoot)) throw new Error(`two different roots of ${first} entries`);
    return;
  }
  const nodes = path.map(unhex);
  if (Number.isInteger(Math.log2(first))) nodes.unshift(firstRoot);
  if (!nodes.length) throw new Error('the proof is empty');
  let fn = first - 1;
  let sn = second - 1;
  while (fn % 2 === 1) {
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  let [fr] = nodes;
  let [sr] = nodes;
  for (const node of nodes.slice(1)) {
    if (sn === 0) throw new Error('the proof is too long');
    if (fn % 2 === 1 || fn === sn) {
      fr = await nodeHash(node, fr);
      sr = await nodeHash(node, sr);
      while (fn % 2 === 0 && fn !== 0) {
        fn = Math.floor(fn / 2);
        sn = Math.floor(sn / 2);
      }
    } else {
      sr = await nodeHash(sr, node);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  if (sn !== 0 || !same(fr, firstRoot) || !same(sr, secondRoot))
    throw new Error('the proof does not lead from one root to the other');
}

/** The key of a log from `name+hash+base64`, its hash checked. */
export async function openLogKey(line) {
  const [name, id, ...rest] = line.split('+');
  const raw = unbase64(rest.join('+'));
  if (!name || raw.length !== 33 || raw[0] !== 1) throw new Error('not the Ed25519 key of a log');
  const found = (await sha256(text.encode(`${name}\n`), raw)).slice(0, 4);
  if (hex(found) !== id) throw new Error('the log’s key and its name do not belong together');
  return { name, id, raw: raw.slice(1), line };
}

/** A checkpoint, its signature checked; `signed` is null if this browser does not support Ed25519. */
export async function openCheckpoint(note, key) {
  const cut = note.lastIndexOf('\n\n');
  const body = note.slice(0, cut + 1);
  const [origin, size, root, nothing] = body.split('\n');
  if (cut < 0 || origin !== key.name || nothing !== '' || !/^(0|[1-9][0-9]{0,15})$/.test(size))
    throw new Error('not a checkpoint of this log');
  const bytes = unbase64(root);
  if (bytes.length !== 32) throw new Error('the checkpoint’s root is not a SHA-256');
  const lines = note
    .slice(cut + 2)
    .split('\n')
    .filter(Boolean)
    .map((one) => one.split(' '));
  const ours = lines.filter(
    ([dash, name, data]) => dash === '—' && name === key.name && data && hex(unbase64(data).slice(0, 4)) === key.id,
  );
  if (ours.length !== 1) throw new Error('the checkpoint is not signed by the log’s key');
  return {
    size: Number(size),
    root: bytes,
    note,
    signed: await verified(key, unbase64(ours[0][2]).slice(4), text.encode(body)),
  };
}

async function verified(key, signature, message) {
  let handle;
  try {
    handle = await crypto.subtle.importKey('raw', key.raw, { name: 'Ed25519' }, false, ['verify']);
  } catch {
    return null;
  }
  if (!(await crypto.subtle.verify({ name: 'Ed25519' }, handle, signature, message)))
    throw new Error('the checkpoint’s signature is wrong');
  return true;
}

// What this browser saw last. It trusts the first key that it sees.

const PLACE = 'moonflower.log';

export function seen() {
  try {
    return JSON.parse(localStorage.getItem(PLACE));
  } catch {
    return null;
  }
}

export function forget() {
  localStorage.removeItem(PLACE);
}

export class Fork extends Error {}

/** Compare the newest checkpoint with what was seen; `ask(since)` brings it with its proof. Returns what is seen now. */
export async function witness(ask) {
  const before = seen();
  const reply = await ask(before?.size ?? 0);
  const key = await openLogKey(reply.key);
  const now = await openCheckpoint(reply.checkpoint, key);
  if (before && before.key !== reply.key)
    throw new Fork('The log is signed by another key than the one this browser saw before.');
  if (before) {
    try {
      await checkGrowth(before.size, now.size, reply.proof, unhex(before.root), now.root);
    } catch (error) {
      throw new Fork(`The log is not the one that this browser saw before: ${error.message}.`);
    }
  }
  const kept = {
    key: reply.key,
    size: now.size,
    root: hex(now.root),
    note: now.note,
    time: new Date().toISOString(),
    signed: now.signed,
    first: before?.first ?? new Date().toISOString(),
  };
  localStorage.setItem(PLACE, JSON.stringify(kept));
  return { ...kept, grown: before ? now.size - before.size : null };
}

/** Check in steps that an entry is in the log; returns each step in words. */
export async function checkEntry(proof) {
  const steps = [];
  const leaf = await leafHash(proof.entry);
  steps.push(`The entry’s hash is ${hex(leaf).slice(0, 16)}…`);
  if (JSON.parse(proof.entry).index !== proof.index) throw new Error('the entry has another index');
  const key = await openLogKey(proof.key);
  const checkpoint = await openCheckpoint(proof.checkpoint, key);
  const root = await rootOf(leaf, proof.index, checkpoint.size, proof.proof);
  if (!same(root, checkpoint.root)) throw new Error('the path does not lead to the signed root');
  steps.push(
    `With ${proof.proof.length} other hashes it leads to the root ${hex(root).slice(0, 16)}… over ${checkpoint.size} entries.`,
  );
  if (checkpoint.signed) steps.push(`That root is signed by the log’s key ${key.name}+${key.id}.`);
  else steps.push('This browser does not support Ed25519, so the signature of the root was not checked.');
  const before = seen();
  if (before && before.key === proof.key) steps.push('This is the key that this browser knows.');
  else if (before) throw new Error('the log’s key is not the one that this browser knows');
  return { steps, signed: checkpoint.signed, size: checkpoint.size };
}
