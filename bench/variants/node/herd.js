/** One server: its records, its clients, its neighbors. */

import { createServer } from 'node:net';

import { Link, Neighbor } from './neighbors.js';
import { Records } from './records.js';
import { Session } from './session.js';

/** Connections that the kernel holds until they are accepted. */
const BACKLOG = 4096;

/** Milliseconds until clients must have taken what they are owed when the server stops. */
const STOP_TIMEOUT = 5_000;

/** Milliseconds after which the fine clock is set by the wall clock. */
const CLOCK_INTERVAL = 1_000;

/**
 * A wall clock finer than `Date.now()`, in milliseconds with a fraction: the monotonic clock,
 * set by the wall clock now and then, so that it follows when that is set.
 */
function fineClock() {
  let origin;
  const set = () => {
    origin = Date.now() - performance.now();
  };
  set();
  setInterval(set, CLOCK_INTERVAL).unref();
  return () => origin + performance.now();
}

/** A server of the herd. */
export class Herd {
  /** @type {Set<Session>} */
  sessions = new Set();
  /** @type {Set<import('node:net').Socket>} */
  peers = new Set();
  #links = [];
  #listeners = [];

  /**
   * @param {{
   *   me: import('./topology.js').Server,
   *   neighbors: import('./topology.js').Server[],
   *   provider?: import('./places.js').Provider,
   *   log?: import('./log.js').Log,
   *   maxClients: number,
   *   maxRecords: number,
   *   idleTimeout: number,
   * }} settings times in milliseconds
   */
  constructor({ me, neighbors, provider, log, maxClients, maxRecords, idleTimeout }) {
    this.me = me;
    this.neighbors = neighbors;
    this.provider = provider;
    this.log = log;
    this.maxClients = maxClients;
    this.idleTimeout = idleTimeout;
    this.records = new Records(me.name, { now: fineClock(), hasPlaces: provider !== undefined, maxRecords });
  }

  /** Binds both ports and dials the neighbors. Rejects with a reason if a port can't be bound. */
  async start() {
    await this.#listen(this.me.clients, (socket) => new Session(this, socket));
    await this.#listen(this.me.peers, (socket) => new Neighbor(this, socket));
    this.#links = this.neighbors.map((neighbor) => new Link(this, neighbor));
  }

  /** Sends new records to the neighbors, but not to the one that sent them. */
  flood(sender = '') {
    const news = this.records.takeNews();
    if (news === '') return;
    for (const link of this.#links) if (link.name !== sender) link.send(news);
  }

  /** Lets the clients take what they are owed; the process then ends, as nothing is left to do. */
  stop() {
    for (const listener of this.#listeners) listener.close();
    for (const session of this.sessions) session.finish('server stopping');
    for (const link of this.#links) link.stop();
    for (const peer of this.peers) peer.destroy();
    setTimeout(() => {
      for (const session of this.sessions) session.destroy();
    }, STOP_TIMEOUT).unref();
    this.log?.info('stopping');
  }

  #listen(address, onConnection) {
    return new Promise((resolve, reject) => {
      const listener = createServer({ allowHalfOpen: true, noDelay: true }, onConnection);
      listener.once('error', (error) => {
        reject(new Error(`${this.me.name} can't listen on ${address.text}: ${error.message}`));
      });
      listener.listen({ host: address.host, port: address.port, backlog: BACKLOG }, resolve);
      this.#listeners.push(listener);
    });
  }
}
