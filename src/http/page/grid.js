// The clients of a herd that has too many for points: counts by cells of one degree, shaded.

import { wrap } from './geo.js';

const COLUMNS = 360;
const ROWS = 180;

const within = (value, size) => Math.min(size - 1, Math.max(0, value));

export class Grid {
  #counts = new Uint32Array(COLUMNS * ROWS);
  #image = null;
  #tone = '';
  #isStale = true;
  max = 0;
  total = 0;

  constructor() {
    this.canvas = document.createElement('canvas');
    this.canvas.width = COLUMNS;
    this.canvas.height = ROWS;
  }

  apply(frame) {
    if (frame.reset) this.#counts.fill(0);
    for (const [south, west, count] of frame.cells ?? []) {
      this.#counts[within(south + 90, ROWS) * COLUMNS + within(west + 180, COLUMNS)] = count;
    }
    this.max = 0;
    this.total = 0;
    for (const count of this.#counts) {
      this.total += count;
      if (count > this.max) this.max = count;
    }
    this.#isStale = true;
  }

  clear() {
    this.apply({ reset: true });
  }

  countAt(lat, lon) {
    return this.#counts[within(Math.floor(lat) + 90, ROWS) * COLUMNS + within(Math.floor(lon) + 180, COLUMNS)];
  }

  /** Returns about how many clients are in a box: of a cell that is partly in it, that part. */
  estimate({ south, west, north, east }) {
    const width = (east - west + 360) % 360 || 360;
    let sum = 0;
    for (let row = Math.floor(south); row < north; row++) {
      const high = Math.min(north, row + 1) - Math.max(south, row);
      for (let column = Math.floor(west); column < west + width; column++) {
        const wide = Math.min(west + width, column + 1) - Math.max(west, column);
        sum += this.countAt(row, wrap(column)) * high * wide;
      }
    }
    return sum;
  }

  /** Returns the picture, a pixel for each cell, in shades of a color given as [red, green, blue]. */
  picture(color) {
    const tone = color.join();
    if (!this.#isStale && tone === this.#tone) return this.canvas;
    const context = this.canvas.getContext('2d');
    this.#image ??= context.createImageData(COLUMNS, ROWS);
    const pixels = this.#image.data;
    const full = Math.log1p(this.max);
    for (let row = 0; row < ROWS; row++) {
      for (let column = 0; column < COLUMNS; column++) {
        const count = this.#counts[row * COLUMNS + column];
        const pixel = ((ROWS - 1 - row) * COLUMNS + column) * 4;
        [pixels[pixel], pixels[pixel + 1], pixels[pixel + 2]] = color;
        // The least count is still seen.
        pixels[pixel + 3] = count === 0 ? 0 : 70 + 185 * (Math.log1p(count) / full);
      }
    }
    context.putImageData(this.#image, 0, 0);
    this.#tone = tone;
    this.#isStale = false;
    return this.canvas;
  }
}
