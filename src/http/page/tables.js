// Servers and links as tables: everything that the ring shows, in words.

import { byId, compact, duration, element, number, setText } from './text.js';

export class Tables {
  #herd;

  constructor(herd) {
    this.#herd = herd;
    byId('servers').closest('details').addEventListener('toggle', () => this.update());
    addEventListener('resize', () => this.update());
  }

  update() {
    if (!byId('servers').closest('details').open) return;
    fill(
      byId('servers').tBodies[0],
      this.#herd.servers.map(({ name }) => {
        const { state, error, answer } = this.#herd.server(name);
        if (!answer?.up) return [name, state, '', '', '', '', error ?? ''];
        const { records, clients, uptime_ms: uptime, release, problems } = answer;
        const reasons = problems.map(({ reason }) => reason).join('; ');
        return [name, state, number(records), number(clients), duration(uptime), release, reasons];
      }),
    );
    fill(
      byId('links').tBodies[0],
      this.#herd.links().map(({ from, to, phase, lag, rate, error }) => [
        from,
        to,
        phase,
        lag === null ? '' : `${number(lag)} ms`,
        rate === null ? '' : compact(rate),
        error ? `${error.reason} (${duration(error.ago_ms)} ago)` : '',
      ]),
    );
    this.#hint();
  }

  /** Says that there is more at the side, where scroll bars may be hidden. */
  #hint() {
    const frames = ['servers', 'links'].map((id) => byId(id).closest('.scroll'));
    byId('tables-hint').hidden = !frames.some((frame) => frame.scrollWidth > frame.clientWidth + 1);
  }
}

/** Sets the texts of a table's rows; the first cell is the row's heading. */
export function fill(body, rows) {
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  rows.forEach((cells, index) => {
    if (!body.rows[index]) {
      const cell = (_, place) => (place === 0 ? element('th', { scope: 'row' }) : element('td'));
      body.append(element('tr', {}, ...cells.map(cell)));
    }
    cells.forEach((text, place) => setText(body.rows[index].cells[place], text));
  });
}
