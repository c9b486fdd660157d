// The line at the top, the title of the window, and the same for those who hear the page: read out
// when it changes, and for numbers that change all the time seldom.

import { byId, number, plural, setAttribute, setText } from './text.js';

/** Time between two readings that tell of numbers alone. */
const QUIET_MS = 30000;
/** Age of a survey past which it is no longer of now. */
const OLD_MS = 10000;

export class Summary {
  #herd;
  #spoken = '';
  #spokenAt = -Infinity;
  #surveyed = 0;

  constructor(herd) {
    this.#herd = herd;
  }

  surveyed() {
    this.#surveyed = performance.now();
  }

  update({ server, records, problems, isLost }) {
    const { servers, upCount, isWhole } = this.#herd;
    setText(byId('server'), server);
    const up = isWhole === null ? '' : `${number(upCount)} of ${number(servers.length)} servers up`;
    const clients = records === null ? '' : plural(records, 'client');
    setText(byId('totals'), [clients, up].filter(Boolean).map((part) => `· ${part}`).join(' '));
    const isOld = isWhole !== null && performance.now() - this.#surveyed > OLD_MS;
    let [words, severity] = ['waiting for the first answers', 'unknown'];
    const count = plural(Math.max(1, problems.length), 'problem');
    if (isLost && isWhole !== null) words = `when last connected: the herd was ${isWhole ? 'whole' : `not whole, ${count}`}`;
    else if (isOld) words = 'no news of the herd for a while';
    else if (isWhole) [words, severity] = ['the herd is whole', 'ok'];
    else if (isWhole === false) [words, severity] = [`the herd is not whole: ${count}`, 'bad'];
    setText(byId('whole'), words);
    setAttribute(byId('whole'), 'data-severity', severity);
    setAttribute(byId('status'), 'data-stale', isLost || isOld ? '' : null);
    const mark = isLost ? '✕' : { ok: '✓', bad: '!', unknown: '?' }[severity];
    const title = `${mark} herd ${server}`.trim();
    if (document.title !== title) document.title = title;
    this.#speak(words, [clients, up].filter(Boolean).join(', '), problems);
  }

  #speak(words, totals, problems) {
    if (totals === '') return;
    const state = [words, ...problems.map(({ text }) => text)].join('. ');
    const now = performance.now();
    if (state === this.#spoken && now - this.#spokenAt < QUIET_MS) return;
    this.#spoken = state;
    this.#spokenAt = now;
    setText(byId('summary'), `${state}. ${totals}`);
  }
}
