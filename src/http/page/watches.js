// The watches that were drawn: their stream of events, and the circles on the map.

import { circlePath, MAX_KM } from './circle.js';
import { encodedId, keyOf } from './clients.js';
import { follow } from './stream.js';
import { byId, setText } from './text.js';
import { Watch } from './watch.js';
import { WatchLists } from './watchlists.js';

const MAX_WATCHES = 16;
/** Time between two looks of the lists, however fast the events come. */
const PAUSE_MS = 250;
/** Time without data after which the server counts as not answering: it sends a comment each 15 s. */
const SILENCE_MS = 25000;

export class Watches {
  #map;
  #watches = new Map();
  #lists;
  #last = 0;
  #abort = null;
  #isDue = false;
  #problem = '';

  /** `onSelect` gets the key of a client that is to be shown. */
  constructor(map, onSelect) {
    this.#map = map;
    map.watches = () => this.#watches.values();
    this.#lists = new WatchLists({
      onSelect,
      onCenter: (watch) => this.#center(watch),
      onRemove: (watch) => this.#remove(watch),
    });
    byId('watch-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.addCenter();
    });
  }

  /** Watches around the center of the map. */
  addCenter() {
    const { lat, lon } = this.#map.projection;
    this.addCircle({ lat, lon, km: null });
  }

  /** Watches a circle, with the radius of the form if it has none. */
  addCircle({ lat, lon, km }) {
    const input = byId('watch-km');
    const radius = km ?? input.valueAsNumber;
    if (!(radius > 0 && radius <= MAX_KM)) {
      input.reportValidity();
      return;
    }
    const circle = { lat, lon, km: radius };
    this.#add({ circle: { ...circle, path: circlePath(circle) } });
  }

  /** Watches a client. */
  addClient(key) {
    const isWatched = [...this.#watches.values()].some((watch) => watch.key === key);
    if (!isWatched) this.#add({ key });
  }

  #add(target) {
    if (this.#watches.size >= MAX_WATCHES) {
      setText(byId('watch-text'), `This page has at most ${MAX_WATCHES} watches: remove one first.`);
      return;
    }
    const name = String(++this.#last);
    const watch = new Watch(name, target, (word, key) => this.#lists.note(watch, word, key));
    this.#watches.set(name, watch);
    this.#changed();
  }

  #remove({ name }) {
    this.#watches.delete(name);
    this.#changed();
    byId('watch-draw').focus();
  }

  /** Opens a stream for the watches as they are now. Those from before tell what has changed meanwhile. */
  #changed() {
    this.#abort?.abort();
    this.#abort = null;
    this.#problem = '';
    setText(byId('watch-text'), '');
    this.#show();
    if (this.#watches.size === 0) return;
    const abort = new AbortController();
    this.#abort = abort;
    const query = [...this.#watches.values()].map(({ name, circle, key }) =>
      circle
        ? `name=${name}&lat=${circle.lat.toFixed(7)}&lon=${circle.lon.toFixed(7)}&radius=${circle.km.toFixed(6)}`
        : `name=${name}&client=${encodedId(key)}`,
    );
    follow(
      `/v1/watch?${query.join('&')}`,
      (event, data) => this.#take(event, data),
      (state, reason) => {
        if (abort.signal.aborted) return;
        const problem = state === 'live' ? '' : `The watches are not connected: ${reason}. Trying again each second.`;
        if (problem === this.#problem) return;
        this.#problem = problem;
        this.#schedule();
      },
      { silence: SILENCE_MS, signal: abort.signal },
    );
  }

  #take(event, data) {
    const watch = this.#watches.get(data.watch);
    if (!watch) return;
    const hasClient = data.client !== undefined || data.client_base64 !== undefined;
    watch.take(event, hasClient ? keyOf(data) : null, data);
    this.#schedule();
  }

  /** Takes the keys of clients that are gone. */
  drop(keys) {
    this.#lists.drop(keys);
    this.#schedule();
  }

  #schedule() {
    if (this.#isDue) return;
    this.#isDue = true;
    setTimeout(() => {
      this.#isDue = false;
      this.#show();
    }, PAUSE_MS);
  }

  #show() {
    setText(byId('watch-problem'), this.#problem);
    this.#lists.show([...this.#watches.values()]);
    this.#map.invalidate();
  }

  #center({ circle, key, inside }) {
    const place = circle ?? inside.get(key);
    if (!place) return;
    this.#map.projection.center(place.lat, place.lon);
    this.#map.moved();
  }
}
