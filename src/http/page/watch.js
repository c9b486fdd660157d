// One watch: which clients are inside, as the events of its server tell, and what has changed.

/** The names of events in words. */
export const WORDS = { enter: 'entered', leave: 'left', move: 'moved', gone: 'was forgotten, or has expired' };

export class Watch {
  #filling = null;
  #onChange;
  isSettled = false;
  /** The clients inside, or the watched one, with the last that was told of each, by their keys. */
  inside = new Map();

  /** A watch of a circle { lat, lon, km }, or of the client of a key. `onChange` gets word and key. */
  constructor(name, { circle = null, key = null }, onChange) {
    this.name = name;
    this.circle = circle;
    this.key = key;
    this.#onChange = onChange;
  }

  /** Takes an event, with the key and the place of its client if it has one. */
  take(event, key, place) {
    const { inside } = this;
    const isTold = this.isSettled && (event !== 'move' || this.key !== null);
    switch (event) {
      case 'reset':
        this.#filling = new Map();
        return;
      case 'settled':
        this.#settle();
        return;
      case 'inside':
        (this.#filling ?? inside).set(key, place);
        return;
      case 'enter':
      case 'move': {
        const isNews = isTold && (event === 'move' || !inside.has(key));
        this.#filling?.set(key, place);
        // Until a filling is over, it is told with those from before.
        if (!this.#filling || this.isSettled) inside.set(key, place);
        if (isNews) this.#onChange(event, key);
        return;
      }
      case 'leave':
      case 'gone':
        this.#filling?.delete(key);
        if (inside.delete(key) && isTold) this.#onChange(event, key);
    }
  }

  /** Ends a filling: tells what has changed since before it, when the events were not heard. */
  #settle() {
    const before = this.inside;
    this.inside = this.#filling ?? before;
    this.#filling = null;
    const wasSettled = this.isSettled;
    this.isSettled = true;
    if (!wasSettled || this.inside === before) return;
    for (const key of before.keys()) if (!this.inside.has(key)) this.#onChange('leave', key);
    for (const key of this.inside.keys()) if (!before.has(key)) this.#onChange('enter', key);
  }
}
