// Servers and links as tables: everything that the ring shows, in words.

import { byId, compact, duration, element, number, setText } from './text.js';

export class Tables {
  #herd;

  constructor(herd) {
    this.#herd = herd;
    byId('servers').closest('details').addEventListener('toggle', () => this.update());
  }

  update() {
    if (!byId('servers').closest('details').open) return;
    fill(
      byId('servers').tBodies[0],
      this.#herd.servers.map(({ name }) => {
        const { state, error, answer } = this.#herd.server(name);
        const words = error ? `${state}: ${error}` : state;
        if (!answer?.up) return [name, words, '', '', '', ''];
        const { records, clients, uptime_ms: uptime, release } = answer;
        return [name, words, number(records), number(clients), duration(uptime), release];
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
