// A circle while it is drawn on the map: pressed at its center, dragged to its edge.

import { circlePath, MAX_KM } from './circle.js';
import { kilometers } from './geo.js';
import { byId, distance, setAttribute, setText } from './text.js';

/** Movement in pixels up to which the circle has the radius of the form. */
const CLICK = 6;

export class Draft {
  #map;
  #onDrawn;
  #button = byId('watch-draw');
  #begin = null;
  #circle = null;
  isOn = false;

  /** `onDrawn` gets each circle, without a radius where it was only clicked. */
  constructor(map, onDrawn) {
    this.#map = map;
    this.#onDrawn = onDrawn;
    this.#button.addEventListener('click', () => this.set(!this.isOn));
  }

  /** Turns drawing on or off. */
  set(isOn) {
    this.isOn = isOn;
    this.#show(null);
    setAttribute(this.#button, 'aria-pressed', isOn);
    this.#map.canvas.classList.toggle('drawing', isOn);
    if (isOn) {
      setText(byId('watch-text'), 'Press the map at the center of the circle, and drag to its edge. A click takes the radius above. Escape ends drawing.');
      this.#map.canvas.focus({ preventScroll: true });
    } else {
      setText(byId('watch-text'), '');
    }
  }

  begin(point) {
    this.#begin = point;
  }

  move(point) {
    if (this.#begin) this.#show(this.#to(point));
  }

  end(point) {
    if (!this.#begin) return;
    const circle = this.#to(point);
    this.#begin = null;
    this.set(false);
    this.#onDrawn(circle);
  }

  cancel() {
    this.#begin = null;
    this.#show(null);
  }

  #to(point) {
    const { projection } = this.#map;
    const center = projection.unproject(this.#begin.x, this.#begin.y);
    const edge = projection.unproject(point.x, point.y);
    const isClick = Math.hypot(point.x - this.#begin.x, point.y - this.#begin.y) <= CLICK;
    const km = isClick ? null : Math.min(MAX_KM, Math.max(0.001, kilometers(center.lat, center.lon, edge.lat, edge.lon)));
    return { ...center, km };
  }

  #show(circle) {
    this.#map.draft = circle?.km ? { path: circlePath(circle), text: distance(circle.km), ...circle } : null;
    this.#map.invalidate();
  }
}
