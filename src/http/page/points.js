// The clients as points on a canvas. A few are round; many are squares written straight into the
// pixels, for which the number of points hardly matters.

/** Time for which a client that has reported is shown in another color. */
const FRESH_MS = 500;
/** Number of clients past which they are squares. */
const MANY = 2000;
const ROUND = 5;
const SQUARE = 3;
/** Opacity of squares, so that it shows where they are dense. */
const OPACITY = 0xd0;

export class Points {
  #context;
  #image = null;
  #pixels;
  #dots = new Map();

  constructor(context) {
    this.#context = context;
  }

  /**
   * Draws clients, those at rest first and those that have just reported over them. Returns the
   * number of the latter.
   */
  draw(clients, view, colors, glide, now) {
    const { width, height } = this.#context.canvas;
    const ratio = width / view.width;
    if (clients.size <= MANY) {
      const size = Math.max(2, Math.round(ROUND * ratio));
      return this.#place(clients, view, ratio, size, glide, now, (isFresh) => {
        const dot = this.#dot(size, isFresh ? colors.fresh : colors.point);
        return (x, y) => this.#context.drawImage(dot, x - 1, y - 1);
      });
    }
    this.#prepare(width, height);
    // On a small map many points would hide it, and each other.
    const room = Math.sqrt((view.width * view.height) / clients.size);
    const size = Math.max(1, Math.round(Math.min(SQUARE, room / 2) * ratio));
    const fresh = this.#place(clients, view, ratio, size, glide, now, (isFresh) => {
      const color = packed(isFresh ? colors.fresh : colors.point);
      return (x, y) => this.#square(x, y, size, color);
    });
    this.#context.putImageData(this.#image, 0, 0);
    return fresh;
  }

  /** Calls `painter` for either color, and what it returns with the corner of each point in view. */
  #place(clients, view, ratio, size, glide, now, painter) {
    const { lat, lon, fromLat, fromLon, changed, isUsed, used } = clients;
    const scale = view.scale * ratio;
    const [width, height] = [view.width * ratio, view.height * ratio];
    const half = size / 2;
    let count = 0;
    for (const isFresh of [false, true]) {
      const paint = painter(isFresh);
      for (let slot = 0; slot < used; slot++) {
        const age = now - changed[slot];
        if (isUsed[slot] === 0 || age < FRESH_MS !== isFresh) continue;
        let y = lat[slot];
        let x = lon[slot];
        if (isFresh) {
          count++;
          if (age < glide) {
            const rest = (1 - age / glide) * (1 - age / glide);
            y += (fromLat[slot] - y) * rest;
            x += (fromLon[slot] - x) * rest;
          }
        }
        let east = x - view.lon;
        if (east >= 180 || east < -180) east -= 360 * Math.floor((east + 180) / 360);
        const left = Math.round(width / 2 + east * scale - half);
        const top = Math.round(height / 2 - (y - view.lat) * scale - half);
        if (left > -size && top > -size && left < width && top < height) paint(left, top);
      }
    }
    return count;
  }

  #prepare(width, height) {
    if (this.#image?.width !== width || this.#image.height !== height) {
      this.#image = this.#context.createImageData(width, height);
      this.#pixels = new Uint32Array(this.#image.data.buffer);
    } else {
      this.#pixels.fill(0);
    }
  }

  #square(left, top, size, color) {
    const { width, height } = this.#image;
    const right = Math.min(width, left + size);
    const bottom = Math.min(height, top + size);
    for (let y = Math.max(0, top); y < bottom; y++) {
      for (let x = Math.max(0, left); x < right; x++) this.#pixels[y * width + x] = color;
    }
  }

  /** Returns a picture of a round point with a margin of one pixel. */
  #dot(size, color) {
    const name = `${size} ${color}`;
    let dot = this.#dots.get(name);
    if (!dot) {
      dot = document.createElement('canvas');
      dot.width = dot.height = size + 2;
      const context = dot.getContext('2d');
      context.fillStyle = color;
      context.arc(size / 2 + 1, size / 2 + 1, size / 2, 0, 2 * Math.PI);
      context.fill();
      this.#dots.set(name, dot);
    }
    return dot;
  }
}

/** Returns a color, #rrggbb, as a pixel is stored: red in the lowest byte. */
function packed(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return ((OPACITY << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
