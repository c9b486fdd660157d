/**
 * The client protocol's grammar, and what one server knows of the clients.
 *
 * Lines are strings of one character a byte (latin1), so any bytes pass through unchanged; V8 keeps
 * such strings at one byte a character. JavaScript's \s knows Unicode's spaces too, which are no
 * white space here, so the six that are have a class of their own.
 */

/** Bytes that a line may have without its ending. */
export const MAX_LINE = 4096;

/** Reply to a client that is refused because the server is full. */
export const FULL = '? server full\n';

/** Seconds that a client's time may be ahead of this server's clock. */
const MAX_AHEAD = 300;

/** Bytes that a number field may have. */
const MAX_NUMBER = 40;

const ZERO_RESULTS = '{"html_attributions":[],\n"results":[],\n"status":"ZERO_RESULTS"}';

const S = String.raw`[ \t\r\n\f\v]`;
const CLIENT = String.raw`([^ \t\r\n\f\v]{1,255})`;
// Ranges are judged by the digits: a float would round 90.00000000000000000001 into range.
const LATITUDE = String.raw`[+-]0*(?:[0-8]?\d(?:\.\d+)?|90(?:\.0+)?)`;
const LONGITUDE = String.raw`[+-]0*(?:(?:1[0-7]\d|\d?\d)(?:\.\d+)?|180(?:\.0+)?)`;
const TIME = String.raw`(\d+)(?:\.(\d{1,9}))?`;
const RADIUS = String.raw`0*(?:[0-4]?\d(?:\.\d+)?|50(?:\.0+)?)`;
const BOUND = String.raw`0*(?:1?\d|20)`;
const DIFFERENCE = String.raw`[+-]\d+\.\d{9}`;

const IAMAT = new RegExp(`^${S}*IAMAT${S}+${CLIENT}${S}+(${LATITUDE}${LONGITUDE})${S}+(${TIME})${S}*$`);
const WHATSAT = new RegExp(`^${S}*WHATSAT${S}+${CLIENT}${S}+(${RADIUS})${S}+(${BOUND})${S}*$`);
const AT = new RegExp(`^AT [^ ]+ ${DIFFERENCE} ${CLIENT} ${LATITUDE}${LONGITUDE} ${TIME}$`);

/**
 * A client's time and its `AT` line with the line feed. Seconds and nanoseconds are apart, since
 * one double can't hold both and BigInts cost an allocation each.
 *
 * @typedef {{ seconds: number, nanos: number, at: string }} RecordedReport
 */

/**
 * A `WHATSAT` whose places come from elsewhere; `at` begins its reply.
 *
 * @typedef {{ at: string, location: string, radiusKm: number, bound: number }} Search
 */

/** The reply to a line that is no valid command. */
export const invalid = (line) => `? ${line}\n`;

/** The reply to a `WHATSAT`: the client's line, a JSON text, an empty line. */
export const whatsatReply = (at, places) => `${at}${places}\n\n`;

const nanosOf = (fraction) => (fraction === undefined ? 0 : Number(fraction.padEnd(9, '0')));

/** Whether one record wins over another; ties go by the line, to one winner on every server. */
function isGreater(one, other) {
  if (one.seconds !== other.seconds) return one.seconds > other.seconds;
  if (one.nanos !== other.nanos) return one.nanos > other.nanos;
  return one.at > other.at;
}

/** The newest location of every client, as one server knows it. */
export class Records {
  #server;
  #now;
  #hasPlaces;
  #maxRecords;
  #records = new Map();
  #news = '';

  /**
   * @param {string} server the name that `AT` lines bear
   * @param {{ now: () => number, hasPlaces: boolean, maxRecords: number }} options
   *   `now` is the clock, in milliseconds since the epoch with a fraction
   */
  constructor(server, { now, hasPlaces, maxRecords }) {
    this.#server = server;
    this.#now = now;
    this.#hasPlaces = hasPlaces;
    this.#maxRecords = maxRecords;
  }

  /** The `AT` lines that the neighbors have yet to get, once. */
  takeNews() {
    const news = this.#news;
    this.#news = '';
    return news;
  }

  /** The `AT` lines of all records. */
  *lines() {
    for (const { at } of this.#records.values()) yield at;
  }

  /**
   * Carries out a client's line.
   *
   * @param {string} line
   * @returns {string | Search} the reply, or the search that will complete it
   */
  answer(line) {
    const report = IAMAT.exec(line);
    if (report) return this.#report(line, report);
    const inquiry = WHATSAT.exec(line);
    if (inquiry) return this.#inquiry(line, inquiry);
    return invalid(line);
  }

  #report(line, [, client, location, time, whole, fraction]) {
    if (location.length > MAX_NUMBER || time.length > MAX_NUMBER) return invalid(line);
    const now = this.#now();
    const nowSeconds = Math.floor(now / 1000);
    const nowNanos = Math.floor((now - nowSeconds * 1000) * 1e6);
    const seconds = Number(whole);
    const nanos = nanosOf(fraction);
    const ahead = seconds - nowSeconds;
    if (ahead > MAX_AHEAD || (ahead === MAX_AHEAD && nanos > nowNanos)) return invalid(line);

    const isLate = ahead < 0 || (ahead === 0 && nanos <= nowNanos);
    let wholeDifference = isLate ? -ahead : ahead;
    let difference = isLate ? nowNanos - nanos : nanos - nowNanos;
    if (difference < 0) {
      wholeDifference -= 1;
      difference += 1e9;
    }
    const shown = `${isLate ? '+' : '-'}${wholeDifference}.${String(difference).padStart(9, '0')}`;
    const at = `AT ${this.#server} ${shown} ${client} ${location} ${time}\n`;

    const known = this.#records.get(client);
    if (known === undefined && this.#records.size >= this.#maxRecords) return invalid(line);
    if (known === undefined || seconds > known.seconds || (seconds === known.seconds && nanos > known.nanos)) {
      this.#records.set(client, { seconds, nanos, at });
      this.#news += at;
    }
    return at;
  }

  #inquiry(line, [, client, radius, bound]) {
    const known = this.#records.get(client);
    if (known === undefined || radius.length > MAX_NUMBER || bound.length > MAX_NUMBER) return invalid(line);
    const { at } = known;
    if (!this.#hasPlaces || Number(bound) === 0 || /^[0.]*$/.test(radius)) return whatsatReply(at, ZERO_RESULTS);
    return { at, location: at.split(' ')[4], radiusKm: Number(radius), bound: Number(bound) };
  }

  /**
   * Takes an `AT` line from a neighbor. What is not newer than what is known stops here, which
   * ends every cycle.
   *
   * @param {string} line
   * @returns {boolean} whether it is one
   */
  adopt(line) {
    const match = AT.exec(line);
    if (!match) return false;
    const [, client, whole, fraction] = match;
    const record = { seconds: Number(whole), nanos: nanosOf(fraction), at: `${line}\n` };
    const known = this.#records.get(client);
    if (known === undefined ? this.#records.size >= this.#maxRecords : !isGreater(record, known)) return true;
    this.#records.set(client, record);
    this.#news += record.at;
    return true;
  }
}
