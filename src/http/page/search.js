// The search for a client by its id: marks it on the map, and shows its last reports.

import { shownId } from './clients.js';
import { Located } from './located.js';
import { fill } from './tables.js';
import { byId, clock, duration, element, number, plural, position, setText } from './text.js';

const MAX_SUGGESTED = 10;
const GONE = 'This client is gone.';

export class Search {
  #map;
  #clients;
  #located = new Located();
  /** Key of the client that is shown. */
  #shown = null;

  /** `onWatch` gets the key of a client that is to be watched. */
  constructor(map, clients, onWatch) {
    this.#map = map;
    this.#clients = clients;
    const input = byId('search');
    byId('search-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#find(input.value.trim());
    });
    input.addEventListener('input', () => this.#suggest());
    byId('search-watch').addEventListener('click', () => {
      if (this.#shown !== null) onWatch(this.#shown);
    });
    byId('search-close').addEventListener('click', () => {
      this.#close();
      input.focus();
    });
  }

  /** The clients among which the one that is shown is. */
  get #pool() {
    return this.#map.isGrid ? this.#located.clients : this.#clients;
  }

  #suggest() {
    const text = byId('search').value.trim();
    const keys = text === '' || this.#map.isGrid ? [] : this.#clients.beginningWith(text, MAX_SUGGESTED).keys;
    byId('search-ids').replaceChildren(...keys.map((key) => element('option', { value: shownId(key) })));
  }

  #find(text) {
    if (text === '') {
      this.#close();
      return;
    }
    if (this.#map.isGrid) {
      this.#ask(text);
      return;
    }
    const { keys, count } = this.#clients.beginningWith(text, MAX_SUGGESTED);
    const exact = this.#clients.slotOf(text) === undefined ? keys.find((key) => shownId(key) === text) : text;
    if (exact !== undefined) this.select(exact);
    else if (count === 0) this.#tell(text, 'No client of this id has reported, and none whose id begins so. Capital letters count.', []);
    else if (count === 1) this.select(keys[0]);
    else if (count <= keys.length) this.#tell(text, `No client has this id. ${plural(count, 'id')} begin with it:`, keys);
    else {
      const first = `The first ${keys.length} of ${number(count)} ids that begin with it`;
      this.#tell(text, `No client has this id. ${first} are below; type more of the id for fewer.`, keys);
    }
  }

  /** Asks the server for a client, where there are too many to have each. */
  async #ask(key) {
    this.#tell(shownId(key), 'Asking the server …', []);
    const isKnown = await this.#located.find(key);
    if (isKnown) this.#select(key);
    else if (isKnown === false) {
      this.#tell(shownId(key), 'No client of this id has reported. With so many clients the whole id is needed; capital letters count.', []);
    }
  }

  /** Shows a text instead of a client. */
  #tell(title, text, matches) {
    this.#shown = null;
    this.#located.clear();
    this.#mark(null);
    byId('search-result').hidden = false;
    for (const id of ['search-now', 'search-reports', 'search-watch']) byId(id).hidden = true;
    setText(byId('search-title'), title);
    setText(byId('search-text'), text);
    byId('search-matches').replaceChildren(
      ...matches.map((key) => {
        const button = element('button', { type: 'button' }, shownId(key));
        button.addEventListener('click', () => this.select(key));
        return element('li', {}, button);
      }),
    );
  }

  /** Marks a client, brings it to the center, and shows its reports. */
  select(key) {
    if (this.#map.isGrid) this.#ask(key);
    else this.#select(key);
  }

  #select(key) {
    const clients = this.#pool;
    const slot = clients.slotOf(key);
    if (slot === undefined) {
      this.#tell(shownId(key), GONE, []);
      return;
    }
    this.#shown = key;
    this.#mark(key);
    this.#map.projection.center(clients.lat[slot], clients.lon[slot]);
    this.#map.moved();
    byId('search').value = shownId(key);
    byId('search-matches').replaceChildren();
    for (const id of ['search-result', 'search-now', 'search-reports', 'search-watch']) byId(id).hidden = false;
    setText(byId('search-title'), shownId(key));
    // Read out, while the line below it changes with each report.
    setText(byId('search-text'), 'Found, and marked on the map.');
    this.update();
  }

  #mark(key) {
    this.#map.marked = key === null ? null : { clients: this.#pool, key };
    this.#pool.watch(key);
    this.#map.invalidate();
  }

  #close() {
    this.#shown = null;
    this.#located.clear();
    this.#mark(null);
    byId('search-result').hidden = true;
  }

  /** Shows where the client is now, and the reports that have come since. */
  update() {
    if (this.#shown === null) return;
    this.#located.update();
    const clients = this.#pool;
    if (this.#map.marked?.clients !== clients) {
      // The stream has begun to tell each client, or to count them.
      this.select(this.#shown);
      return;
    }
    const slot = clients.slotOf(this.#shown);
    if (slot === undefined) {
      this.#tell(shownId(this.#shown), GONE, []);
      return;
    }
    const { lat, lon, time, server } = clients.record(slot);
    const age = duration(Date.now() - time);
    setText(byId('search-now'), `At ${position(lat, lon)}, reported ${age} ago at ${server}.`);
    const row = (report) => [clock(report.time), position(report.lat, report.lon), report.server];
    fill(byId('search-reports').querySelector('tbody'), clients.watchedReports.map(row));
  }

  /** Drops the clients of a frame that are gone from what was listed of the search. */
  drop(gone) {
    const ids = new Set(gone.map((key) => shownId(key)));
    for (const button of byId('search-matches').querySelectorAll('button')) {
      if (ids.has(button.textContent)) button.parentElement.remove();
    }
    this.#suggest();
  }
}
