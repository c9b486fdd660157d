// Whether this page hears from its server, in words. While it does not, the last picture stays, grey.

import { ANSWERS } from './stream.js';
import { byId, clock, setAttribute, setText } from './text.js';

/** Time for which a restart is told. */
const NEWS_MS = 10000;

export class Connection {
  #state = 'connecting';
  #heard = null;
  #reason = '';
  #epoch = null;
  #news = '';
  #newsUntil = 0;
  #opened = Date.now();
  server = '';

  take(state, reason) {
    const now = Date.now();
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
      const since = this.#heard ?? this.#opened;
      const name = this.server || 'this server';
      const fault = this.#reason.startsWith(ANSWERS) ? 'turns this page away' : 'does not answer';
      text = `${name} ${fault} since ${clock(since)} (${this.#reason}). What is shown is of then. Trying again each second.`;
    } else if (isNews) {
      text = this.#news;
    }
    setText(node, text);
  }
}
