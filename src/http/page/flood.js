// The paths of floods: a report goes from the server that took it along all live links, and each
// server passes on what is new to it. So it runs along the tree of shortest paths.

const HOP_MS = 140;
const GLOW_MS = 500;
/** Number of lines that one frame may light. */
const MAX_LIT = 240;

/** Returns the steps of the flood from a server: from, to, and how many links lie before. */
export function pathsFrom(origin, herd) {
  const isReached = new Set([origin]);
  const steps = [];
  let edge = [origin];
  const neighbors = new Map(herd.servers.map((server) => [server.name, server.neighbors]));
  for (let hop = 0; edge.length > 0; hop++) {
    const next = [];
    for (const from of edge) {
      for (const to of neighbors.get(from) ?? []) {
        if (isReached.has(to) || !herd.link(from, to).isLive) continue;
        isReached.add(to);
        steps.push({ from, to, hop });
        next.push(to);
      }
    }
    edge = next;
  }
  return steps;
}

export class Flood {
  #paths = new Map();
  #calm = matchMedia('(prefers-reduced-motion: reduce)');

  /** Forgets the paths: a link has come or gone. */
  changed() {
    this.#paths.clear();
  }

  /** Lights the paths of the reports of a frame. */
  light(reports, herd, ring) {
    if (document.hidden) return;
    let left = MAX_LIT;
    const origins = Object.entries(reports).filter(([, count]) => count > 0);
    for (const [origin] of origins.sort(([, a], [, b]) => b - a)) {
      if (!this.#paths.has(origin)) this.#paths.set(origin, pathsFrom(origin, herd));
      const steps = this.#paths.get(origin);
      left -= steps.length;
      if (left < 0) return;
      for (const step of steps) this.#lightStep(origin, step, ring);
    }
  }

  #lightStep(origin, { from, to, hop }, ring) {
    const line = ring.line(from, to);
    if (!line) return;
    const delay = hop * HOP_MS;
    line.group.dataset.floods = Number(line.group.dataset.floods ?? 0) + 1;
    line.glow.animate({ opacity: [0, 0.8, 0], offset: [0, 0.25, 1] }, { duration: GLOW_MS, delay });
    if (this.#calm.matches) return;
    const at = ({ x, y }) => `translate(${x}px, ${y}px)`;
    const path = { transform: [at(ring.placeOf(from)), at(ring.placeOf(to))], opacity: [1, 1] };
    ring.spark(`${origin} ${from} ${to}`).animate(path, { duration: HOP_MS * 1.6, delay, easing: 'ease-in-out' });
  }
}
