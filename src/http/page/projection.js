// From degrees to pixels of the map and back. The projection is equirectangular: it has both poles, a
// cell of one degree is a square, and moving the view is one addition. The world repeats to the east
// and to the west.

import { wrap } from './geo.js';

/** Most CSS pixels a degree: about 180 for a kilometer. */
const MAX_SCALE = 20000;

export class Projection {
  width = 1;
  height = 1;
  lat = 0;
  lon = 0;
  /** CSS pixels a degree. At first the whole world is shown. */
  scale = 0;

  get minScale() {
    return Math.min(this.width / 360, this.height / 180);
  }

  /** Takes another size of the canvas; a view of the whole world stays one. */
  resize(width, height) {
    const zoom = Math.max(1, this.scale / this.minScale);
    this.width = width;
    this.height = height;
    this.scale = zoom * this.minScale;
    this.#clamp();
  }

  #clamp() {
    this.scale = Math.min(MAX_SCALE, Math.max(this.minScale, this.scale));
    const room = Math.max(0, 90 - this.height / 2 / this.scale);
    this.lat = Math.min(room, Math.max(-room, this.lat));
    this.lon = this.scale <= this.minScale * 1.000001 ? 0 : wrap(this.lon);
  }

  project(lat, lon) {
    return {
      x: this.width / 2 + wrap(lon - this.lon) * this.scale,
      y: this.height / 2 - (lat - this.lat) * this.scale,
    };
  }

  unproject(x, y) {
    const lat = this.lat - (y - this.height / 2) / this.scale;
    return {
      lat: Math.min(90, Math.max(-90, lat)),
      lon: wrap(this.lon + (x - this.width / 2) / this.scale),
    };
  }

  /** Returns the box in view, in degrees: its west is greater than its east across the date line. */
  box() {
    const [half, high] = [this.width / 2 / this.scale, this.height / 2 / this.scale];
    const isAll = half >= 180;
    return {
      south: Math.max(-90, this.lat - high),
      west: isAll ? -180 : wrap(this.lon - half),
      north: Math.min(90, this.lat + high),
      east: isAll ? 180 : wrap(this.lon + half),
    };
  }

  /** Moves the map by pixels. */
  pan(x, y) {
    this.lon -= x / this.scale;
    this.lat += y / this.scale;
    this.#clamp();
  }

  /** Zooms, and keeps the place at a pixel where it is. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const place = this.unproject(x, y);
    this.scale *= factor;
    this.#clamp();
    const now = this.unproject(x, y);
    this.lon += wrap(place.lon - now.lon);
    this.lat += place.lat - now.lat;
    this.#clamp();
  }

  showAll() {
    this.scale = 0;
    this.#clamp();
  }

  /** Centers a place, at least so near that it can be told from its surroundings. */
  center(lat, lon) {
    this.scale = Math.max(this.scale, this.minScale * 8);
    this.lat = lat;
    this.lon = lon;
    this.#clamp();
  }

  /** Returns the shifts in degrees of the copies of the world that reach into the view: -360, 0, … */
  copies() {
    const half = this.width / 2 / this.scale;
    // Land that crosses the date line runs on to the east of its copy.
    const first = Math.floor((this.lon - half + 180) / 360) - 1;
    const last = Math.floor((this.lon + half + 180 - 1e-9) / 360);
    return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * 360);
  }
}
