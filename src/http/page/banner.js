// The banner: everything that is not well, in words; hidden while the herd is whole.

import { byId, clock, duration, element, setAttribute, setText } from './text.js';

export class Banner {
  #herd;
  /** When this page first saw a problem that carries no time. */
  #seen = new Map();
  #shown = '';

  constructor(herd) {
    this.#herd = herd;
  }

  /** Returns the problems as { text, since, isSeen }: the last says that the begin is when this page first saw it. */
  problems() {
    const { survey, servers } = this.#herd;
    if (!survey) return [];
    const found = [];
    for (const { name } of servers) {
      const { answer } = this.#herd.server(name);
      for (const { state, since, for_ms: held, reason } of answer?.problems ?? []) {
        // How long it has held is right whatever that server's clock says.
        const begin = held === undefined ? since / 1e6 : survey.at / 1e6 - held;
        found.push({ text: `${name} is ${words(state)}: ${reason}`, since: begin, isSeen: false });
      }
    }
    const now = Date.now();
    const old = this.#seen;
    this.#seen = new Map(survey.problems.map((text) => [text, old.get(text) ?? now]));
    for (const [text, since] of this.#seen) found.push({ text, since, isSeen: true });
    return found;
  }

  update(isLost) {
    const problems = this.problems();
    const isHidden = problems.length === 0;
    const list = byId('banner-list');
    const texts = JSON.stringify(problems.map(({ text }) => text));
    if (texts !== this.#shown) {
      this.#shown = texts;
      list.replaceChildren(...problems.map(({ text }) => element('li', {}, text, ' ', element('span', { class: 'muted' }))));
      const isDown = this.#herd.servers.some(({ name }) => this.#herd.server(name).severity === 'bad');
      setAttribute(byId('banner'), 'data-severity', isDown ? 'bad' : 'warn');
    }
    const surveyed = (this.#herd.survey?.at ?? 0) / 1e6;
    // Nobody knows how long a problem holds after the last news of it.
    const now = isLost ? surveyed : Math.max(Date.now(), surveyed);
    problems.forEach(({ since, isSeen }, index) => {
      const begin = `${isSeen ? 'seen since' : 'since'} ${clock(since)}`;
      setText(list.children[index].lastElementChild, `${begin}, for ${duration(now - since)}`);
    });
    setText(byId('banner-title'), isLost ? 'Not whole when last connected' : 'Not whole');
    byId('banner').hidden = isHidden;
    return problems;
  }
}

/** Returns a state as the end of "Ball is …". */
function words(state) {
  const others = {
    clock: 'off by its clock',
    twin: 'one of two servers of its name',
    'journal failing': 'failing to write its journal',
    'places failing': 'failing to find places',
    'log failing': 'failing to write its log',
  };
  return others[state] ?? state;
}
