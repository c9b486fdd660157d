// The stream of events: read by fetch, since an EventSource can send no header, taken apart by hand,
// and opened again when it ends or falls silent.

import { request } from './request.js';

/** Time without data after which the server counts as not answering: of events it sends some each second. */
const SILENCE_MS = 3000;
const PAUSE_MS = 1000;

/** Maximum number of characters that are shown of the reason for which a server refuses. */
const MAX_REASON = 200;

/**
 * Cuts a stream of text into events, and hands over the name and the value of each.
 */
export class EventReader {
  #rest = '';
  #onEvent;

  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  push(text) {
    // An end may lie across two pieces.
    let from = Math.max(0, this.#rest.length - 1);
    this.#rest += text;
    let start = 0;
    for (;;) {
      const end = this.#rest.indexOf('\n\n', from);
      if (end < 0) break;
      this.#take(this.#rest.slice(start, end));
      start = from = end + 2;
    }
    if (start > 0) this.#rest = this.#rest.slice(start);
  }

  #take(block) {
    let name = 'message';
    const data = [];
    for (const line of block.split('\n')) {
      const colon = line.indexOf(':');
      if (colon <= 0) continue;
      const value = line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
      if (line.startsWith('event:')) name = value;
      if (line.startsWith('data:')) data.push(value);
    }
    if (data.length > 0) this.#onEvent(name, JSON.parse(data.join('\n')));
  }
}

/**
 * Follows the events for as long as the page is open, or until `signal`. `onState` gets 'live', 'lost'
 * with the reason in words, or 'refused' with the words of the server. `silence` is the time in
 * milliseconds after which the server counts as not answering.
 */
export async function follow(path, onEvent, onState, { silence = SILENCE_MS, signal = null } = {}) {
  while (!signal?.aborted) {
    const { isRefused = false, reason } = await readToEnd(path, onEvent, onState, silence, signal);
    onState(isRefused ? 'refused' : 'lost', reason);
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
}

/** Reads one connection, and returns why it has ended. */
async function readToEnd(path, onEvent, onState, silence, signal) {
  const abort = new AbortController();
  const end = () => abort.abort();
  signal?.addEventListener('abort', end);
  let isSilent = false;
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      isSilent = true;
      abort.abort();
    }, silence);
  };
  heard();
  try {
    const response = await request(path, { signal: abort.signal, headers: { Accept: 'text/event-stream' } });
    if (!response.ok) return { isRefused: true, reason: await refusal(response) };
    const events = new EventReader(onEvent);
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (signal?.aborted) return { reason: 'it is over' };
      if (done) return { reason: 'it closed the connection' };
      heard();
      onState('live');
      events.push(decoder.decode(value, { stream: true }));
    }
  } catch (error) {
    if (isSilent) return { reason: `no data for ${silence / 1000} s` };
    return { reason: error instanceof SyntaxError ? `an event can't be read: ${error.message}` : 'no connection' };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
    abort.abort();
  }
}

/** Returns the first line of an answer that is not a stream, or its status if it has no such text. */
async function refusal(response) {
  const type = response.headers.get('Content-Type') ?? '';
  let line = '';
  if (type.startsWith('text/plain')) line = (await response.text()).trim().split('\n', 1)[0].trim();
  if (type === 'application/json') line = (await response.json()).error?.text ?? '';
  if (line === '') return `status ${response.status}`;
  return line.length > MAX_REASON ? `${line.slice(0, MAX_REASON - 1)}…` : line;
}
