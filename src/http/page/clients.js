// The clients: where each is, from where it comes gliding, and its last reports. Numbers lie in typed
// arrays by slot, so that drawing 20,000 clients touches no objects.

import { kilometers, wrap } from './geo.js';

/** Number of reports that are kept of each client, and of the one that is watched. */
const KEPT = 8;
const KEPT_WATCHED = 50;

export const GLIDE_MS = 300;

/** Order of ids for the eye: client-9 before client-10. */
const collator = new Intl.Collator('en', { numeric: true });
const isAfter = (one, other) => (collator.compare(one, other) || (one > other ? 1 : -1)) > 0;

/** First character of the key of an id that is not UTF-8: no text that was decoded contains it. */
const BYTES = '\ud800';

/** Returns the key of an id as frames name it. */
export function keyOf(entry) {
  if (typeof entry === 'string') return entry;
  return entry.client_base64 === undefined ? entry.client : BYTES + entry.client_base64;
}

/** Returns an id for the eye: of one that is not UTF-8 the bytes, those that are not ASCII as \xNN. */
export function shownId(key) {
  if (!key.startsWith(BYTES)) return key;
  const shown = (byte) => (byte > ' ' && byte <= '~' ? byte : `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return Array.from(atob(key.slice(BYTES.length)), shown).join('');
}

/** Returns the percent-encoded bytes of an id. */
export function encodedId(key) {
  if (!key.startsWith(BYTES)) return encodeURIComponent(key);
  const encoded = (byte) => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`;
  return Array.from(atob(key.slice(BYTES.length)), encoded).join('');
}

export class Clients {
  #slots = new Map();
  #free = [];
  #capacity = 0;
  #servers = new Map();
  #serverNames = [];
  #watched = null;
  /** Number of slots that were ever in use; some of them may be free. */
  used = 0;
  keys = [];

  constructor() {
    this.#grow(1024);
  }

  #grow(capacity) {
    const grown = (Type, old, width = 1) => {
      const array = new Type(capacity * width);
      if (old) array.set(old);
      return array;
    };
    this.lat = grown(Float64Array, this.lat);
    this.lon = grown(Float64Array, this.lon);
    this.time = grown(Float64Array, this.time);
    this.server = grown(Uint16Array, this.server);
    this.fromLat = grown(Float64Array, this.fromLat);
    this.fromLon = grown(Float64Array, this.fromLon);
    this.changed = grown(Float64Array, this.changed);
    this.isUsed = grown(Uint8Array, this.isUsed);
    this.reports = grown(Uint32Array, this.reports);
    this.pastLat = grown(Float64Array, this.pastLat, KEPT);
    this.pastLon = grown(Float64Array, this.pastLon, KEPT);
    this.pastTime = grown(Float64Array, this.pastTime, KEPT);
    this.pastServer = grown(Uint16Array, this.pastServer, KEPT);
    this.#capacity = capacity;
  }

  get size() {
    return this.#slots.size;
  }

  slotOf(key) {
    return this.#slots.get(key);
  }

  /** Takes the changes of a frame, at a time of performance.now(). */
  apply(frame, now) {
    const entries = frame.clients ?? [];
    if (frame.reset) {
      const named = new Set(entries.map(keyOf));
      for (const key of [...this.#slots.keys()]) if (!named.has(key)) this.#remove(key);
    }
    for (const entry of entries) this.#put(entry, frame.reset ? -Infinity : now, now);
    for (const entry of frame.gone ?? []) this.#remove(keyOf(entry));
  }

  /** Takes all clients that there are: those that have changed, and the end of those that are missing. */
  show(entries, isFirst, now) {
    const named = new Set(entries.map(keyOf));
    const gone = [...this.#slots.keys()].filter((key) => !named.has(key));
    this.apply({ reset: isFirst, clients: entries }, now);
    for (const key of gone) this.#remove(key);
  }

  clear() {
    for (const key of [...this.#slots.keys()]) this.#remove(key);
  }

  #put(entry, changed, now) {
    const key = keyOf(entry);
    let slot = this.#slots.get(key);
    const isNew = slot === undefined;
    if (isNew) {
      slot = this.#free.pop() ?? this.used++;
      if (slot >= this.#capacity) this.#grow(this.#capacity * 2);
      this.#slots.set(key, slot);
      this.keys[slot] = key;
      this.isUsed[slot] = 1;
      this.reports[slot] = 0;
    } else if (entry.time === this.time[slot] && entry.lat === this.lat[slot] && entry.lon === this.lon[slot]) {
      return;
    }
    const from = isNew ? entry : this.at(slot, now);
    this.fromLat[slot] = from.lat;
    // The short way, across the date line too.
    this.fromLon[slot] = entry.lon - wrap(entry.lon - from.lon);
    this.changed[slot] = changed;
    this.lat[slot] = entry.lat;
    this.lon[slot] = entry.lon;
    this.time[slot] = entry.time;
    this.server[slot] = this.#serverNumber(entry.server);
    const past = slot * KEPT + (this.reports[slot]++ % KEPT);
    this.pastLat[past] = entry.lat;
    this.pastLon[past] = entry.lon;
    this.pastTime[past] = entry.time;
    this.pastServer[past] = this.server[slot];
    if (this.#watched?.key === key) this.#remember(this.#past(past));
  }

  #remove(key) {
    const slot = this.#slots.get(key);
    if (slot === undefined) return;
    this.#slots.delete(key);
    this.isUsed[slot] = 0;
    this.keys[slot] = undefined;
    // Nothing that it has reported is kept.
    for (const past of [this.pastLat, this.pastLon, this.pastTime]) past.fill(0, slot * KEPT, (slot + 1) * KEPT);
    if (this.#watched?.key === key) this.#watched = null;
    this.#free.push(slot);
  }

  #serverNumber(name) {
    let number = this.#servers.get(name);
    if (number === undefined) {
      number = this.#serverNames.push(name) - 1;
      this.#servers.set(name, number);
    }
    return number;
  }

  /** Returns where a client is shown while it glides. */
  at(slot, now) {
    const share = (now - this.changed[slot]) / GLIDE_MS;
    if (!(share < 1)) return { lat: this.lat[slot], lon: this.lon[slot] };
    const rest = (1 - share) * (1 - share);
    return {
      lat: this.lat[slot] + (this.fromLat[slot] - this.lat[slot]) * rest,
      lon: this.lon[slot] + (this.fromLon[slot] - this.lon[slot]) * rest,
    };
  }

  /** Returns the newest report of a client. */
  record(slot) {
    return {
      client: shownId(this.keys[slot]),
      lat: this.lat[slot],
      lon: this.lon[slot],
      time: this.time[slot],
      server: this.#serverNames[this.server[slot]],
    };
  }

  #past(index) {
    return {
      lat: this.pastLat[index],
      lon: this.pastLon[index],
      time: this.pastTime[index],
      server: this.#serverNames[this.pastServer[index]],
    };
  }

  #remember(report) {
    const kept = this.#watched.reports;
    kept.unshift(report);
    if (kept.length > KEPT_WATCHED) kept.pop();
  }

  /** Keeps more reports of one client from now on, or of none. */
  watch(key) {
    if (this.#watched?.key === key) return;
    const slot = this.#slots.get(key);
    this.#watched = slot === undefined ? null : { key, reports: [] };
    if (slot === undefined) return;
    const count = this.reports[slot];
    for (let index = Math.max(0, count - KEPT); index < count; index++) {
      this.#remember(this.#past(slot * KEPT + (index % KEPT)));
    }
  }

  /** Returns the reports of the client that is watched, the newest first. */
  get watchedReports() {
    return this.#watched?.reports ?? [];
  }

  /** Returns up to `limit` clients that are nearest to a point, as slots with their distance. */
  nearest(lat, lon, limit) {
    const found = [];
    let farthest = Infinity;
    for (let slot = 0; slot < this.used; slot++) {
      if (!this.isUsed[slot]) continue;
      const km = kilometers(lat, lon, this.lat[slot], this.lon[slot]);
      if (km >= farthest) continue;
      let index = found.length;
      while (index > 0 && found[index - 1].km > km) index--;
      found.splice(index, 0, { slot, km });
      if (found.length > limit) found.pop();
      if (found.length === limit) farthest = found[limit - 1].km;
    }
    return found;
  }

  /** Returns the first `limit` keys, in order, of the ids that begin with a text, and how many there are. */
  beginningWith(text, limit) {
    const found = [];
    let count = 0;
    for (const key of this.#slots.keys()) {
      const id = shownId(key);
      if (!id.startsWith(text)) continue;
      count++;
      let index = found.length;
      while (index > 0 && isAfter(found[index - 1].id, id)) index--;
      if (index === limit) continue;
      found.splice(index, 0, { key, id });
      if (found.length > limit) found.pop();
    }
    return { keys: found.map(({ key }) => key), count };
  }
}
