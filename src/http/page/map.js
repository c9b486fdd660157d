// The map: two canvases of one size, the countries on the lower and the clients on the upper one. Both
// are drawn only in an animation frame, and only after a change or while clients glide.

import { GLIDE_MS, shownId } from './clients.js';
import { placeLabel } from './label.js';
import { Points } from './points.js';

/** Number of clients on the move past which they are drawn in half of the frames. */
const MANY_MOVING = 2000;

export class MapView {
  #upper;
  #lower;
  #points;
  #colors;
  #isScheduled = false;
  #isLowerStale = true;
  #drawn = 0;
  #calm = matchMedia('(prefers-reduced-motion: reduce)');
  world = null;
  isGrid = false;
  /** The clients in view while the stream has counts only. */
  detail = null;
  /** The client that is marked, as { clients, key }. */
  marked = null;
  /** A circle that is being drawn. */
  draft = null;
  /** Returns the watches. */
  watches = () => [];
  /** Point that was asked about. */
  point = null;
  onDrawn = () => {};
  onMoved = () => {};

  constructor(canvas, base, projection, clients, grid) {
    this.canvas = canvas;
    this.projection = projection;
    this.clients = clients;
    this.grid = grid;
    this.#upper = canvas.getContext('2d');
    this.#lower = base.getContext('2d', { alpha: false });
    this.#points = new Points(this.#upper);
    this.#takeColors();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#takeColors());
    this.#calm.addEventListener('change', () => this.invalidate());
    new ResizeObserver(() => this.#resize()).observe(canvas);
    addEventListener('resize', () => this.#resize());
    for (const event of ['focus', 'blur']) canvas.addEventListener(event, () => this.invalidate());
    this.#resize();
  }

  #takeColors() {
    const style = getComputedStyle(document.documentElement);
    const names = ['sea', 'land', 'border', 'point', 'fresh', 'mark', 'surface', 'text', 'watch'];
    this.#colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.moved();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0 || height === 0) return;
    const ratio = devicePixelRatio;
    for (const { canvas } of [this.#upper, this.#lower]) {
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== w) canvas.width = w;
      if (canvas.height !== h) canvas.height = h;
    }
    this.projection.resize(width, height);
    this.moved();
  }

  /** Draws everything at the next frame: the view has changed. */
  moved() {
    this.#isLowerStale = true;
    this.invalidate();
    this.onMoved();
  }

  /** The clients that are shown each by itself; null where only their counts are. */
  get shown() {
    if (!this.isGrid) return this.clients;
    return this.detail?.isShown ? this.detail.clients : null;
  }

  /** Draws the clients at the next frame. */
  invalidate() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame((now) => this.#frame(now));
  }

  #frame(now) {
    this.#isScheduled = false;
    if (this.#isLowerStale) {
      this.#isLowerStale = false;
      this.#drawWorld();
    } else if (this.moving > MANY_MOVING && now - this.#drawn < 30) {
      this.invalidate();
      return;
    }
    this.#drawn = now;
    this.#drawClients(performance.now());
    this.onDrawn();
    if (this.moving > 0) this.invalidate();
  }

  /** Calls `draw` for each visible copy of the world, with degrees as the unit. */
  #eachCopy(context, draw) {
    const { width, height, scale, lat, lon } = this.projection;
    const ratio = devicePixelRatio;
    for (const shift of this.projection.copies()) {
      const x = width / 2 + (shift - lon) * scale;
      const y = height / 2 + lat * scale;
      context.setTransform(ratio * scale, 0, 0, -ratio * scale, ratio * x, ratio * y);
      draw();
    }
  }

  #drawWorld() {
    const context = this.#lower;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = this.#colors.sea;
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
    if (!this.world) return;
    context.fillStyle = this.#colors.land;
    context.strokeStyle = this.#colors.border;
    context.lineWidth = 0.8 / this.projection.scale;
    this.#eachCopy(context, () => {
      context.fill(this.world.land, 'evenodd');
      context.stroke(this.world.borders);
    });
  }

  #drawClients(now) {
    const context = this.#upper;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    const { shown } = this;
    if (shown) {
      this.moving = this.#points.draw(shown, this.projection, this.#colors, this.#calm.matches ? 0 : GLIDE_MS, now);
    } else {
      this.moving = 0;
      this.#drawGrid(context);
    }
    for (const { circle } of this.watches()) if (circle) this.#outline(context, circle.path, []);
    if (this.draft) this.#outline(context, this.draft.path, [6, 4]);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    for (const watch of this.watches()) this.#name(context, watch);
    if (this.draft) this.#text(context, this.draft.text, this.projection.project(this.draft.lat, this.draft.lon));
    if (this.point) this.#cross(context, this.projection.project(this.point.lat, this.point.lon), this.#colors.mark);
    const slot = this.marked?.clients.slotOf(this.marked.key);
    if (slot !== undefined) this.#mark(context, this.#where(this.marked.clients, slot, now), shownId(this.marked.key));
    if (this.canvas.matches(':focus-visible')) {
      this.#cross(context, { x: this.projection.width / 2, y: this.projection.height / 2 }, this.#colors.text);
    }
  }

  #where(clients, slot, now) {
    const { lat, lon } = clients.at(slot, this.#calm.matches ? Infinity : now);
    return this.projection.project(lat, lon);
  }

  #drawGrid(context) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(this.#colors.point.slice(at, at + 2), 16));
    const picture = this.grid.picture([red, green, blue]);
    context.imageSmoothingEnabled = false;
    this.#eachCopy(context, () => {
      context.scale(1, -1);
      context.drawImage(picture, -180, -90, 360, 180);
    });
  }

  /** Draws the edge of a circle, whose path is in degrees. */
  #outline(context, path, dashes) {
    context.strokeStyle = this.#colors.watch;
    context.lineWidth = 2 / this.projection.scale;
    context.setLineDash(dashes.map((length) => length / this.projection.scale));
    this.#eachCopy(context, () => context.stroke(path));
    context.setLineDash([]);
  }

  /** Draws the name of a watch at its center, and a ring around a client that is watched. */
  #name(context, { name, circle, key, inside }) {
    const place = circle ?? inside.get(key);
    if (!place) return;
    const { x, y } = this.projection.project(place.lat, place.lon);
    if (!circle) {
      context.strokeStyle = this.#colors.watch;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 7, 0, 2 * Math.PI);
      context.stroke();
    }
    this.#text(context, name, circle ? { x, y } : { x: x + 9, y: y - 9 });
  }

  #text(context, text, { x, y }) {
    context.font = '600 13px system-ui, sans-serif';
    context.lineWidth = 4;
    context.lineJoin = 'round';
    context.strokeStyle = this.#colors.surface;
    context.strokeText(text, x, y);
    context.fillStyle = this.#colors.text;
    context.fillText(text, x, y);
  }

  #cross(context, { x, y }, color) {
    context.strokeStyle = color;
    context.lineWidth = 1.5;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 4, y + dy * 4);
      context.lineTo(x + dx * 12, y + dy * 12);
    }
    context.stroke();
  }

  #mark(context, { x, y }, text) {
    context.strokeStyle = this.#colors.mark;
    context.lineWidth = 2.5;
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.stroke();
    context.font = '600 13px system-ui, sans-serif';
    const label = placeLabel(text, { x, y }, this.projection, (part) => context.measureText(part).width);
    if (!label) return;
    this.#text(context, label.text, { x: label.left, y: label.line });
  }
}
