'use strict';

/**
 * Client of a herd: reports where clients are, asks where they are, and watches them move.
 *
 * Needs Node 18 and nothing else. One file: copy it into a project. It is a CommonJS module, since a single `.js` file
 * without a `package.json` is one, and since both `require` and `import` load it.
 *
 *     const { Herd } = require('./herd.js');        // or: import { Herd } from './herd.js';
 *
 *     const herd = new Herd(['127.0.0.1:12000', '127.0.0.1:12001']);
 *     await herd.report('kiwi.cs.ucla.edu', 34.06893, -118.445127);
 *     for (const { km, record } of await herd.nearby('kiwi.cs.ucla.edu', 10, 5)) console.log(km, record.client);
 *     for await (const event of herd.watchArea(34.07, -118.45, 5)) console.log(event.kind, event.client);
 *
 * A call uses any server of the list. When that one fails, is stopping or can't serve, the call goes on at the next,
 * until `timeout`: everything that a `Herd` sends may be sent twice. Errors are `RefusedError` (a server, or the
 * library itself, refuses the command: the subclass and `code` say why) and `UnavailableError` (no server answered).
 * Calls made while others wait share the connection without waiting for them.
 *
 * Times are BigInts: nanoseconds since 1970. A number can't hold one, so none is taken or returned. Texts are kept as
 * they were reported (`locationText`, `timeText`), and `reportText` sends texts as they are.
 *
 * Client ids are any 1 to 255 bytes without white space: a string is sent as UTF-8, a Uint8Array as it is. An id that
 * is returned is a string if it is UTF-8, else a Buffer.
 *
 * @module herd
 */

const net = require('node:net');

/**
 * @typedef {string | Uint8Array} ClientId
 * @typedef {{ client: ClientId, lat: number, lon: number, timeNs?: bigint }} Report A report for `reportMany`; without
 *     `timeNs`, nanoseconds since 1970, its time is now.
 * @typedef {object} Receipt Answer to a report.
 * @property {Record} record The client's record after the report.
 * @property {boolean} current True if `record` is this report: it was stored now, or by an earlier attempt whose answer
 *     was lost. False if the herd had a report that is not older; then nothing was changed.
 * @typedef {{ km: number, record: Record }} Near A client that is near.
 * @typedef {{ record: Record, answer: any }} Places Places near a client, in the shape of a Google Places Nearby Search
 *     answer.
 * @typedef {{ client: string | Buffer, server: string, timeNs: bigint }} Forgot A client that was forgotten; reports up
 *     to `timeNs` are refused from now on.
 * @typedef {object} Event A change that a `Watcher` tells.
 * @property {'inside' | 'settled' | 'enter' | 'move' | 'leave' | 'gone'} kind
 *     `inside`: a client is there as the watch begins; `settled`: all clients that were there have been told, `total`
 *     is their number, once for each watch; `enter`: a client has come into the area; `move`: a client has reported
 *     again, inside the area (for the watch of a client, anywhere); `leave`: a client is in the area no more, `record`
 *     is its report from outside, or its last one inside where the watcher was without a server meanwhile; `gone`: a
 *     client was forgotten or has expired, `record` is the last one known.
 * @property {string} watch Name of the watch.
 * @property {string | Buffer} [client]
 * @property {Record} [record]
 * @property {number} [total]
 * @typedef {object} Settings
 * @property {Address[]} servers
 * @property {string | null} token
 * @property {number} timeout
 * @property {number} connectTimeout
 * @property {number} replyTimeout
 * @property {number} maxAttempts
 * @typedef {{ host: string, port: number, text: string }} Address
 */

const NS = 1_000_000_000n;
// Of a location that is made from numbers: a ten-thousandth of a millimeter, which fits into a location's 40 bytes.
const DECIMALS = 12;
const MAX_ID_BYTES = 255;
const MAX_NAME_BYTES = 64;
// A reply of a server is far below it.
const MAX_REPLY_BYTES = 16 << 20;
// Unread bytes beyond which a connection reads no more until its lines are taken.
const READ_BYTES = 64 << 10;
// Commands of a connection that are sent and not answered.
const WINDOW = 256;
// Pause before a further round over all servers, in milliseconds; half of it and more is random.
const FIRST_PAUSE = 50;
const LONGEST_PAUSE = 1_000;
// A clock that is set back by less is followed by times that go on rising.
const STEP_BACK_NS = 60n * NS;

// --- Errors ----------------------------------------------------------------------------------------------------------

/** Base of all errors of this module. */
class HerdError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
    /**
     * Results of `reportMany`, as far as they came: `null` for reports whose answer did not arrive.
     * @type {(Receipt | RefusedError | null)[] | undefined}
     */
    this.results = undefined;
  }
}

/** No server answered in time. `reasons` says for each server that was tried why it did not. */
class UnavailableError extends HerdError {
  /**
   * @param {string} text
   * @param {Map<string, string>} [reasons]
   */
  constructor(text, reasons = new Map()) {
    super([text, ...[...reasons].map(([server, why]) => `${server}: ${why}`)].join('; '));
    this.reasons = new Map(reasons);
  }
}

/**
 * A command that can't be carried out, as the server's `ERR` line or this library says. `code` is stable and upper
 * case. An error with a code that this version does not know is of this class itself.
 */
class RefusedError extends HerdError {
  /**
   * @param {string} code
   * @param {string} text
   */
  constructor(code, text) {
    super(text ? `${code}: ${text}` : code);
    this.code = code;
    this.text = text;
    /**
     * Name of the watch that is refused, for errors of a `Watcher`.
     * @type {string | undefined}
     */
    this.watch = undefined;
  }
}

/** A wrong field or command: `SYNTAX`, `CLIENT`, `LOCATION`, `TIME`, `RADIUS`, `BOUND`, `NAME`, `LONG`. */
class InvalidError extends RefusedError {}
/** `AHEAD`: the report's time is over 300 s ahead of the server's clock. */
class AheadError extends RefusedError {}
/** `FORGOTTEN`: the report is not newer than the moment at which its client was forgotten. */
class ForgottenError extends RefusedError {}
/** `UNKNOWN`: no such client at this server, or no such watch. */
class UnknownError extends RefusedError {}
/** `FULL`: the herd holds as many clients as it may. */
class FullError extends RefusedError {}
/** `UNWRITABLE`: no server that was asked can write its journal now. */
class UnwritableError extends RefusedError {}
/** `REMOVED`: no server that was asked is still part of the herd. */
class RemovedError extends RefusedError {}
/** `STARTING`: no server that was asked has caught up yet. */
class StartingError extends RefusedError {}
/** `DENIED`: the token does not allow it. */
class DeniedError extends RefusedError {}
/** `BUSY`: a limit of the connection or the server. */
class BusyError extends RefusedError {}

/** @type {Map<string, typeof RefusedError>} */
const ERRORS = new Map([
  ...['SYNTAX', 'CLIENT', 'LOCATION', 'TIME', 'RADIUS', 'BOUND', 'NAME', 'LONG'].map(
    (code) => /** @type {[string, typeof RefusedError]} */ ([code, InvalidError]),
  ),
  ['AHEAD', AheadError],
  ['FORGOTTEN', ForgottenError],
  ['UNKNOWN', UnknownError],
  ['FULL', FullError],
  ['UNWRITABLE', UnwritableError],
  ['REMOVED', RemovedError],
  ['STARTING', StartingError],
  ['DENIED', DeniedError],
  ['BUSY', BusyError],
]);
// Reasons of one server; another may carry the command out.
const ELSEWHERE = new Set(['UNWRITABLE', 'REMOVED', 'STARTING']);

/** A server or a connection that can't be used, and why. Ends an attempt, never a call. */
class LostError extends Error {}

/**
 * Returns the error of an `ERR CODE text` line.
 * @param {string} line
 */
function refusal(line) {
  const [, code, text = ''] = /^ERR (\S+) ?(.*)$/.exec(line) ?? [];
  if (code === undefined) throw malformed(line);
  return new (ERRORS.get(code) ?? RefusedError)(code, utf8(text));
}

/** @param {string} line */
function malformed(line) {
  return new LostError(`unexpected reply: ${JSON.stringify(line.slice(0, 80))}`);
}

// --- Values ----------------------------------------------------------------------------------------------------------

/** A client's newest report, as the herd holds it. */
class Record {
  /** @param {string[]} fields Those of `AT server difference client location time`. */
  constructor(fields) {
    const [, server, difference, client, location, time] = fields;
    /** @type {string | Buffer} */
    this.client = decoded(client);
    /** Name of the server that took the report. */
    this.server = server;
    /** Location as it was reported, such as `+34.068930-118.445127`. */
    this.locationText = location;
    /** Time as it was reported: POSIX seconds, such as `1479413884.392014450`. */
    this.timeText = time;
    /** The server's time of receipt less the report's time, in seconds with nine decimals. */
    this.differenceText = difference;
  }

  /** Latitude in degrees. */
  get lat() {
    return Number(this.locationText.slice(0, cut(this.locationText)));
  }

  /** Longitude in degrees. */
  get lon() {
    return Number(this.locationText.slice(cut(this.locationText)));
  }

  /** Time of the report in nanoseconds since 1970. */
  get timeNs() {
    return nanoseconds(this.timeText);
  }

  /** Time of receipt by `server` in nanoseconds since 1970. */
  get receivedNs() {
    return nanoseconds(this.timeText) + nanoseconds(this.differenceText);
  }
}

/**
 * Returns where the longitude of a location begins.
 * @param {string} location
 */
function cut(location) {
  return Math.max(location.lastIndexOf('+'), location.lastIndexOf('-'));
}

/**
 * Returns decimal seconds with at most nine decimals as nanoseconds.
 * @param {string} text
 */
function nanoseconds(text) {
  const parts = /^([+-]?)(\d+)(?:\.(\d{0,9}))?$/.exec(text);
  if (!parts) throw new LostError(`not a time: ${text}`);
  const size = BigInt(parts[2]) * NS + BigInt((parts[3] ?? '').padEnd(9, '0'));
  return parts[1] === '-' ? -size : size;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// Lines are strings with a character for each byte, so that ids of any bytes are kept.

/**
 * @param {string} bytes
 * @returns {string | Buffer}
 */
function decoded(bytes) {
  const buffer = Buffer.from(bytes, 'latin1');
  try {
    return strict.decode(buffer);
  } catch {
    return buffer;
  }
}

/** @param {string} bytes */
function utf8(bytes) {
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

/**
 * @param {string} line
 * @returns {string[]}
 */
function atFields(line) {
  const fields = line.split(' ');
  if (fields.length !== 6 || (fields[0] !== 'AT' && fields[0] !== 'OLD')) throw malformed(line);
  return fields;
}

/** @param {string} line */
function recordOf(line) {
  return new Record(atFields(line));
}

/**
 * @param {string} line
 * @param {string} client
 */
function recordOfClient(line, client) {
  const fields = atFields(line);
  if (fields[3] !== client) throw malformed(line);
  return new Record(fields);
}

// --- Fields of commands ----------------------------------------------------------------------------------------------

/**
 * Returns a field's bytes. One that would be read as several, or as none, must not be sent.
 * @param {string} code
 * @param {ClientId} value
 * @param {number} limit
 */
function field(code, value, limit) {
  let bytes;
  if (typeof value === 'string') {
    bytes = Buffer.from(value, 'utf8').toString('latin1');
    if (utf8(bytes) !== value) throw new InvalidError(code, "can't be written as UTF-8; pass bytes");
  } else if (value instanceof Uint8Array) {
    bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('latin1');
  } else {
    throw new TypeError(`${code.toLowerCase()}: string or Uint8Array expected, not ${typeof value}`);
  }
  if (bytes.length < 1 || bytes.length > limit || /[ \t\r\n\f\v]/.test(bytes)) {
    throw new InvalidError(
      code,
      `${JSON.stringify(bytes.slice(0, 80))} is not 1 to ${limit} bytes without white space`,
    );
  }
  return bytes;
}

/** @param {ClientId} client */
function clientField(client) {
  return field('CLIENT', client, MAX_ID_BYTES);
}

/**
 * @param {number} value
 * @param {number} limit
 * @param {string} what
 */
function coordinate(value, limit, what) {
  if (typeof value !== 'number') throw new TypeError(`${what}: number expected, not ${typeof value}`);
  if (!(value >= -limit && value <= limit)) {
    throw new InvalidError('LOCATION', `${what} ${value} is not from -${limit} to ${limit}`);
  }
  let text = String(value);
  if (text.includes('e') || text.length - text.indexOf('.') - 1 > DECIMALS) text = value.toFixed(DECIMALS);
  return text.startsWith('-') ? text : `+${text}`;
}

/**
 * @param {number} lat
 * @param {number} lon
 */
function locationField(lat, lon) {
  return coordinate(lat, 90, 'latitude') + coordinate(lon, 180, 'longitude');
}

/** @param {number} radiusKm */
function radiusField(radiusKm) {
  if (typeof radiusKm !== 'number') throw new TypeError(`radius: number expected, not ${typeof radiusKm}`);
  if (!(radiusKm >= 0 && radiusKm < 1e9)) throw new InvalidError('RADIUS', `${radiusKm} is not a number of kilometers`);
  return radiusKm.toFixed(6).replace(/\.?0+$/, '');
}

/** @param {number} limit */
function boundField(limit) {
  if (!Number.isSafeInteger(limit) || limit < 0) throw new InvalidError('BOUND', `${limit} is not a number of clients`);
  return String(limit);
}

/** @param {bigint} timeNs */
function timeField(timeNs) {
  // A number of seconds or milliseconds is the mistake that this is for.
  if (typeof timeNs !== 'bigint') throw new TypeError(`timeNs: bigint (nanoseconds) expected, not ${typeof timeNs}`);
  if (timeNs < 0n) throw new InvalidError('TIME', `${timeNs} is before 1970`);
  return `${timeNs / NS}.${String(timeNs % NS).padStart(9, '0')}`;
}

// A field that `NEARBY` takes as a location.
const LOCATION = /^[+-]\d+(\.\d+)?[+-]\d+(\.\d+)?$/;

// --- Connections -----------------------------------------------------------------------------------------------------

/**
 * Opens the byte stream to a server; all connections are made here.
 * @param {string} host
 * @param {number} port
 * @returns {net.Socket} Emits `connect` once it is open.
 */
function openSocket(host, port) {
  return net.connect({ host, port, noDelay: true, keepAlive: true });
}

/**
 * @param {string} text
 * @returns {Address}
 */
function parseAddress(text) {
  const parts = /^(?:\[([^\]]+)\]|(.+)):(\d{1,5})$/.exec(text);
  const port = Number(parts?.[3]);
  if (!parts || port < 1 || port > 65_535) {
    throw new TypeError(`${JSON.stringify(text)} is not host:port, such as 127.0.0.1:12000 or [::1]:12000`);
  }
  return { host: parts[1] ?? parts[2], port, text };
}

/** A connection that speaks the second dialect. */
class Connection {
  /** @type {net.Socket} */
  #socket;
  // Bytes from `#begin` to `#end` are unread; there is no line feed before `#searched`. A buffer and not a string:
  // lines cut from a string would keep all of it in memory.
  #buffer = Buffer.alloc(READ_BYTES);
  #begin = 0;
  #searched = 0;
  #end = 0;
  /** @type {string | null} */
  #lost = null;
  /** @type {((what: 'data' | 'woken' | 'timeout') => void) | null} */
  #waiter = null;
  #corked = false;

  /** @param {Address} address */
  constructor(address) {
    this.address = address;
    this.server = '';
    this.#socket = openSocket(address.host, address.port);
    this.#socket.on('data', (chunk) => {
      this.#append(chunk);
      if (this.#end - this.#begin > READ_BYTES) this.#socket.pause();
      this.#awaken('data');
    });
    this.#socket.on('connect', () => this.#awaken('data'));
    this.#socket.on('error', (/** @type {NodeJS.ErrnoException} */ error) => this.#lose(error.code ?? error.message));
    this.#socket.on('end', () => this.#lose('closed by the server'));
    this.#socket.on('close', () => this.#lose('closed'));
  }

  /**
   * Connects, changes to the second dialect, and authenticates.
   * @param {Address} address
   * @param {Settings} settings
   */
  static async open(address, settings) {
    const connection = new Connection(address);
    try {
      if ((await connection.readable(settings.connectTimeout)) === 'timeout') throw new LostError('no answer in time');
      connection.send('HELLO 2\n');
      const line = await connection.#line(settings.replyTimeout);
      const words = line.split(' ');
      if (words[0] !== 'HELLO' || words[1] !== '2' || words.length !== 4) {
        throw new LostError(line === '? server full' ? 'too many clients' : `no second dialect: ${utf8(line)}`);
      }
      connection.server = utf8(words[2]);
      if (settings.token !== null) {
        // Not before the server has shown that it would take it.
        connection.send(`AUTH ${settings.token}\n`);
        const welcome = await connection.#line(settings.replyTimeout);
        if (welcome.startsWith('ERR ')) throw refusal(welcome);
        if (!welcome.startsWith('WELCOME ')) throw malformed(welcome);
      }
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** @param {number} wait */
  async #line(wait) {
    for (;;) {
      const line = this.bufferedLine();
      if (line !== null) return line;
      if ((await this.readable(wait)) === 'timeout') throw new LostError('no answer in time');
    }
  }

  /** @param {string} data */
  send(data) {
    // All that one turn of the event loop sends leaves in one write.
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(data, 'latin1');
  }

  /** Returns the next line, without its ending, if it has arrived, else null. */
  bufferedLine() {
    const at = this.#buffer.subarray(0, this.#end).indexOf(10, this.#searched);
    if (at < 0) {
      this.#searched = this.#end;
      if (this.#end - this.#begin > MAX_REPLY_BYTES) throw new LostError('a line without an end');
      return null;
    }
    const line = this.#buffer.toString('latin1', this.#begin, at);
    this.#begin = this.#searched = at + 1;
    return line;
  }

  /** @param {Buffer} chunk */
  #append(chunk) {
    if (this.#end + chunk.length > this.#buffer.length) {
      const unread = this.#end - this.#begin;
      // Doubled where more than half is unread, so that a long line is not copied for each chunk.
      const size = Math.max(this.#buffer.length, 2 * unread, unread + chunk.length);
      const target = size > this.#buffer.length ? Buffer.alloc(size) : this.#buffer;
      this.#buffer.copy(target, 0, this.#begin, this.#end);
      this.#buffer = target;
      this.#searched -= this.#begin;
      this.#begin = 0;
      this.#end = unread;
    }
    chunk.copy(this.#buffer, this.#end);
    this.#end += chunk.length;
  }

  /**
   * Waits until something has arrived (`data`), `wake` is called (`woken`), or it has taken `wait` milliseconds.
   * Rejects with `LostError` if nothing will come any more. To be called when `bufferedLine` has none.
   * @param {number} wait
   * @returns {Promise<'data' | 'woken' | 'timeout'>}
   */
  readable(wait) {
    if (this.#lost !== null) return Promise.reject(new LostError(this.#lost));
    this.#socket.resume();
    return new Promise((resolve, reject) => {
      // After a pause of the event loop, what has arrived meanwhile is seen before it is judged missing.
      const judge = () => setImmediate(() => this.#waiter === waiter && this.#awaken('timeout'));
      const timer = Number.isFinite(wait) ? setTimeout(judge, wait) : undefined;
      const waiter = (/** @type {'data' | 'woken' | 'timeout'} */ what) => {
        clearTimeout(timer);
        // The end of the stream wakes it too.
        if (this.#lost !== null && what !== 'data') reject(new LostError(this.#lost));
        else resolve(what);
      };
      this.#waiter = waiter;
    });
  }

  wake() {
    this.#awaken('woken');
  }

  /** @param {'data' | 'woken' | 'timeout'} what */
  #awaken(what) {
    const waiter = this.#waiter;
    this.#waiter = null;
    waiter?.(what);
  }

  /** @param {string} why */
  #lose(why) {
    this.#lost ??= why;
    this.#awaken('woken');
  }

  get isLost() {
    return this.#lost !== null;
  }

  close() {
    this.#lose('closed');
    this.#socket.destroy();
  }
}

/** The server that is next, and the pause before it: none until all have failed, then longer each round. */
class Rotation {
  /** @type {Map<string, string>} */
  reasons = new Map();
  failures = 0;

  /**
   * @param {Address[]} servers
   * @param {number} index
   */
  constructor(servers, index) {
    this.servers = servers;
    this.index = index;
  }

  get address() {
    return this.servers[this.index];
  }

  reset() {
    if (this.failures === 0) return;
    this.failures = 0;
    this.reasons.clear();
  }

  /** @param {string} why */
  failed(why) {
    this.reasons.set(this.address.text, why);
    this.failures += 1;
    this.index = (this.index + 1) % this.servers.length;
  }

  /** @returns {number} Milliseconds. */
  pause() {
    const rounds = Math.floor(this.failures / this.servers.length);
    if (rounds === 0 || this.failures % this.servers.length !== 0) return 0;
    return Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (rounds - 1)) * (0.5 + Math.random() / 2);
  }
}

/** Commands on a connection, and their replies in the same order. */
class Pipeline {
  /** @type {Connection} */
  #connection;
  /** @type {{ several: boolean, resolve: (lines: string[]) => void, reject: (error: Error) => void }[]} */
  #due = [];
  /** @type {(() => void)[]} Commands that wait for a place in the window. */
  #waiting = [];
  #replyTimeout;
  #onEnd;
  #retired = false;

  /**
   * @param {Connection} connection
   * @param {number} replyTimeout
   * @param {(pipeline: Pipeline, why: string, owed: boolean) => void} onEnd Is called when it can't be used any more,
   *     with whether a reply was due.
   */
  constructor(connection, replyTimeout, onEnd) {
    this.#connection = connection;
    this.#replyTimeout = replyTimeout;
    this.#onEnd = onEnd;
    this.#read();
  }

  get server() {
    return this.#connection.server;
  }

  /** Takes commands. */
  get usable() {
    return !this.#retired && !this.#connection.isLost;
  }

  /**
   * Sends a command. Rejects with `RefusedError` or `LostError`.
   * @param {string} line
   * @param {boolean} several Its reply is lines up to an empty one.
   * @returns {Promise<string[]>}
   */
  ask(line, several) {
    return new Promise((resolve, reject) => {
      const send = () => {
        if (this.#connection.isLost) return reject(new LostError('closed'));
        this.#due.push({ several, resolve, reject });
        this.#connection.send(line);
        // The reader waits with another time limit from now on.
        if (this.#due.length === 1) this.#connection.wake();
      };
      if (this.#due.length < WINDOW) send();
      else this.#waiting.push(send);
    });
  }

  /** Takes no more commands, and closes once those that were sent are answered. */
  retire() {
    this.#retired = true;
    this.#connection.wake();
  }

  close() {
    this.#connection.close();
  }

  async #read() {
    /** @type {string[]} */
    let lines = [];
    let size = 0;
    try {
      for (;;) {
        const line = this.#connection.bufferedLine();
        if (line === null) {
          if (this.#retired && this.#due.length === 0) throw new LostError('closed');
          const wait = this.#due.length > 0 ? this.#replyTimeout : Infinity;
          if ((await this.#connection.readable(wait)) === 'timeout') throw new LostError('no answer in time');
          continue;
        }
        const first = this.#due[0];
        if (first === undefined) throw malformed(line);
        const refused = lines.length === 0 && line.startsWith('ERR ');
        if (first.several && line !== '' && !refused) {
          lines.push(line);
          size += line.length;
          if (size > MAX_REPLY_BYTES) throw new LostError('a reply without an end');
          continue;
        }
        const error = refused ? refusal(line) : null;
        this.#due.shift();
        if (error !== null) first.reject(error);
        else first.resolve(first.several ? lines : [line]);
        lines = [];
        size = 0;
        if (this.#due.length < WINDOW) this.#waiting.shift()?.();
      }
    } catch (error) {
      const lost = error instanceof LostError ? error : new LostError(String(error));
      const due = this.#due;
      this.#connection.close();
      this.#onEnd(this, lost.message, due.length > 0);
      this.#due = [];
      for (const { reject } of due) reject(lost);
      // They see that it is lost.
      for (const send of this.#waiting) send();
    }
  }
}

/**
 * Waits for a promise, at most until a time of `performance.now`; then rejects with `LostError`.
 * @template T
 * @param {number} deadline
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
function before(deadline, promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new LostError('no answer in time')),
      Math.max(0, deadline - performance.now()),
    );
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** @param {number} ms */
function sleep(ms) {
  return ms > 0 ? new Promise((resolve) => setTimeout(resolve, ms)) : Promise.resolve();
}

// --- Herd ------------------------------------------------------------------------------------------------------------

/**
 * A herd, reached through any of its servers. Connects at the first call. Keeps the process alive until `close`.
 */
class Herd {
  /** @type {Settings} */
  #settings;
  /** @type {Rotation} */
  #rotation;
  /** @type {Pipeline | null} */
  #pipeline = null;
  /** @type {Promise<Pipeline> | null} */
  #opening = null;
  #lastTime = 0n;
  #closed = false;

  /**
   * @param {string[]} servers Client addresses, `host:port`.
   * @param {object} [options]
   * @param {string | null} [options.token] Is sent to each server (`AUTH`).
   * @param {number} [options.timeout] Milliseconds that a call may take in all, with everything that it tries.
   * @param {number} [options.connectTimeout] Milliseconds to connect to one server.
   * @param {number} [options.replyTimeout] Milliseconds without a byte after which a server that owes a reply is given
   *     up.
   * @param {number} [options.maxAttempts] Attempts of a call at most.
   * @param {boolean} [options.shuffle] Begins at a random server, so that clients spread; otherwise at the first.
   */
  constructor(servers, options = {}) {
    if (!Array.isArray(servers) || servers.length === 0) {
      throw new TypeError('servers: an array with at least one host:port is needed');
    }
    const {
      token = null,
      timeout = 15_000,
      connectTimeout = 3_000,
      replyTimeout = 5_000,
      maxAttempts = 32,
      shuffle = true,
    } = options;
    this.#settings = {
      servers: servers.map(parseAddress),
      token: token === null ? null : field('DENIED', token, 4_000),
      timeout,
      connectTimeout,
      replyTimeout,
      maxAttempts: Math.max(1, maxAttempts),
    };
    this.#rotation = new Rotation(this.#settings.servers, shuffle ? Math.floor(Math.random() * servers.length) : 0);
  }

  // --- Reports ---

  /**
   * Reports where a client is. Numbers are written with the digits that tell them apart, at most 12 decimals.
   * @param {ClientId} client
   * @param {number} lat Degrees.
   * @param {number} lon Degrees.
   * @param {bigint} [timeNs] Nanoseconds since 1970; now, if it is left out.
   * @returns {Promise<Receipt>}
   */
  async report(client, lat, lon, timeNs) {
    return this.#report(...this.#reportFields({ client, lat, lon, timeNs }));
  }

  /**
   * Reports a location such as `+34.068930-118.445127` at a time in POSIX seconds with up to nine decimals, both kept
   * as they are written.
   * @param {ClientId} client
   * @param {string} location
   * @param {string} time
   * @returns {Promise<Receipt>}
   */
  async reportText(client, location, time) {
    return this.#report(clientField(client), field('LOCATION', location, 4_000), field('TIME', time, 4_000));
  }

  /**
   * Sends many reports without waiting for each answer.
   *
   * Resolves to a result for each, in their order: its `Receipt`, or the `RefusedError` (which is not thrown) that
   * tells why it was not taken. Where no server answers, the error's `results` has the answers that did arrive.
   * @param {Iterable<Report> | AsyncIterable<Report>} reports
   * @returns {Promise<(Receipt | RefusedError)[]>}
   */
  async reportMany(reports) {
    /** @type {(Receipt | RefusedError | null)[]} */
    const results = [];
    /** @type {HerdError | null} */
    let failure = null;
    let open = 0;
    let limit = WINDOW;
    /** @type {(() => void) | null} */
    let below = null;
    // Waits until fewer reports than `limit` are open.
    const room = () => (open < limit ? undefined : new Promise((resolve) => (below = () => resolve(undefined))));
    for await (const report of reports) {
      const at = results.push(null) - 1;
      let fields;
      try {
        fields = this.#reportFields(report);
      } catch (error) {
        if (!(error instanceof InvalidError)) throw error;
        results[at] = error;
        continue;
      }
      open += 1;
      this.#report(...fields)
        .then(
          (receipt) => (results[at] = receipt),
          (error) => {
            if (error instanceof RefusedError && !ELSEWHERE.has(error.code)) results[at] = error;
            else failure ??= error;
          },
        )
        .finally(() => {
          open -= 1;
          if (open < limit) below?.();
        });
      if (open >= WINDOW) {
        // Refilled when half of it is answered, so that many reports share a write.
        limit = WINDOW / 2;
        await room();
        limit = WINDOW;
      }
      if (failure !== null) break;
    }
    limit = 1;
    await room();
    if (failure !== null) {
      /** @type {HerdError} */ (failure).results = results;
      throw failure;
    }
    return /** @type {(Receipt | RefusedError)[]} */ (results);
  }

  /**
   * Has the herd forget a client, known here or not. A report with a later time revives it.
   * @param {ClientId} client
   * @returns {Promise<Forgot>}
   */
  async forget(client) {
    const id = clientField(client);
    return this.#call(`FORGET ${id}\n`, false, ([line]) => {
      const words = line.split(' ');
      if (words.length !== 4 || words[0] !== 'FORGOT' || words[2] !== id) throw malformed(line);
      return { client: decoded(id), server: words[1], timeNs: nanoseconds(words[3]) };
    });
  }

  // --- Questions ---

  /**
   * Returns a client's record; rejects with `UnknownError`.
   * @param {ClientId} client
   * @returns {Promise<Record>}
   */
  async where(client) {
    const id = clientField(client);
    return this.#call(`WHERE ${id}\n`, false, ([line]) => recordOfClient(line, id));
  }

  /**
   * Returns the clients within a radius, nearest first.
   * @param {ClientId | { lat: number, lon: number }} center A client is left out; rejects with `UnknownError` for an
   *     unknown one.
   * @param {number} radiusKm
   * @param {number} [limit] 1 to 1,000.
   * @returns {Promise<Near[]>}
   */
  async nearby(center, radiusKm, limit = 20) {
    let where;
    if (typeof center === 'string' || center instanceof Uint8Array) {
      where = clientField(center);
      if (LOCATION.test(where)) {
        throw new InvalidError('CLIENT', `${where} would be taken as a location; ask with { lat, lon }`);
      }
    } else {
      where = locationField(center.lat, center.lon);
    }
    const line = `NEARBY ${where} ${radiusField(radiusKm)} ${boundField(limit)}\n`;
    return this.#call(line, true, (lines) =>
      lines.map((near) => {
        const parts = /^NEAR (\d+(?:\.\d+)?) (AT .*)$/.exec(near);
        if (!parts) throw malformed(near);
        return { km: Number(parts[1]), record: recordOf(parts[2]) };
      }),
    );
  }

  /**
   * Returns the clients in a box of degrees, in no order, at most `limit` (1 to 1,000): that many may not be all.
   * `west > east` is a box across the 180th meridian.
   * @param {number} south
   * @param {number} west
   * @param {number} north
   * @param {number} east
   * @param {number} [limit]
   * @returns {Promise<Record[]>}
   */
  async within(south, west, north, east, limit = 1_000) {
    const line = `WITHIN ${locationField(south, west)} ${locationField(north, east)} ${boundField(limit)}\n`;
    return this.#call(line, true, (lines) => lines.map(recordOf));
  }

  /**
   * Returns what is near a client: at most `limit` (0 to 20) places within a radius of 0 to 50 km.
   * @param {ClientId} client
   * @param {number} radiusKm
   * @param {number} limit
   * @returns {Promise<Places>}
   */
  async whatsat(client, radiusKm, limit) {
    const id = clientField(client);
    return this.#call(`WHATSAT ${id} ${radiusField(radiusKm)} ${boundField(limit)}\n`, true, ([line, ...text]) => ({
      record: recordOfClient(line, id),
      answer: JSON.parse(utf8(text.join('\n'))),
    }));
  }

  /**
   * Returns the milliseconds that a round trip to the server took.
   * @returns {Promise<number>}
   */
  async ping() {
    let began = performance.now();
    return this.#call(
      'PING\n',
      false,
      ([line]) => {
        if (line !== 'PONG') throw malformed(line);
        return performance.now() - began;
      },
      // Connecting is not part of it.
      () => (began = performance.now()),
    );
  }

  // --- Watches ---

  /**
   * Returns a `Watcher` on a connection of its own, without watches as yet: see its `addArea` and `addClient`.
   * @param {WatchOptions} [options]
   * @returns {Watcher}
   */
  watch(options = {}) {
    return new Watcher(this.#settings, this.#rotation.index, options);
  }

  /**
   * Returns a `Watcher` of an area.
   * @param {number} lat
   * @param {number} lon
   * @param {number} radiusKm
   * @param {WatchOptions & { name?: string }} [options]
   * @returns {Watcher}
   */
  watchArea(lat, lon, radiusKm, options = {}) {
    const watcher = this.watch(options);
    watcher.addArea(lat, lon, radiusKm, options.name);
    return watcher;
  }

  /**
   * Returns a `Watcher` of a client, known as yet or not.
   * @param {ClientId} client
   * @param {WatchOptions & { name?: string }} [options]
   * @returns {Watcher}
   */
  watchClient(client, options = {}) {
    const watcher = this.watch(options);
    watcher.addClient(client, options.name);
    return watcher;
  }

  // --- Calls ---

  /**
   * Name of the server that calls use, while there is a connection.
   * @returns {string | null}
   */
  get server() {
    return this.#pipeline?.server ?? null;
  }

  /** Closes the connection; calls that wait, and later ones, reject with `UnavailableError`. */
  close() {
    this.#closed = true;
    this.#pipeline?.close();
  }

  /**
   * @param {Report} report
   * @returns {[string, string, string]}
   */
  #reportFields({ client, lat, lon, timeNs }) {
    // The time is read once, so that a report that is sent again is the same report.
    return [clientField(client), locationField(lat, lon), timeField(timeNs ?? this.#now())];
  }

  /** Returns the time, always later than the last, so that no report loses against the one before it. */
  #now() {
    let now = BigInt(Date.now()) * 1_000_000n;
    if (now <= this.#lastTime && this.#lastTime < now + STEP_BACK_NS) now = this.#lastTime + 1n;
    this.#lastTime = now;
    return now;
  }

  /**
   * @param {string} client
   * @param {string} location
   * @param {string} time
   * @returns {Promise<Receipt>}
   */
  #report(client, location, time) {
    return this.#call(`IAMAT ${client} ${location} ${time}\n`, false, ([line]) => {
      const fields = atFields(line);
      // OLD with this very report: an attempt before this one has stored it.
      const current = fields[4] === location && nanoseconds(fields[5]) === nanoseconds(time);
      if (fields[3] !== client || (fields[0] === 'AT' && !current)) throw malformed(line);
      return { record: new Record(fields), current };
    });
  }

  /**
   * Sends a command, again to another server as long as servers fail, and returns what `parse` makes of its reply.
   * @template T
   * @param {string} line
   * @param {boolean} several
   * @param {(lines: string[]) => T} parse
   * @param {() => void} [onSend]
   * @returns {Promise<T>}
   */
  async #call(line, several, parse, onSend) {
    const deadline = performance.now() + this.#settings.timeout;
    for (let attempt = 1; ; attempt += 1) {
      if (this.#closed) throw new UnavailableError('this Herd is closed');
      /** @type {Pipeline | null} */
      let pipeline = null;
      let failure;
      try {
        pipeline = this.#pipeline?.usable ? this.#pipeline : await before(deadline, this.#open());
        onSend?.();
        const lines = await before(deadline, pipeline.ask(line, several));
        try {
          const value = parse(lines);
          this.#rotation.reset();
          return value;
        } catch {
          failure = malformed(lines.join('\n'));
          this.#leave(pipeline, failure.message);
        }
      } catch (error) {
        if (error instanceof RefusedError) {
          if (!ELSEWHERE.has(error.code)) throw error;
          this.#leave(pipeline, error.message);
        } else if (!(error instanceof LostError)) {
          throw error;
        }
        failure = error;
      }
      if (attempt >= this.#settings.maxAttempts || performance.now() >= deadline) {
        if (failure instanceof RefusedError) throw failure;
        const reasons = new Map(this.#rotation.reasons);
        if (reasons.size === 0) reasons.set(this.#rotation.address.text, failure.message);
        throw new UnavailableError('no server answered', reasons);
      }
    }
  }

  /**
   * Goes on at another server; other calls on this one get their replies.
   * @param {Pipeline | null} pipeline
   * @param {string} why
   */
  #leave(pipeline, why) {
    if (pipeline === null || this.#pipeline !== pipeline) return;
    this.#pipeline = null;
    this.#rotation.failed(why);
    pipeline.retire();
  }

  /** One attempt to connect, shared by all calls that wait for it. */
  #open() {
    this.#opening ??= this.#connect().finally(() => (this.#opening = null));
    return this.#opening;
  }

  async #connect() {
    await sleep(this.#rotation.pause());
    let connection;
    try {
      connection = await Connection.open(this.#rotation.address, this.#settings);
    } catch (error) {
      if (error instanceof LostError) this.#rotation.failed(error.message);
      throw error;
    }
    if (this.#closed) {
      connection.close();
      throw new LostError('closed');
    }
    this.#pipeline = new Pipeline(connection, this.#settings.replyTimeout, (pipeline, why, owed) => {
      if (this.#pipeline !== pipeline) return;
      this.#pipeline = null;
      // One that was closed while it was not used is no fault of the server, which is asked again.
      if (owed) this.#rotation.failed(why);
    });
    return this.#pipeline;
  }
}

// --- Watches ---------------------------------------------------------------------------------------------------------

/**
 * @typedef {object} WatchOptions
 * @property {number} [patience] Milliseconds without any server after which its iterator throws `UnavailableError`
 *     (60,000); `Infinity`: never.
 * @property {number} [pingInterval] Milliseconds of silence after which it asks whether the server is still there
 *     (15,000).
 */

const PUSHES = new Set(['RESET', 'INSIDE', 'SETTLED', 'ENTER', 'MOVE', 'LEAVE', 'GONE']);

/** A watch, and what its caller was told. */
class Watch {
  /** @type {Map<string, string>} The `AT` lines of clients inside, by client. */
  known = new Map();
  /** @type {Set<string> | null} Clients inside that this server has told since its `RESET`; null outside a filling. */
  seen = null;
  /** Told of the first filling's end. */
  settled = false;
  /** The server has confirmed it on this connection. */
  confirmed = false;

  /**
   * @param {string} name
   * @param {string} fields
   * @param {boolean} isArea
   */
  constructor(name, fields, isArea) {
    this.name = name;
    this.nameField = field('NAME', name, MAX_NAME_BYTES);
    this.line = `WATCH ${this.nameField} ${fields}\n`;
    this.isArea = isArea;
  }

  /**
   * Applies a push and yields what of it is new.
   * @param {string} word
   * @param {string} rest
   * @returns {Generator<Event, void>}
   */
  *push(word, rest) {
    if (word === 'RESET') {
      this.seen = new Set();
    } else if (word === 'SETTLED') {
      yield* this.#settle();
    } else if (word === 'GONE') {
      this.seen?.delete(rest);
      const line = this.known.get(rest);
      if (line !== undefined) {
        this.known.delete(rest);
        yield this.#event('gone', line);
      }
    } else {
      yield* this.#located(word, rest);
    }
  }

  /**
   * @param {string} word
   * @param {string} line
   * @returns {Generator<Event, void>}
   */
  *#located(word, line) {
    const fields = atFields(line);
    const client = fields[3];
    const told = this.known.get(client);
    const leaves = word === 'LEAVE';
    // A server that is behind the one before it tells the past again, until it has caught up.
    const isPast = told !== undefined && nanoseconds(fields[5]) < nanoseconds(atFields(told)[5]);
    if (leaves && !isPast) this.seen?.delete(client);
    else this.seen?.add(client);
    if (isPast) return;
    if (leaves) {
      if (told === undefined) return;
      this.known.delete(client);
      yield this.#event('leave', line);
    } else if (told !== line) {
      this.known.set(client, line);
      if (told === undefined && word === 'INSIDE' && !this.settled) yield this.#event('inside', line);
      else yield this.#event(told === undefined && this.isArea ? 'enter' : 'move', line);
    }
  }

  /** @returns {Generator<Event, void>} */
  *#settle() {
    const seen = this.seen;
    if (seen === null) throw new LostError('SETTLED without RESET');
    this.seen = null;
    for (const [client, line] of this.known) {
      if (seen.has(client)) continue;
      this.known.delete(client);
      // A client does not leave a watch of itself: the server does not know it.
      yield this.#event(this.isArea ? 'leave' : 'gone', line);
    }
    if (!this.settled) {
      this.settled = true;
      yield { kind: 'settled', watch: this.name, total: this.known.size };
    }
  }

  /**
   * @param {Event['kind']} kind
   * @param {string} line
   * @returns {Event}
   */
  #event(kind, line) {
    const record = recordOf(line);
    return { kind, watch: this.name, client: record.client, record };
  }
}

/**
 * Watches on one connection, and the events that they tell: an async iterator that ends when it is closed, as by
 * `break`.
 *
 * When its connection is lost it goes on at another server, compares what is inside there with what it has told, and
 * yields only the difference. Events come as fast as they are taken: what is not taken waits at the server, which tells
 * of each client the newest alone. For a client inside, times never go back.
 *
 * Watches may be added and removed at any time. A watch that the server refuses is taken out, and its `RefusedError`
 * (with `watch`, the name) thrown by the iterator, which can be used further, as after `UnavailableError`.
 * @implements {AsyncIterableIterator<Event>}
 */
class Watcher {
  #settings;
  #rotation;
  #patience;
  #pingInterval;
  /** @type {Map<string, Watch>} By the bytes of their names. */
  #watches = new Map();
  /** @type {{ line: string, watch: Watch | null }[]} Commands not sent yet. */
  #commands = [];
  #named = 0;
  #closed = false;
  /** @type {Connection | null} */
  #connection = null;
  /** @type {(() => void) | null} */
  #endPause = null;
  #events;

  /**
   * Use `Herd.watch`.
   * @param {Settings} settings
   * @param {number} first
   * @param {WatchOptions} options
   */
  constructor(settings, first, { patience = 60_000, pingInterval = 15_000 }) {
    this.#settings = settings;
    this.#rotation = new Rotation(settings.servers, first);
    this.#patience = patience;
    this.#pingInterval = pingInterval;
    this.#events = this.#run();
  }

  // --- Watches ---

  /**
   * Watches the clients within a radius (over 0, up to 20,016 km).
   * @param {number} lat
   * @param {number} lon
   * @param {number} radiusKm
   * @param {string} [name]
   * @returns {string} The watch's name.
   */
  addArea(lat, lon, radiusKm, name) {
    return this.#add(name, `${locationField(lat, lon)} ${radiusField(radiusKm)}`, true);
  }

  /**
   * Watches a client, known as yet or not.
   * @param {ClientId} client
   * @param {string} [name]
   * @returns {string} The watch's name.
   */
  addClient(client, name) {
    return this.#add(name, clientField(client), false);
  }

  /**
   * Ends a watch; nothing more is told of it. Throws `UnknownError` if there is none of that name.
   * @param {string} name
   */
  remove(name) {
    const bytes = field('NAME', name, MAX_NAME_BYTES);
    if (!this.#watches.delete(bytes)) throw new UnknownError('UNKNOWN', `no watch ${name}`);
    this.#commands.push({ line: `UNWATCH ${bytes}\n`, watch: null });
    this.#wake();
  }

  /**
   * @param {string | undefined} name
   * @param {string} fields
   * @param {boolean} isArea
   */
  #add(name, fields, isArea) {
    if (this.#closed) throw new UnavailableError('this Watcher is closed');
    const watch = new Watch(name ?? this.#freeName(), fields, isArea);
    if (this.#watches.has(watch.nameField)) {
      throw new InvalidError('NAME', `there is a watch ${watch.name} already`);
    }
    this.#watches.set(watch.nameField, watch);
    this.#commands.push({ line: watch.line, watch });
    this.#wake();
    return watch.name;
  }

  #freeName() {
    let name;
    do {
      this.#named += 1;
      name = `watch-${this.#named}`;
    } while (this.#watches.has(name));
    return name;
  }

  // --- Events ---

  /**
   * Name of the server that tells the events; null without a connection.
   * @returns {string | null}
   */
  get server() {
    return this.#connection?.server ?? null;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<Event, void>>} */
  async next() {
    const result = await this.#events.next();
    if (result.value instanceof HerdError) throw result.value;
    return /** @type {IteratorResult<Event, void>} */ (result);
  }

  /** @returns {Promise<IteratorResult<Event, void>>} */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Ends the iterator, while it waits too, and its watches. */
  async close() {
    this.#closed = true;
    this.#wake();
    await this.#events.return();
  }

  #wake() {
    this.#connection?.wake();
    this.#endPause?.();
  }

  /**
   * Yields events, and errors that `next` throws.
   * @returns {AsyncGenerator<Event | HerdError, void>}
   */
  async *#run() {
    let lostSince = performance.now();
    while (!this.#closed) {
      try {
        const connection = await Connection.open(this.#rotation.address, this.#settings);
        try {
          this.#connection = connection;
          yield* this.#listen(connection);
        } finally {
          this.#connection = null;
          connection.close();
        }
      } catch (error) {
        if (!(error instanceof LostError || error instanceof RefusedError)) throw error;
        if (this.#rotation.failures === 0) lostSince = performance.now();
        this.#rotation.failed(error.message);
        if (error instanceof DeniedError) {
          yield error;
        } else if (performance.now() - lostSince >= this.#patience) {
          yield new UnavailableError('no server to watch at', this.#rotation.reasons);
          lostSince = performance.now();
        }
      }
      await this.#pause(this.#rotation.pause());
    }
  }

  /**
   * Waits, unless it is closed meanwhile.
   * @param {number} ms
   */
  async #pause(ms) {
    const end = performance.now() + ms;
    for (let left = ms; left > 0 && !this.#closed; left = end - performance.now()) {
      /** @type {NodeJS.Timeout | undefined} */
      let timer;
      await new Promise((resolve) => {
        timer = setTimeout(resolve, left);
        this.#endPause = () => resolve(undefined);
      });
      this.#endPause = null;
      clearTimeout(timer);
    }
  }

  /**
   * Yields the events of a connection until it is lost (`LostError`) or the watcher closed.
   * @param {Connection} connection
   * @returns {AsyncGenerator<Event | HerdError, void>}
   */
  async *#listen(connection) {
    /** @type {(Watch | string)[]} The watches of commands whose replies are due, in their order; a word for others. */
    const due = [];
    this.#commands = [];
    for (const watch of this.#watches.values()) {
      watch.confirmed = false;
      watch.seen = null;
      this.#commands.push({ line: watch.line, watch });
    }
    let heard = performance.now();
    let asked = 0;
    while (!this.#closed) {
      for (const { line, watch } of this.#commands.splice(0)) {
        connection.send(line);
        due.push(watch ?? 'UNWATCHED');
        asked = performance.now();
      }
      for (let line; !this.#closed && (line = connection.bufferedLine()) !== null;) yield* this.#take(line, due);
      if (this.#closed || this.#commands.length > 0) continue;
      // Whether it is silent is judged only once there is nothing to read: the caller may have been away.
      const limit = due.length > 0 ? asked + this.#settings.replyTimeout : heard + this.#pingInterval;
      const what = await connection.readable(Math.max(0, limit - performance.now()));
      if (what === 'data') {
        heard = asked = performance.now();
      } else if (what === 'timeout') {
        if (due.length > 0) throw new LostError('no answer in time');
        connection.send('PING\n');
        due.push('PONG');
        asked = performance.now();
      }
    }
  }

  /**
   * Takes a push or a reply.
   * @param {string} line
   * @param {(Watch | string)[]} due
   * @returns {Generator<Event | HerdError, void>}
   */
  *#take(line, due) {
    const [, word, rest] = /** @type {RegExpExecArray} */ (/^(\S*) ?(.*)$/s.exec(line));
    if (PUSHES.has(word)) {
      const end = rest.indexOf(' ');
      const watch = this.#watches.get(end < 0 ? rest : rest.slice(0, end));
      // Of a watch that was removed, and may be another by now, pushes can still be on their way.
      if (watch?.confirmed) yield* watch.push(word, end < 0 ? '' : rest.slice(end + 1));
      return;
    }
    const reply = due.shift();
    if (reply === undefined) throw malformed(line);
    if (word === 'ERR') {
      yield* this.#refused(refusal(line), reply);
    } else if (typeof reply === 'string') {
      if (word !== reply) throw malformed(line);
    } else if (line === `WATCHING ${reply.nameField}`) {
      reply.confirmed = true;
      // The server is of use.
      this.#rotation.reset();
    } else {
      throw malformed(line);
    }
  }

  /**
   * @param {RefusedError} error
   * @param {Watch | string} reply
   * @returns {Generator<HerdError, void>}
   */
  *#refused(error, reply) {
    if (typeof reply === 'string') {
      // Of an UNWATCH: its watch was refused before.
      if (error.code === 'UNKNOWN') return;
      throw new LostError(error.message);
    }
    if (ELSEWHERE.has(error.code)) throw error;
    if (this.#watches.get(reply.nameField) !== reply) return;
    this.#watches.delete(reply.nameField);
    error.watch = reply.name;
    yield error;
  }
}

module.exports = {
  Herd,
  Watcher,
  Record,
  HerdError,
  UnavailableError,
  RefusedError,
  InvalidError,
  AheadError,
  ForgottenError,
  UnknownError,
  FullError,
  UnwritableError,
  RemovedError,
  StartingError,
  DeniedError,
  BusyError,
};
