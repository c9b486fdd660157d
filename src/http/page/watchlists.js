// The watches as lists: the clients inside of each, and what has happened. Elements are kept while what
// they show is there, so that a click or the focus is not lost to news.

import { shownId } from './clients.js';
import { byId, clock, distance, element, number, plural, position, setAttribute, setText } from './text.js';
import { WORDS } from './watch.js';

/** Number of clients that are listed of each watch, and of events. */
const MAX_CLIENTS = 20;
const MAX_EVENTS = 50;

export class WatchLists {
  #on;
  /** By the name of a watch: its item, the text in it, and the items of its clients by their keys. */
  #items = new Map();
  /** The newest first: key, word and item. */
  #events = [];

  /** `on` has what happens at a click: onSelect with a key, onCenter and onRemove with a watch. */
  constructor(on) {
    this.#on = on;
  }

  /** Lists what has happened to the client of a key. */
  note(watch, word, key) {
    if (word === 'gone') this.drop([key]);
    const id = element('bdi', {}, shownId(key));
    const item = element('li', { 'data-word': word }, `${clock(Date.now())} `, id, ` ${WORDS[word]} (watch ${watch.name})`);
    this.#events.unshift({ key, word, item });
    if (this.#events.length > MAX_EVENTS) this.#events.pop();
  }

  /** Drops what was noted of clients that are gone, but for that. */
  drop(keys) {
    const gone = new Set(keys);
    this.#events = this.#events.filter(({ key, word }) => word === 'gone' || !gone.has(key));
  }

  /** Shows the watches, and what was noted. */
  show(watches) {
    const list = byId('watch-list');
    list.hidden = watches.length === 0;
    const names = new Set(watches.map(({ name }) => name));
    for (const [name, { item }] of this.#items) {
      if (names.has(name)) continue;
      item.remove();
      this.#items.delete(name);
    }
    for (const watch of watches) {
      if (!this.#items.has(watch.name)) list.append(this.#begin(watch));
      this.#update(watch);
    }
    arrange(byId('watch-events'), this.#events.map(({ item }) => item));
    byId('watch-happened').hidden = this.#events.length === 0;
  }

  /** Returns the new item of a watch. */
  #begin(watch) {
    const { name, circle, key } = watch;
    const of = circle ? `${distance(circle.km)} around ${position(circle.lat, circle.lon)}` : shownId(key);
    const center = button(`Watch ${name}: ${of}`, () => this.#on.onCenter(watch));
    const remove = button('×', () => this.#on.onRemove(watch));
    setAttribute(remove, 'aria-label', `Remove watch ${name}`);
    const text = element('p');
    const clients = element('ul', { class: 'ids' });
    const item = element('li', { 'data-watch': name }, element('div', { class: 'bar' }, center, remove), text, clients);
    this.#items.set(name, { item, text, clients, byKey: new Map(), more: element('li') });
    return item;
  }

  #update({ name, circle, key, inside, isSettled }) {
    const { item, text, clients, byKey, more } = this.#items.get(name);
    setAttribute(item, 'data-inside', isSettled ? inside.size : null);
    let words = 'Asking …';
    if (isSettled && circle) words = `${plural(inside.size, 'client')} inside.`;
    if (isSettled && !circle) words = placeWords(inside.get(key));
    setText(text, words);
    if (!circle) return;
    const keys = [];
    for (const one of inside.keys()) {
      if (keys.length === MAX_CLIENTS) break;
      keys.push(one);
    }
    const shown = new Set(keys);
    for (const one of byKey.keys()) if (!shown.has(one)) byKey.delete(one);
    for (const one of keys) {
      if (!byKey.has(one)) byKey.set(one, element('li', {}, button(shownId(one), () => this.#on.onSelect(one))));
    }
    const items = keys.map((one) => byKey.get(one));
    if (inside.size > keys.length) {
      setText(more, `and ${number(inside.size - keys.length)} more`);
      items.push(more);
    }
    arrange(clients, items);
  }
}

function placeWords(place) {
  if (!place) return 'Not known.';
  return `At ${position(place.lat, place.lon)}, reported at ${place.server} at ${clock(Date.parse(place.time))}.`;
}

/** Makes these nodes the children of an element, and touches none that is in its place already. */
function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.childNodes[index] !== node) parent.insertBefore(node, parent.childNodes[index] ?? null);
  });
}

function button(text, onClick) {
  const made = element('button', { type: 'button' }, text);
  made.addEventListener('click', onClick);
  return made;
}
