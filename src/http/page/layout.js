// Where the servers stand on the ring. Neighbors are side by side where that is possible, so that lines
// cross little.

/** Number of servers past which the order of a walk along the links is good enough. */
const MAX_IMPROVED = 40;

/** Number of servers past which names stand beside the nodes, at equal heights. */
const MAX_CIRCLE = 8;

/** Height of the ring in pixels. */
export const heightFor = (count) => Math.min(1200, 360 + 26 * Math.max(0, count - 6));

/** Width of a letter of a name, rather too much than too little. */
const LETTER = 8.5;

/** Room for a name beside a node, and above or below one. */
const BESIDE = 112;
const ABOVE = 56;

/**
 * Returns the place of each server by its name: the center of its node, and the begin of its name with
 * the anchor of the text.
 */
export function places(servers, width, height, radius) {
  const order = circleOrder(servers);
  const isCircle = order.length <= MAX_CIRCLE;
  const horizontal = order.length === 1 ? 0 : Math.max(20, Math.min(190, width / 2 - (isCircle ? ABOVE : BESIDE)));
  const vertical = order.length === 1 ? 0 : height / 2 - ABOVE - 4;
  const apart = order.length === 1 ? width : 2.2 * horizontal * Math.sin(Math.PI / order.length);
  const place = (name, index) => {
    const [across, down] = (isCircle ? onCircle : atHeights)(index / order.length);
    const x = width / 2 + across * horizontal;
    const y = height / 2 + down * vertical;
    // As many letters as stay clear of the edge and of the next node.
    if (isCircle || Math.abs(across) < 0.1) {
      const isUpper = down < -0.01;
      const letters = Math.floor(Math.min(2 * x, 2 * (width - x), apart) / LETTER);
      return [name, { x, y, letters, anchor: 'middle', left: x, top: isUpper ? y - radius - 22 : y + radius + 16 }];
    }
    const side = Math.sign(across);
    const letters = Math.floor((Math.min(x, width - x) - radius - 8) / LETTER);
    return [name, { x, y, letters, anchor: side > 0 ? 'start' : 'end', left: x + side * (radius + 6), top: y + 4 }];
  };
  return new Map(order.map(place));
}

function onCircle(turn) {
  return [Math.sin(2 * Math.PI * turn), -Math.cos(2 * Math.PI * turn)];
}

function atHeights(turn) {
  const down = turn <= 0.5 ? 4 * turn - 1 : 3 - 4 * turn;
  return [Math.sqrt(Math.max(0, 1 - down * down)) * (turn <= 0.5 ? 1 : -1), down];
}

/** Returns the names in the order of the ring. */
function circleOrder(servers) {
  const order = walk(servers);
  const places = new Map(order.map((name, place) => [name, place]));
  const pairs = servers.flatMap(({ name, neighbors }) =>
    neighbors.filter((other) => places.has(other)).map((other) => [places.get(name), places.get(other)]),
  );
  // at[i] is where the i-th of the walk sits.
  const at = order.map((_, place) => place);
  const length = () => {
    let sum = 0;
    for (const [a, b] of pairs) {
      const apart = Math.abs(at[a] - at[b]);
      sum += Math.min(apart, at.length - apart);
    }
    return sum;
  };
  const swap = (i, j) => ([at[i], at[j]] = [at[j], at[i]]);
  let best = length();
  for (let isBetter = order.length <= MAX_IMPROVED; isBetter; ) {
    isBetter = false;
    for (let i = 0; i < at.length; i++) {
      for (let j = i + 1; j < at.length; j++) {
        swap(i, j);
        const now = length();
        if (now < best) [best, isBetter] = [now, true];
        else swap(i, j);
      }
    }
  }
  const result = [];
  order.forEach((name, place) => (result[at[place]] = name));
  return result;
}

/** Returns the names as a walk along the links meets them. */
function walk(servers) {
  const neighbors = new Map(servers.map((server) => [server.name, server.neighbors]));
  const order = new Set();
  const waiting = servers.map(({ name }) => name).reverse();
  while (waiting.length > 0) {
    const name = waiting.pop();
    if (order.has(name) || !neighbors.has(name)) continue;
    order.add(name);
    waiting.push(...neighbors.get(name).toReversed());
  }
  return [...order];
}
