/** One client: bounded lines in, replies out, in order. */

import { printable } from './log.js';
import { FULL, MAX_LINE, invalid, whatsatReply } from './records.js';

/** Characters of replies made at once; past this it is seen first whether the client takes them. */
const MAX_REPLIES = 64 << 10;

/** Milliseconds from a line's first byte to its last; past this the connection is closed. */
const LINE_TIMEOUT = 10_000;

/** Milliseconds until a client must have taken its replies; past this it is dropped. */
const REPLY_TIMEOUT = 10_000;

/** Milliseconds that a closing connection drops what still comes: a plain close would reset it. */
const DRAIN_TIMEOUT = 1_000;

/** The end of a connection's first line that makes it an HTTP request. */
const HTTP = / HTTP\/1\.[01]$/;

/** The first bytes of a TLS handshake. */
const TLS = '\x16\x03';

/** A client's connection. */
export class Session {
  #herd;
  #socket;
  #log;
  #name = '';
  #unread = '';
  /** The first line is not whole yet. */
  #isNew = true;
  /** The client sends nothing more. */
  #ended = false;
  /** The client has yet to take replies. */
  #paused = false;
  #searching = false;
  /** Nothing more is answered. */
  #closing = false;
  #lineTimer;
  #replyTimer;

  /**
   * @param {import('./herd.js').Herd} herd
   * @param {import('node:net').Socket} socket
   */
  constructor(herd, socket) {
    this.#herd = herd;
    this.#socket = socket;
    this.#log = herd.log;
    if (this.#log) {
      this.#name = `${socket.remoteAddress}:${socket.remotePort}`;
      this.#log.info(`client ${this.#name} connected`);
    }
    socket.on('data', (data) => this.#take(data.latin1Slice()));
    socket.on('end', () => this.#end());
    socket.on('timeout', () => this.finish('idle for too long'));
    socket.on('error', (error) => this.#log?.info(`client ${this.#name}: ${error.message}`));
    socket.on('close', () => this.#lost());
    socket.setTimeout(herd.idleTimeout);
    herd.sessions.add(this);
    if (herd.sessions.size > herd.maxClients) {
      socket.write(FULL);
      this.finish('server full');
    }
  }

  /** Drops the client. */
  destroy() {
    this.#socket.destroy();
  }

  /** Closes orderly: the end behind the replies; what the client still sends is dropped. */
  finish(reason) {
    if (this.#closing) return;
    this.#close();
    this.#log?.info(`client ${this.#name} closed: ${reason}`);
    this.#socket.resume();
  }

  #close() {
    this.#closing = true;
    this.#unread = '';
    this.#socket.end(() => {
      if (!this.#ended) setTimeout(() => this.destroy(), DRAIN_TIMEOUT);
    });
  }

  #lost() {
    this.#closing = true;
    clearTimeout(this.#lineTimer);
    clearTimeout(this.#replyTimer);
    this.#herd.sessions.delete(this);
    this.#log?.info(`client ${this.#name} lost`);
  }

  #take(text) {
    if (this.#closing) return;
    this.#unread = this.#unread === '' ? text : this.#unread + text;
    this.#serve();
  }

  #end() {
    this.#ended = true;
    if (this.#closing) return;
    // The last line may lack its ending. A CR before the end of the stream belongs to no ending:
    // this one does.
    if (this.#unread !== '' && !this.#unread.endsWith('\n')) this.#unread += '\r\n';
    this.#serve();
  }

  /** Answers the whole lines that have come, as far as the client takes the replies. */
  #serve() {
    while (!this.#paused && !this.#searching && !this.#closing && this.#answerSome());
  }

  /** Answers lines with one write; whether there may be more of them. */
  #answerSome() {
    if (this.#isNew && this.#turnAway()) return false;
    const unread = this.#unread;
    const { records } = this.#herd;
    let start = 0;
    let replies = '';
    let search;
    while (replies.length < MAX_REPLIES && search === undefined) {
      const end = unread.indexOf('\n', start);
      if (end < 0) break;
      const line = unread.slice(start, end > start && unread[end - 1] === '\r' ? end - 1 : end);
      if (line.length > MAX_LINE) break;
      start = end + 1;
      const reply = records.answer(line);
      this.#log?.info(`client ${this.#name} > ${printable(line)}`);
      if (typeof reply === 'string') {
        replies += reply;
        this.#log?.info(`client ${this.#name} < ${printable(reply)}`);
      } else {
        search = reply;
      }
    }
    this.#unread = unread.slice(start);
    if (replies !== '') {
      this.#write(replies);
      this.#herd.flood();
    }
    if (start > 0) {
      clearTimeout(this.#lineTimer);
      this.#lineTimer = undefined;
    }
    if (search) this.#search(search);
    else if (replies.length >= MAX_REPLIES) return true;
    else this.#lookAtRest();
    return false;
  }

  /** Closes if the first line is of HTTP or TLS; whether it is. Nothing behind it is carried out. */
  #turnAway() {
    const unread = this.#unread;
    const end = unread.indexOf('\n');
    if (unread.startsWith(TLS)) {
      this.finish('it speaks TLS');
    } else if (end >= 0) {
      this.#isNew = false;
      const line = unread.slice(0, unread[end - 1] === '\r' ? end - 1 : end);
      if (HTTP.test(line) && line.length <= MAX_LINE) {
        const reply = invalid(line);
        this.#log?.info(`client ${this.#name} > ${printable(line)}`);
        this.#log?.info(`client ${this.#name} < ${printable(reply)}`);
        this.#write(reply);
        this.finish('it speaks HTTP');
      }
    }
    return this.#closing;
  }

  /** What is to be done about a line that is not whole, or about none. */
  #lookAtRest() {
    const rest = this.#unread;
    // One byte over the limit may yet turn out to be the CR of an ending.
    if (rest.length > MAX_LINE + 1 || (rest.length > MAX_LINE && !rest.endsWith('\r'))) {
      const reply = invalid(rest.slice(0, MAX_LINE));
      this.#log?.info(`client ${this.#name} < ${printable(reply)}`);
      this.#write(reply);
      this.finish('line too long');
    } else if (this.#ended) {
      this.#close();
    } else if (rest !== '') {
      this.#lineTimer ??= setTimeout(() => this.finish('line not finished in time'), LINE_TIMEOUT);
    }
  }

  /** Completes a `WHATSAT`; the lines behind it wait. */
  async #search(search) {
    this.#searching = true;
    this.#socket.pause();
    const reply = whatsatReply(search.at, await this.#herd.provider.find(search));
    this.#searching = false;
    if (this.#closing) return;
    this.#log?.info(`client ${this.#name} < ${printable(reply)}`);
    this.#write(reply);
    this.#goOn();
  }

  /** Sends replies. If the client does not take them at once, there are no more until it has. */
  #write(replies) {
    this.#socket.write(replies, 'latin1');
    if (this.#socket.writableLength === 0 || this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
    this.#replyTimer = setTimeout(() => {
      this.#log?.info(`client ${this.#name} closed: reply not taken in time`);
      this.destroy();
    }, REPLY_TIMEOUT);
    this.#socket.write('', () => {
      this.#paused = false;
      clearTimeout(this.#replyTimer);
      this.#goOn();
    });
  }

  /** Does what was put off. */
  #goOn() {
    if (this.#closing) return;
    this.#serve();
    if (!this.#paused && !this.#searching) this.#socket.resume();
  }
}
