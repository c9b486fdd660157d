/** The log: connections and lines, in a file, written behind. */

import { createWriteStream, openSync } from 'node:fs';

/** Characters that wait for the disk; past this lines are dropped, and how many is logged. */
const MAX_WAITING = 16 << 20;

const UNPRINTABLE = /[^\x20-\x5b\x5d-\x7e]/g;
const escape = (character) =>
  character === '\\' ? '\\\\' : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;

/** A line for the log: bytes outside printable ASCII are escaped, its end is left out. */
export const printable = (line) => line.replace(/\n+$/, '').replace(UNPRINTABLE, escape);

/** A log file. */
export class Log {
  #stream;
  #dropped = 0;

  /** @throws if the file can't be opened */
  constructor(path) {
    this.#stream = createWriteStream(path, { fd: openSync(path, 'a'), encoding: 'latin1' });
    this.#stream.on('error', (error) => process.stderr.write(`the log can't be written: ${error.message}\n`));
  }

  /** Logs a line with the time in UTC. */
  info(message) {
    if (this.#stream.writableLength > MAX_WAITING) {
      this.#dropped += 1;
      return;
    }
    if (this.#dropped > 0) {
      this.#stream.write(`${new Date().toISOString()} WARN ${this.#dropped} lines dropped\n`);
      this.#dropped = 0;
    }
    this.#stream.write(`${new Date().toISOString()} INFO ${message}\n`);
  }

  /** Writes what waits, then calls back. */
  close(done) {
    this.#stream.end(done);
  }
}
