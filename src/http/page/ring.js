// The ring: servers as nodes on a circle, links as lines. Made by calls and attributes alone, since no
// style may be inline.

import { heightFor, places } from './layout.js';
import { byId, compact, drawing, element, number, setAttribute, setText } from './text.js';

const RADIUS = 18;
/**
 * Number of servers up to which lines have their figures beside them, unless they cross, and nodes the
 * word for a state that is ok. The tables have all.
 */
const MAX_LABELED = 8;

const RATES_HERE = 'On each line: records sent per second in both directions, and the greater lag.';
const RATES_IN_TABLES = 'The figures of the links are in the tables.';

export class Ring {
  #svg;
  #herd;
  #nodes = new Map();
  #lines = new Map();
  #sparks = new Map();
  #places = new Map();
  #sparkLayer;
  #center;
  own = '';

  constructor(svg, herd) {
    this.#svg = svg;
    this.#herd = herd;
    let width = 0;
    new ResizeObserver(() => {
      if (svg.clientWidth !== width && svg.clientWidth > 0) this.build();
      width = svg.clientWidth;
    }).observe(svg);
  }

  /** Draws all nodes and lines, of another topology or for another width. */
  build() {
    const count = this.#herd.servers.length;
    const [width, height] = [this.#svg.clientWidth || 360, heightFor(count)];
    setAttribute(this.#svg, 'height', height);
    setAttribute(this.#svg, 'viewBox', `0 0 ${width} ${height}`);
    this.#center = { x: width / 2, y: height / 2 };
    const radius = Math.max(7, Math.min(RADIUS, 220 / Math.max(1, count)));
    this.#places = places(this.#herd.servers, width, height, radius);
    const edges = this.#herd.edges().filter(({ a, b }) => this.#places.has(a) && this.#places.has(b));
    const lines = edges.map(({ a, b }) => [`${a} ${b}`, this.#line(a, b)]);
    this.#lines = new Map(lines);
    this.#sparks.clear();
    this.#sparkLayer = drawing('g', { 'aria-hidden': 'true' });
    const nodes = [...this.#places.keys()].map((name) => [name, this.#node(name, radius)]);
    this.#nodes = new Map(nodes);
    const groups = (list) => list.map(([, { group }]) => group);
    const labels = lines.map(([, { rate }]) => rate);
    this.#svg.replaceChildren(...groups(lines), this.#sparkLayer, ...groups(nodes), ...labels);
    this.update();
  }

  #line(a, b) {
    const [from, to] = [this.#places.get(a), this.#places.get(b)];
    const ends = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
    const title = drawing('title');
    const glow = drawing('line', { class: 'glow', ...ends });
    const group = drawing('g', { 'data-link': `${a} ${b}`, role: 'img' }, title, drawing('line', { class: 'wire', ...ends }), glow);
    // The label lies above all lines, outside of its line's group, and a little towards the center;
    // on a narrow ring more, since names are close.
    const [x, y] = [from.x + to.x, from.y + to.y].map((sum) => sum / 2);
    const far = Math.hypot(this.#center.x - x, this.#center.y - y);
    const inward = far > 40 ? (this.#center.x < 200 ? 22 : 14) / far : 0;
    const at = { x: x + (this.#center.x - x) * inward, y: y + (this.#center.y - y) * inward };
    const texts = [0, 1].map((row) => drawing('text', { class: 'rate', x: at.x, y: at.y - 3 + 14 * row }));
    return { group, title, glow, texts, rate: drawing('g', { 'aria-hidden': 'true' }, ...texts) };
  }

  #node(name, radius) {
    const { x, y, letters, anchor, left, top } = this.#places.get(name);
    const title = drawing('title');
    const symbol = drawing('text', { class: 'symbol', x, y: y + 6, 'aria-hidden': 'true' });
    const text = { x: left, 'text-anchor': anchor, 'aria-hidden': 'true' };
    const shown = name.length > letters ? `${name.slice(0, Math.max(1, letters - 1))}…` : name;
    const label = drawing('text', { class: 'name', y: top, ...text }, shown);
    const state = drawing('text', { class: 'state', y: top + 15, ...text });
    const body = drawing('circle', { class: 'body', cx: x, cy: y, r: radius });
    const group = drawing('g', { 'data-server': name, role: 'img' }, title, body, symbol, label, state);
    return { group, title, symbol, state };
  }

  /** Shows the states of the last survey. */
  update() {
    const isLabeled = this.#nodes.size <= MAX_LABELED;
    for (const [name, node] of this.#nodes) {
      const { state, severity, symbol, error, answer } = this.#herd.server(name);
      setAttribute(node.group, 'data-state', state);
      setAttribute(node.group, 'data-severity', severity);
      setAttribute(node.group, 'data-own', name === this.own ? '' : null);
      setText(node.symbol, symbol);
      setText(node.state, isLabeled || state !== 'ok' ? state : '');
      const records = answer?.up ? `, ${number(answer.records)} records, ${number(answer.clients)} connections` : '';
      const text = `${name}: ${state}${error ? `, ${error}` : ''}${records}`;
      setText(node.title, text);
      setAttribute(node.group, 'aria-label', text);
    }
    this.#showErrors();
    // Where lines cross, figures would lie upon each other.
    const hasRates = isLabeled && this.#lines.size <= Math.max(1, this.#nodes.size);
    setText(byId('ring-help'), hasRates ? RATES_HERE : RATES_IN_TABLES);
    for (const [key, line] of this.#lines) {
      const edge = this.#herd.edge(...key.split(' '));
      setAttribute(line.group, 'data-phase', edge.phase);
      setAttribute(line.rate, 'data-phase', edge.phase);
      const figures = hasRates ? shortFigures(edge) : [];
      line.texts.forEach((text, row) => setText(text, figures[row] ?? ''));
      const text = `${edge.a} and ${edge.b}: ${edge.both.map(direction).join('; ')}`;
      setText(line.title, text);
      setAttribute(line.group, 'aria-label', text);
    }
  }

  /** Shows why servers do not answer. */
  #showErrors() {
    const servers = [...this.#nodes.keys()].map((name) => this.#herd.server(name));
    const texts = servers.filter(({ error }) => error).map(({ name, symbol, error }) => `${symbol} ${name}: ${error}`);
    const list = byId('ring-errors');
    list.hidden = texts.length === 0;
    while (list.children.length > texts.length) list.lastElementChild.remove();
    texts.forEach((text, index) => setText(list.children[index] ?? list.appendChild(element('li')), text));
  }

  placeOf(name) {
    return this.#places.get(name);
  }

  /** Returns the line between two servers. */
  line(a, b) {
    return this.#lines.get(`${a} ${b}`) ?? this.#lines.get(`${b} ${a}`);
  }

  /** Returns the moving point of that name. */
  spark(key) {
    let spark = this.#sparks.get(key);
    if (!spark) {
      spark = drawing('circle', { class: 'spark', r: 4 });
      this.#sparks.set(key, spark);
      this.#sparkLayer.append(spark);
    }
    return spark;
  }
}

function shortFigures({ phase, rate, lag }) {
  if (phase === 'unknown') return [];
  if (phase === 'down') return ['down'];
  const one = phase === 'partial' ? 'one way, ' : '';
  return [`${one}${rate === null ? '' : `${compact(rate)}/s`}`, lag === null ? '' : `${compact(lag)} ms`];
}

function direction({ from, to, phase, rate, lag }) {
  const figures = [phase];
  if (rate !== null) figures.push(`${compact(rate)} records/s`);
  if (lag !== null) figures.push(`lag ${compact(lag)} ms`);
  return `${from} to ${to} ${figures.join(', ')}`;
}
