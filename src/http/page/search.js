// The search for a client by its id: marks it on the map, and shows its last reports.

import { shownId } from './clients.js';
import { fill } from './tables.js';
import { byId, clock, duration, element, number, plural, position, setText } from './text.js';

const MAX_SUGGESTED = 10;
const GONE = 'This client is gone.';

export class Search {
  #map;
  #clients;
  /** Key of the client that is shown. */
  #shown = null;

  constructor(map, clients) {
    this.#map = map;
    this.#clients = clients;
    const input = byId('search');
    byId('search-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#find(input.value.trim());
    });
    input.addEventListener('input', () => this.#suggest(input.value.trim()));
    byId('search-close').addEventListener('click', () => {
      this.#close();
      input.focus();
    });
  }

  #suggest(text) {
    const keys = text === '' || this.#map.isGrid ? [] : this.#clients.beginningWith(text, MAX_SUGGESTED).keys;
    byId('search-ids').replaceChildren(...keys.map((key) => element('option', { value: shownId(key) })));
  }

  #find(text) {
    if (text === '') {
      this.#close();
      return;
    }
    if (this.#map.isGrid) {
      const why = 'There are too many clients to follow each: this page shows counts by cells of one degree, and can\'t find one by its id.';
      this.#tell(text, why, []);
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

  /** Shows a text instead of a client. */
  #tell(title, text, matches) {
    this.#shown = null;
    this.#mark(null);
    byId('search-result').hidden = false;
    byId('search-now').hidden = true;
    byId('search-reports').hidden = true;
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
    const slot = this.#clients.slotOf(key);
    if (slot === undefined) {
      this.#tell(shownId(key), GONE, []);
      return;
    }
    this.#shown = key;
    this.#mark(key);
    this.#map.projection.center(this.#clients.lat[slot], this.#clients.lon[slot]);
    this.#map.moved();
    byId('search').value = shownId(key);
    byId('search-matches').replaceChildren();
    byId('search-result').hidden = false;
    byId('search-now').hidden = false;
    byId('search-reports').hidden = false;
    setText(byId('search-title'), shownId(key));
    // Read out, while the line below it changes with each report.
    setText(byId('search-text'), 'Found, and marked on the map.');
    this.update();
  }

  #mark(key) {
    this.#map.marked = key;
    this.#clients.watch(key);
    this.#map.invalidate();
  }

  #close() {
    this.#shown = null;
    this.#mark(null);
    byId('search-result').hidden = true;
  }

  /** Shows where the client is now, and the reports that have come since. */
  update() {
    if (this.#shown === null) return;
    if (this.#map.isGrid) {
      this.#find(shownId(this.#shown));
      return;
    }
    const slot = this.#clients.slotOf(this.#shown);
    if (slot === undefined) {
      this.#tell(shownId(this.#shown), GONE, []);
      return;
    }
    const { lat, lon, time, server } = this.#clients.record(slot);
    const age = duration(Date.now() - time);
    setText(byId('search-now'), `At ${position(lat, lon)}, reported ${age} ago at ${server}.`);
    const row = (report) => [clock(report.time), position(report.lat, report.lon), report.server];
    fill(byId('search-reports').querySelector('tbody'), this.#clients.watchedReports.map(row));
  }
}
