// Brings the parts together: events in, and what of the page shows them.

import { Banner } from './banner.js';
import { Clients, keyOf } from './clients.js';
import { Connection } from './connection.js';
import { Detail } from './detail.js';
import { Draft } from './draft.js';
import { Figures } from './figures.js';
import { Flood } from './flood.js';
import { attach } from './gestures.js';
import { Grid } from './grid.js';
import { Herd } from './herd.js';
import { MapView } from './map.js';
import { Near } from './near.js';
import { Projection } from './projection.js';
import { Ring } from './ring.js';
import { Search } from './search.js';
import { follow } from './stream.js';
import { Summary } from './summary.js';
import { Tables } from './tables.js';
import { byId, compact, number, plural, setText } from './text.js';
import { Watches } from './watches.js';
import { loadWorld } from './world.js';

const herd = new Herd();
const clients = new Clients();
const grid = new Grid();
const projection = new Projection();
const map = new MapView(byId('map'), byId('map-base'), projection, clients, grid);
const ring = new Ring(byId('ring'), herd);
const flood = new Flood();
const tables = new Tables(herd);
const banner = new Banner(herd);
const figures = new Figures();
const summary = new Summary(herd);
const connection = new Connection();
const watches = new Watches(map, (key) => search.select(key));
const search = new Search(map, clients, (key) => watches.addClient(key));
const near = new Near(map, (key) => search.select(key));
const draft = new Draft(map, (circle) => watches.addCircle(circle));
const detail = new Detail(map, () => {
  caption();
  map.invalidate();
});

let isLost = false;
let records = null;
let isReady = false;

const buttons = attach(map.canvas, projection, {
  onMove: () => map.moved(),
  onAsk: ({ x, y }) => near.show(projection.unproject(x, y)),
  onEscape: () => near.close(),
  onWatch() {
    draft.set(false);
    watches.addCenter();
  },
  draft,
});
map.detail = detail;
map.onMoved = () => detail.look();
byId('zoom-in').addEventListener('click', buttons.zoomIn);
byId('zoom-out').addEventListener('click', buttons.zoomOut);
byId('zoom-all').addEventListener('click', buttons.showAll);

const on = {
  hello({ server, epoch, servers, history }) {
    connection.greet(server, epoch);
    ring.own = server;
    setText(byId('figures-title'), `${server}, the last ten minutes`);
    if (herd.takeTopology(servers)) ring.build();
    flood.changed();
    if (history) figures.takeHistory(history);
    tell();
  },

  frame(frame) {
    const isGrid = frame.mode === 'grid';
    if (frame.reset && isGrid !== map.isGrid) {
      clients.clear();
      grid.clear();
    }
    map.isGrid = isGrid;
    if (isGrid) grid.apply(frame);
    else clients.apply(frame, performance.now());
    records = frame.records ?? records;
    // All reports of a whole frame came before it.
    if (frame.reports && !frame.reset) flood.light(frame.reports, herd, ring);
    if (frame.gone) {
      const gone = frame.gone.map(keyOf);
      search.drop(gone);
      watches.drop(gone);
    }
    search.update();
    detail.look();
    near.update();
    caption();
    map.invalidate();
    if (!isReady) map.onDrawn = markFirst;
  },

  figures(entry) {
    figures.take(entry);
  },

  herd(survey) {
    herd.takeSurvey(survey);
    flood.changed();
    summary.surveyed();
    ring.update();
    tables.update();
    tell();
  },
};

function markFirst() {
  isReady = true;
  map.onDrawn = () => {};
  performance.mark('first-clients');
}

function caption() {
  let text = `${plural(clients.size, 'client')}, each a point; in another color where one has just reported.`;
  if (map.isGrid) {
    text = `${plural(grid.total, 'client')}, counted by cells of one degree; the darkest has ${compact(grid.max)}.`;
    if (detail.isShown) text = `${plural(grid.total, 'client')}; the ${number(detail.clients.size)} in view are points.`;
    else if (detail.hasMore) text += ' There are too many in view to show each: zoom in.';
  }
  setText(byId('map-caption'), text);
}

/** Says how the herd and the connection are. */
function tell() {
  connection.update();
  summary.update({ server: connection.server, records, problems: banner.update(isLost), isLost });
}

// For tests, and for the curious: nothing here changes the page.
globalThis.herd = Object.freeze({
  project: (lat, lon) => projection.project(lat, lon),
  client(id) {
    const slot = map.isGrid ? undefined : clients.slotOf(id);
    return slot === undefined ? null : clients.record(slot);
  },
  counts: () => ({
    mode: map.isGrid ? 'grid' : 'clients',
    clients: map.isGrid ? grid.total : clients.size,
    records,
    shown: map.shown?.size ?? null,
    servers: herd.servers.length,
    up: herd.upCount,
  }),
  get ready() {
    return isReady;
  },
});

setInterval(() => {
  tell();
  // Says how long ago the last report was.
  search.update();
  near.update();
}, 1000);
follow(
  '/events',
  (name, data) => on[name]?.(data),
  (state, reason) => {
    const isNew = (state !== 'live') !== isLost;
    isLost = state !== 'live';
    connection.take(state, reason);
    if (isNew) tell();
  },
);
try {
  map.world = await loadWorld();
  map.moved();
} catch (error) {
  setText(byId('map-help'), `The outlines of the countries did not load: ${error.message}.`);
}
