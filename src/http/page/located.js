// One client that the server was asked for, where the stream has only counts.

import { Clients, encodedId, keyOf } from './clients.js';
import { request } from './request.js';

/** Time from one answer to the next question. */
const PAUSE_MS = 2000;

export class Located {
  #key = null;
  #isAsking = false;
  #next = 0;
  /** That client alone, if the server knows it. */
  clients = new Clients();

  /** Forgets the client. */
  clear() {
    this.#key = null;
    this.clients.clear();
  }

  /**
   * Asks for a client. Returns whether the server knows it; null if it does not answer, or if another
   * client was asked for meanwhile.
   */
  async find(key) {
    this.clear();
    this.#key = key;
    return this.#ask();
  }

  /** Asks again if it is time to. */
  update() {
    if (this.#key !== null && !this.#isAsking && Date.now() >= this.#next && !document.hidden) this.#ask();
  }

  async #ask() {
    const key = this.#key;
    this.#isAsking = true;
    let isKnown = null;
    try {
      const response = await request(`/v1/clients/${encodedId(key)}`);
      const answer = await response.json();
      if (this.#key !== key) return null;
      if (response.ok) {
        this.clients.show([{ ...answer, time: Date.parse(answer.time) }], false, performance.now());
        isKnown = keyOf(answer) === key;
      } else if (response.status === 404 || response.status === 400) {
        this.clients.clear();
        isKnown = false;
      }
    } catch {
      // The stream of events says that the server does not answer.
    } finally {
      this.#isAsking = false;
      this.#next = Date.now() + PAUSE_MS;
    }
    return isKnown;
  }
}
