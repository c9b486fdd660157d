// Whether this page hears from its server, in words. While it does not, the last picture stays, grey.

import { byId, clock, setAttribute, setText } from './text.js';

/** Time for which a restart is told. */
const NEWS_MS = 10000;

export class Connection {
  #state = 'connecting';
  #isRefused = false;
  #heard = null;
  #reason = '';
  #epoch = null;
  #news = '';
  #newsUntil = 0;
  #opened = Date.now();
  server = '';

  /** Takes what the stream says of itself: 'live', or 'lost' or 'refused' with a reason. */
  take(told, reason) {
    const now = Date.now();
    const state = told === 'live' ? 'live' : 'lost';
    this.#isRefused = told === 'refused';
    if (state === 'live') {
      this.#heard = now;
      if (this.#state === 'lost' && this.#news === '') this.#tell(`connected again at ${clock(now)}`);
    } else {
      this.#reason = reason;
    }
    if (this.#state === state) return;
    this.#state = state;
    this.update();
  }

  /** Takes a server's greeting. */
  greet(server, epoch) {
    if (this.#epoch !== null && epoch !== this.#epoch) this.#tell(`${server} was restarted; connected again at ${clock(Date.now())}`);
    this.server = server;
    this.#epoch = epoch;
    this.update();
  }

  #tell(news) {
    this.#news = news;
    this.#newsUntil = Date.now() + NEWS_MS;
  }

  update() {
    const isNews = Date.now() < this.#newsUntil;
    if (!isNews) this.#news = '';
    const isLost = this.#state === 'lost';
    const node = byId('connection');
    setAttribute(node, 'data-state', this.#state);
    setAttribute(node, 'data-news', isNews && !isLost ? '' : null);
    setAttribute(document.body, 'data-stale', isLost ? '' : null);
    let text = this.#state === 'live' ? 'connected' : 'connecting';
    if (isLost) {
      const since = clock(this.#heard ?? this.#opened);
      const name = this.server || 'This server';
      text = this.#isRefused
        ? `${name} has refused this page since ${since}: ${this.#reason}.`
        : `${name} has not answered since ${since} (${this.#reason}).`;
      // A page that never had data shows nothing.
      if (this.#heard !== null) text += ' What is shown is of then.';
      text += ' Trying again each second.';
    } else if (isNews) {
      text = this.#news;
    }
    setText(node, text);
  }
}
