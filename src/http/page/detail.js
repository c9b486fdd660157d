// The clients in view where the stream has only counts by cells: asked for while the view is so narrow
// that they are few.

import { Clients } from './clients.js';
import { request } from './request.js';

/** Number of clients that one answer has at most. */
const LIMIT = 1000;
/** Number of clients by the counts of the cells in view up to which it is worth to ask. */
const WORTH = 3000;
/** Height of a view in degrees from which down it is worth to ask, whatever a cell has. */
const NARROW = 1;
/** Time from one answer to the next question, and where there were too many. */
const PAUSE_MS = 2000;
const LONG_PAUSE_MS = 5000;
/** Time after a movement of the map. */
const REST_MS = 300;

export class Detail {
  #map;
  #timer = null;
  #abort = null;
  /** The view of the last answer that had all of its clients. */
  #asked = null;
  #onChange;
  clients = new Clients();
  /** In view there are more clients than an answer has. */
  hasMore = false;

  /** `onChange` is called when other clients are to be shown. */
  constructor(map, onChange) {
    this.#map = map;
    this.#onChange = onChange;
    document.addEventListener('visibilitychange', () => this.look());
  }

  /** Whether the clients are those of what is in view. */
  get isShown() {
    return this.#asked !== null && this.#map.isGrid && covers(this.#asked, this.#map.projection.box());
  }

  /** Takes another view, or other counts. */
  look() {
    if (!this.#isWorth()) {
      this.#stop();
      return;
    }
    if (this.#timer === null && this.#abort === null) this.#wait(REST_MS);
  }

  #isWorth() {
    const { isGrid, projection, grid } = this.#map;
    if (!isGrid || document.hidden) return false;
    const box = projection.box();
    return box.north - box.south <= NARROW || grid.estimate(box) <= WORTH;
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#abort?.abort();
    this.#abort = null;
    this.hasMore = false;
    if (this.#asked === null) return;
    this.#asked = null;
    this.clients.clear();
    this.#onChange();
  }

  #wait(pause) {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#ask();
    }, pause);
  }

  async #ask() {
    if (!this.#isWorth()) {
      this.#stop();
      return;
    }
    const abort = new AbortController();
    this.#abort = abort;
    const box = this.#map.projection.box();
    const edge = (name) => `${name}=${box[name].toFixed(6)}`;
    const question = ['south', 'west', 'north', 'east'].map(edge).join('&');
    let answer = null;
    try {
      const response = await request(`/v1/within?${question}&limit=${LIMIT}`, { signal: abort.signal });
      if (response.ok) answer = await response.json();
    } catch {
      // The stream of events says that the server does not answer.
    }
    if (abort.signal.aborted) return;
    this.#abort = null;
    if (answer) this.#take(answer, box);
    this.#wait(this.hasMore ? LONG_PAUSE_MS : PAUSE_MS);
  }

  #take({ clients, more }, box) {
    this.hasMore = more;
    const entries = more ? [] : clients.map((client) => ({ ...client, time: Date.parse(client.time) }));
    const isNew = this.#asked === null;
    this.clients.show(entries, isNew, performance.now());
    this.#asked = more ? null : box;
    this.#onChange();
  }
}

/** Returns whether a box has all of another, in degrees. */
function covers(outer, inner) {
  const slack = 1e-6;
  const width = (box) => (box.east - box.west + 360) % 360;
  const offset = (inner.west - outer.west + 540) % 360 - 180;
  return (
    inner.south >= outer.south - slack && inner.north <= outer.north + slack && offset >= -slack && offset + width(inner) <= width(outer) + slack
  );
}
