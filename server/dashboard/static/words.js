// Entries of the log in words.

import { many } from './dom.js';

const SAID = {
  run_began: 'Run accepted',
  run_resumed: 'Coordinator started again',
  run_ended: 'Run ended',
  enrolled: 'Enrolled',
  refused_member: 'Request refused',
  member_added: 'Member added',
  member_revoked: 'Member revoked',
  card_taken: 'New card',
  seats_taken: 'All members take part',
  answered: 'Answered',
  answer_refused: 'Answer refused',
  waited_for: 'Waited for',
  came_back: 'Came back',
  statistics_opened: 'Statistics opened',
  round_began: 'Round began',
  envelope_accepted: 'Update received',
  envelope_refused: 'Update not taken',
  set_closed: 'Sum closed',
  opened: 'Sum opened',
  opening_refused: 'Opening refused',
  judged: 'Votes counted',
  promoted: 'Candidate promoted',
  kept: 'Candidate kept',
  refused: 'Candidate refused',
  failed: 'Round failed',
  tallies_opened: 'Quality measured',
  warned: 'Warning',
  approved: 'Approved',
  rejected: 'Rejected',
  released: 'Version released',
  rolled_back: 'Rolled back',
};
const BAD = new Set(['failed', 'refused_member', 'member_revoked', 'answer_refused', 'opening_refused', 'rejected']);
const ODD = new Set(['refused', 'warned', 'waited_for', 'envelope_refused', 'run_resumed', 'rolled_back']);
const GOOD = new Set(['promoted', 'released', 'approved']);

const OTHER = {
  statistics: { envelope_accepted: 'Statistics', envelope_refused: 'Statistics not taken' },
  tallies: { envelope_accepted: 'Quality numbers', envelope_refused: 'Quality numbers not taken' },
};

export function title(entry) {
  return OTHER[entry.details?.purpose]?.[entry.event] ?? SAID[entry.event] ?? entry.event;
}

export function kind(entry) {
  if (BAD.has(entry.event)) return 'bad';
  if (ODD.has(entry.event)) return 'warn';
  return GOOD.has(entry.event) ? 'good' : 'plain';
}

const VOTES = { better: 'better', same: 'same', worse: 'worse', abstain: 'abstained' };

/** How members voted on a candidate; a dash if there was no vote. */
export function votes(counts) {
  const said = Object.keys(VOTES).filter((one) => counts?.[one]);
  return said.map((one) => `${counts[one]} ${VOTES[one]}`).join(', ') || '–';
}

/** What an entry is about, in one short line. */
export function about(entry) {
  const { details = {} } = entry;
  const parts = [];
  if (entry.member) parts.push(entry.member);
  if (details.approver) parts.push(details.approver);
  if (details.version !== undefined) parts.push(`version ${details.version}`);
  if (details.round !== undefined) parts.push(`round ${details.round}`);
  else if (entry.number) parts.push(`round no. ${entry.number}`);
  if (['set_closed', 'opened'].includes(entry.event) && OTHER[details.purpose])
    parts.push({ statistics: 'statistics', tallies: 'quality numbers' }[details.purpose]);
  if (details.members && Array.isArray(details.members)) parts.push(many(details.members.length, 'member'));
  if (details.status) parts.push(details.status);
  if (entry.code) parts.push(entry.code);
  return parts.join(' · ');
}

export const events = SAID;
