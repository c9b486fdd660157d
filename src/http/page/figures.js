// The figures of this server: the value of the last second, and a line over ten minutes.

import { byId, compact, drawing, element, number, seconds, setText } from './text.js';

const SPAN_MS = 600000;
const [WIDTH, HEIGHT] = [600, 40];

const FIGURES = [
  { id: 'reports', label: 'Reports', unit: '/s', show: compact },
  { id: 'questions', label: 'Questions', unit: '/s', show: compact },
  { id: 'turn-p50', field: 'turn_p50', label: 'Turn, median', show: seconds },
  { id: 'turn-p99', field: 'turn_p99', label: 'Turn, 99 %', show: seconds },
  { id: 'flood-p50', field: 'flood_p50', label: 'Flood, median', show: seconds },
  { id: 'flood-p99', field: 'flood_p99', label: 'Flood, 99 %', show: seconds },
  { id: 'clients', label: 'Connections', show: number },
  { id: 'records', label: 'Clients known', show: number },
];

export class Figures {
  #entries = [];
  #cards;

  constructor() {
    this.#cards = FIGURES.map((figure) => {
      const card = {
        ...figure,
        field: figure.field ?? figure.id,
        value: element('strong', { id: `figure-${figure.id}` }, '–'),
        path: drawing('path'),
        range: element('small', {}, 'nothing measured yet'),
      };
      const line = drawing('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, card.path);
      byId('figures').append(element('figure', { class: 'figure' }, element('figcaption', {}, figure.label), card.value, line, card.range));
      return card;
    });
  }

  /** Takes what the server remembers; after its restart that is less than what the page does. */
  takeHistory(history) {
    const first = history[0]?.at ?? Infinity;
    this.#entries = [...this.#entries.filter(({ at }) => at < first), ...history];
    this.#draw();
  }

  take(entry) {
    this.#entries.push(entry);
    this.#draw();
  }

  #draw() {
    const last = this.#entries.at(-1);
    if (!last) return;
    const begin = last.at - SPAN_MS;
    this.#entries = this.#entries.filter(({ at }) => at > begin);
    for (const card of this.#cards) this.#drawCard(card, last, begin);
  }

  #drawCard({ field, unit = '', show, value, path, range }, last, begin) {
    const shown = (amount) => `${show(amount)}${unit}`;
    setText(value, last[field] === null ? '–' : shown(last[field]));
    const amounts = this.#entries.map((entry) => entry[field]).filter((amount) => amount !== null);
    if (amounts.length === 0) return;
    const [min, max] = [Math.min(...amounts), Math.max(...amounts)];
    setText(range, `${shown(min)} to ${shown(max)}`);
    const y = (amount) => (max === min ? HEIGHT / 2 : HEIGHT - 2 - ((amount - min) / (max - min)) * (HEIGHT - 4));
    let line = '';
    let before = -Infinity;
    for (const { at, [field]: amount } of this.#entries) {
      if (amount === null) continue;
      const x = ((at - begin) / SPAN_MS) * WIDTH;
      // A second without a value is a gap; a lone value is a point.
      line += `${at - before > 2500 ? 'M' : 'L'}${x.toFixed(1)} ${y(amount).toFixed(1)}`;
      if (at - before > 2500) line += 'h0';
      before = at;
    }
    path.setAttribute('d', line);
  }
}
