// Circles on the globe, as the map draws them.

import { KM_PER_DEGREE, wrap } from './geo.js';

const RADIANS = Math.PI / 180;
const STEPS = 180;

/** Half of the way around the earth, in kilometers: a circle of it is everything. */
export const MAX_KM = 20016;

/** Returns the path of a circle in degrees east and north, from its west on without a jump at the date line. */
export function circlePath({ lat, lon, km }) {
  const path = new Path2D();
  const angle = Math.min(km / KM_PER_DEGREE, 180) * RADIANS;
  const [sinLat, cosLat] = [Math.sin(lat * RADIANS), Math.cos(lat * RADIANS)];
  const points = [];
  let before = lon;
  for (let step = 0; step <= STEPS; step++) {
    const bearing = (step / STEPS) * 2 * Math.PI;
    const sin = sinLat * Math.cos(angle) + cosLat * Math.sin(angle) * Math.cos(bearing);
    const y = Math.asin(Math.max(-1, Math.min(1, sin)));
    const east = Math.atan2(Math.sin(bearing) * Math.sin(angle) * cosLat, Math.cos(angle) - sinLat * sin);
    before += wrap(lon + east / RADIANS - before);
    points.push([before, y / RADIANS]);
  }
  // The map's copies of the world overlap to the east.
  const west = Math.min(...points.map(([x]) => x));
  const shift = 360 * Math.floor((west + 180) / 360);
  points.forEach(([x, y], index) => (index === 0 ? path.moveTo(x - shift, y) : path.lineTo(x - shift, y)));
  return path;
}
