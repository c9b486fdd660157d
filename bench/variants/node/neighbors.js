/** The connections between servers: a neighbor's to this one, and this one's to a neighbor. */

import { connect } from 'node:net';
import { Readable } from 'node:stream';

import { printable } from './log.js';

/** Characters that a neighbor's line may have: more than any valid one has. */
const MAX_PEER_LINE = 1024;

/** Bytes unsent to a neighbor; past this the link is cut, and starts again from the records. */
const MAX_UNSENT = 64 << 20;

/** Records sent at once to a neighbor that has just been connected. */
const CATCH_UP_RECORDS = 1000;

/** Milliseconds between two tries to reach a neighbor: doubled from the first to the last. */
const FIRST_DELAY = 100;
const LAST_DELAY = 5_000;

/** A neighbor's connection to this server: its name, then `AT` lines. */
export class Neighbor {
  #herd;
  #socket;
  #name = '';
  #unread = '';

  constructor(herd, socket) {
    this.#herd = herd;
    this.#socket = socket;
    herd.peers.add(socket);
    socket.on('data', (data) => this.#take(data.latin1Slice()));
    socket.on('error', (error) => herd.log?.info(`neighbor ${this.#shown}: ${error.message}`));
    socket.on('close', () => {
      herd.peers.delete(socket);
      herd.log?.info(`neighbor ${this.#shown} lost`);
    });
  }

  get #shown() {
    return this.#name || 'unknown';
  }

  #take(text) {
    const lines = (this.#unread + text).split('\n');
    this.#unread = lines.pop();
    for (const line of lines) {
      this.#herd.log?.info(`neighbor ${this.#shown} > ${printable(line)}`);
      if (!(this.#name ? this.#herd.records.adopt(line) : this.#introduce(line))) {
        this.#refuse('not what a neighbor says');
        break;
      }
    }
    if (this.#unread.length > MAX_PEER_LINE) this.#refuse('line too long');
    this.#herd.flood(this.#name);
  }

  /** Takes the first line, which names the neighbor. */
  #introduce(line) {
    this.#name = this.#herd.me.neighbors.find((name) => line === `SERVER ${name}`) ?? '';
    return this.#name !== '';
  }

  #refuse(reason) {
    this.#herd.log?.info(`neighbor ${this.#shown} refused: ${reason}`);
    this.#socket.destroy();
  }
}

/** This server's connection to a neighbor: what is known, then what is new. */
export class Link {
  #herd;
  #neighbor;
  #socket;
  #isUp = false;
  #isStopped = false;
  #delay = FIRST_DELAY;
  #timer;

  /**
   * @param {import('./herd.js').Herd} herd
   * @param {import('./topology.js').Server} neighbor
   */
  constructor(herd, neighbor) {
    this.#herd = herd;
    this.#neighbor = neighbor;
    this.#connect();
  }

  /** Name of the neighbor. */
  get name() {
    return this.#neighbor.name;
  }

  /** Sends lines, if the neighbor is there; if not, it gets them when it is. */
  send(lines) {
    if (!this.#isUp) return;
    this.#socket.write(lines, 'latin1');
    this.#logSent(lines);
    if (this.#socket.writableLength > MAX_UNSENT) this.#socket.destroy();
  }

  /** Ends it for good. */
  stop() {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    this.#socket.end();
    this.#socket.unref();
  }

  #connect() {
    const { host, port } = this.#neighbor.peers;
    this.#socket = connect({ host, port, noDelay: true });
    this.#socket.on('connect', () => this.#up());
    this.#socket.on('error', (error) => this.#herd.log?.info(`neighbor ${this.name}: ${error.message}`));
    this.#socket.on('close', () => this.#down());
    this.#socket.resume(); // It says nothing; reading finds out when it is gone.
  }

  #up() {
    this.#herd.log?.info(`neighbor ${this.name} connected`);
    this.#delay = FIRST_DELAY;
    this.#socket.write(`SERVER ${this.#herd.me.name}\n`, 'latin1');
    this.#isUp = true;
    Readable.from(this.#records(), { objectMode: false }).pipe(this.#socket, { end: false });
  }

  /** All records; the neighbor keeps what is new to it. */
  *#records() {
    let lines = [];
    for (const line of this.#herd.records.lines()) {
      lines.push(line);
      if (lines.length === CATCH_UP_RECORDS) {
        yield Buffer.from(lines.join(''), 'latin1');
        lines = [];
      }
    }
    yield Buffer.from(lines.join(''), 'latin1');
  }

  #down() {
    if (this.#isUp) this.#herd.log?.info(`neighbor ${this.name} lost`);
    this.#isUp = false;
    if (this.#isStopped) return;
    this.#timer = setTimeout(() => this.#connect(), this.#delay);
    this.#delay = Math.min(2 * this.#delay, LAST_DELAY);
  }

  #logSent(lines) {
    if (!this.#herd.log) return;
    for (const line of lines.split('\n').slice(0, -1)) this.#herd.log.info(`neighbor ${this.name} < ${printable(line)}`);
  }
}
