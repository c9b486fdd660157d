// The herd as the page knows it: the servers and neighbors of servers.txt, and the last answers of all
// servers. Everything that shows servers and links asks here.

const SYMBOLS = { ok: '✓', warn: '!', bad: '✕', unknown: '?' };

/** States in which a server is of no use to its clients, or harms the herd. */
const BAD = ['down', 'removed', 'twin', 'clock', 'journal failing'];

function severityOf(state) {
  if (state === 'ok' || state === 'unknown') return state;
  return BAD.includes(state) ? 'bad' : 'warn';
}

export class Herd {
  #answers = new Map();
  #rates = new Map();
  #before = null;
  /** The servers with their neighbors, in the order of servers.txt. */
  servers = [];
  /** The last survey. */
  survey = null;

  takeTopology(servers) {
    const isNew = JSON.stringify(servers) !== JSON.stringify(this.servers);
    this.servers = servers;
    return isNew;
  }

  takeSurvey(survey) {
    this.#rates = ratesBetween(this.#before, survey);
    this.#before = survey;
    this.survey = survey;
    this.#answers = new Map(survey.servers.map((server) => [server.name, server]));
  }

  get isWhole() {
    return this.survey?.whole ?? null;
  }

  get upCount() {
    return this.servers.filter(({ name }) => this.#answers.get(name)?.up).length;
  }

  /** Returns the state of a server, and what there is to say about it. */
  server(name) {
    const answer = this.#answers.get(name);
    const state = !answer ? 'unknown' : answer.up ? answer.state : 'down';
    const severity = severityOf(state);
    return { name, state, severity, symbol: SYMBOLS[severity], error: answer?.error ?? null, answer };
  }

  /** Returns the link that one server has dialed to another. */
  link(from, to) {
    const answer = this.#answers.get(from);
    const links = answer?.links ?? {};
    const link = Object.hasOwn(links, to) ? links[to] : undefined;
    let phase = 'unknown';
    if (answer) phase = link ? link.phase : 'down';
    return {
      from,
      to,
      phase,
      isLive: phase === 'live',
      lag: link?.lag_ms ?? null,
      rate: this.#rates.get(`${from} ${to}`) ?? null,
      error: link?.error ?? null,
    };
  }

  /** Returns all links, each direction by itself. */
  links() {
    return this.servers.flatMap(({ name, neighbors }) => neighbors.map((neighbor) => this.link(name, neighbor)));
  }

  /** Returns the pairs of neighbors with the state of both directions. */
  edges() {
    const edges = [];
    for (const { name, neighbors } of this.servers) {
      for (const neighbor of neighbors) {
        if (!edges.some(({ a, b }) => a === neighbor && b === name)) edges.push(this.edge(name, neighbor));
      }
    }
    return edges;
  }

  edge(a, b) {
    const both = [this.link(a, b), this.link(b, a)];
    const live = both.filter((link) => link.isLive).length;
    let phase = ['down', 'partial', 'live'][live];
    if ([a, b].some((name) => this.server(name).state === 'down')) phase = 'down';
    else if (both.some((link) => link.phase === 'unknown')) phase = 'unknown';
    const rates = both.map((link) => link.rate).filter((rate) => rate !== null);
    const lags = both.map((link) => link.lag).filter((lag) => lag !== null);
    return {
      a,
      b,
      phase,
      both,
      rate: rates.length > 0 ? rates.reduce((sum, rate) => sum + rate) : null,
      lag: lags.length > 0 ? Math.max(...lags) : null,
    };
  }
}

/** Returns the records that each link has carried per second from one survey to the next. */
function ratesBetween(before, after) {
  const rates = new Map();
  const elapsed = before ? (after.at - before.at) / 1e9 : 0;
  if (elapsed <= 0) return rates;
  const old = new Map(before.servers.map((server) => [server.name, server.links]));
  for (const { name, links } of after.servers) {
    for (const [neighbor, { written }] of Object.entries(links ?? {})) {
      // It counts from zero again with each connection.
      const since = written - (old.get(name)?.[neighbor]?.written ?? Infinity);
      if (since >= 0) rates.set(`${name} ${neighbor}`, since / elapsed);
    }
  }
  return rates;
}
