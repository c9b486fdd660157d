// The outlines of the countries, from the file that map/make.py writes and describes.

const UNITS_PER_DEGREE = 20;

/** Returns the paths of the land and of the borders on it, in degrees east and north. */
export async function loadWorld() {
  const response = await fetch('/page/map/world.bin');
  if (!response.ok) throw new Error(`the map: ${response.status}`);
  return decode(new Uint8Array(await response.arrayBuffer()));
}

function decode(bytes) {
  let at = 0;
  const unsigned = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const signed = () => {
    const value = unsigned();
    return value & 1 ? -(value + 1) / 2 : value / 2;
  };
  const list = (item) => Array.from({ length: unsigned() }, item);
  const arcs = list(() => {
    let [x, y] = [0, 0];
    return list(() => [(x += signed()) / UNITS_PER_DEGREE, (y += signed()) / UNITS_PER_DEGREE]);
  });
  const rings = list(() => list(signed));

  const land = new Path2D();
  const uses = new Uint8Array(arcs.length);
  for (const ring of rings) {
    const points = ring.flatMap((index) => {
      uses[index < 0 ? -1 - index : index]++;
      return index < 0 ? arcs[-1 - index].toReversed() : arcs[index];
    });
    trace(land, unrolled(points));
    land.closePath();
  }
  const borders = new Path2D();
  arcs.forEach((arc, index) => {
    if (uses[index] > 1) trace(borders, arc);
  });
  return { land, borders };
}

/**
 * Returns a ring without jumps at the date line: it runs on to the east of 180, and begins to the east
 * of -180. One that runs around the south pole is led along it.
 */
function unrolled(points) {
  let shift = 0;
  const moved = points.map(([x, y], index) => {
    const step = index > 0 ? x - points[index - 1][0] : 0;
    if (Math.abs(step) > 180) shift -= Math.sign(step) * 360;
    return [x + shift, y];
  });
  if (shift !== 0) moved.push([moved.at(-1)[0], -90], [moved[0][0], -90]);
  const west = Math.min(...moved.map(([x]) => x));
  const back = Math.floor((west + 180) / 360) * 360;
  return moved.map(([x, y]) => [x - back, y]);
}

function trace(path, points) {
  points.forEach(([x, y], index) => (index === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
}
