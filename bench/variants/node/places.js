/**
 * Google's Places Nearby Search (legacy), or one like it, over `fetch`.
 *
 * A result is passed on as Google's JSON has it, but written again, so numbers may look different;
 * results outside the radius are not left out.
 */

/** The environment variable of the API key; a flag would show it to every user. */
export const KEY_VARIABLE = 'GOOGLE_PLACES_API_KEY';

/** Milliseconds for a whole search; past this the client gets `UNKNOWN_ERROR`. */
const TIMEOUT = 3000;

/** Bytes that an answer may have; a longer one is an error. */
const MAX_BODY = 2 << 20;

const FAILURES = new Set(['INVALID_REQUEST', 'OVER_QUERY_LIMIT', 'REQUEST_DENIED', 'UNKNOWN_ERROR']);

/** The service that answers searches. */
export class Provider {
  #url;
  #key;

  constructor(url, key) {
    this.#url = url;
    this.#key = key;
  }

  /**
   * Asks for places.
   *
   * @param {import('./records.js').Search} search
   * @returns {Promise<string>} the JSON text for the client in UTF-8, a character a byte, whatever happens
   */
  async find(search) {
    let answer;
    try {
      answer = this.#answer(await this.#fetch(search), search);
    } catch (error) {
      const why = error.cause?.code ?? error.name;
      answer = failure(`The places provider could not be asked (${why}). Try again.`);
    }
    const text = JSON.stringify(answer).replaceAll(this.#key, '(key)');
    return Buffer.from(text, 'utf8').toString('latin1');
  }

  async #fetch({ location, radiusKm }) {
    const second = Math.max(location.lastIndexOf('+'), location.lastIndexOf('-'));
    const digits = [location.slice(0, second), location.slice(second)].map((part) => part.replace('+', ''));
    const query = `location=${digits}&radius=${Math.round(radiusKm * 1000)}&key=${encodeURIComponent(this.#key)}`;
    const url = `${this.#url}${this.#url.includes('?') ? '&' : '?'}${query}`;
    const response = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(TIMEOUT) });
    const parts = [];
    let length = 0;
    for await (const part of response.body ?? []) {
      parts.push(part);
      length += part.length;
      if (length > MAX_BODY) throw new RangeError('answer too long');
    }
    return Buffer.concat(parts).toString('utf8');
  }

  #answer(body, { bound }) {
    let page;
    try {
      page = JSON.parse(body);
    } catch {
      page = undefined;
    }
    const found = page?.results ?? [];
    if (typeof page?.status !== 'string' || !Array.isArray(found) || !found.every((place) => place?.constructor === Object)) {
      return failure("The places provider's answer is not in Google's format. Check --places-url.");
    }
    if (FAILURES.has(page.status)) {
      return failure(
        String(page.error_message || 'The places provider refused. Check its key and quota.'),
        page.status,
      );
    }
    if (page.status !== 'OK' && page.status !== 'ZERO_RESULTS') {
      return failure("The places provider's status is none of Google's. Check --places-url.");
    }
    const results = found.slice(0, bound);
    const credits = Array.isArray(page.html_attributions) ? page.html_attributions : [];
    return { html_attributions: credits, results, status: results.length > 0 ? 'OK' : 'ZERO_RESULTS' };
  }
}

function failure(what, status = 'UNKNOWN_ERROR') {
  return { html_attributions: [], results: [], status, error_message: what };
}
