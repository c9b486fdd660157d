// The panel about a point of the map: which clients are near, and which places.

import { keyOf, shownId } from './clients.js';
import { kilometers, KM_PER_DEGREE } from './geo.js';
import { request } from './request.js';
import { byId, distance, element, number, plural, position, setText } from './text.js';

const MAX_CLIENTS = 20;
const MAX_PLACES = 10;
/** Radius in kilometers, as the atlas takes it; on a small map the reach of a fingertip is more. */
const RADIUS_KM = 50;
const FINGERTIP = 16;
/** Time after which the server is asked again for the clients that the page does not have. */
const AGAIN_MS = 3000;

export class Near {
  #map;
  #onSelect;
  #asked = 0;
  /** Keys of the clients that are listed. */
  #keys = [];
  /** Time from which on the server is asked for them again; null where the page has them. */
  #again = null;

  constructor(map, onSelect) {
    this.#map = map;
    this.#onSelect = onSelect;
    byId('near-close').addEventListener('click', () => {
      this.close();
      map.canvas.focus();
    });
  }

  close() {
    this.#asked++;
    this.#map.point = null;
    this.#map.invalidate();
    byId('near').hidden = true;
    byId('near-clients').replaceChildren();
    this.#keys = [];
    this.#again = null;
  }

  /** Lists the clients again if one of them is gone, or may be. */
  update() {
    const { shown, point } = this.#map;
    if (!point) return;
    const isDue = this.#again === null ? this.#keys.some((key) => shown?.slotOf(key) === undefined) : Date.now() >= this.#again;
    if (isDue && !document.hidden) this.#showClients(point.lat, point.lon);
  }

  async show({ lat, lon }) {
    this.#map.point = { lat, lon };
    this.#map.invalidate();
    setText(byId('near-title'), `Near ${position(lat, lon)}`);
    this.#showClients(lat, lon);
    byId('near').hidden = false;
    await this.#showPlaces(lat, lon, ++this.#asked);
  }

  #showClients(lat, lon) {
    const { shown: clients, projection } = this.#map;
    const radius = Math.max(RADIUS_KM, (FINGERTIP / projection.scale) * KM_PER_DEGREE);
    if (!clients) {
      this.#askForClients(lat, lon, radius);
      return;
    }
    this.#again = null;
    const nearest = clients.nearest(lat, lon, MAX_CLIENTS);
    const found = nearest.filter(({ km }) => km <= radius);
    const within = distance(radius);
    let text = `No client within ${within}.`;
    if (found.length === MAX_CLIENTS) text = `The nearest ${MAX_CLIENTS} clients within ${within}:`;
    else if (found.length > 0) text = `${plural(found.length, 'client')} within ${within}:`;
    else if (nearest.length > 0) text += ` The nearest is ${distance(nearest[0].km)} away:`;
    setText(byId('near-text'), text);
    const shown = found.length > 0 ? found : nearest.slice(0, 1);
    this.#list(shown.map(({ slot, km }) => ({ key: clients.keys[slot], km })));
  }

  /** Lists the clients that the server names, where the page has their counts only. */
  async #askForClients(lat, lon, radius) {
    const { point, grid } = this.#map;
    this.#again = Infinity;
    const question = `lat=${lat.toFixed(6)}&lon=${lon.toFixed(6)}&radius=${radius.toFixed(3)}&limit=${MAX_CLIENTS}`;
    let answer = null;
    try {
      const response = await request(`/v1/nearby?${question}`);
      if (response.ok) answer = await response.json();
    } catch {
      // The stream of events says that the server does not answer.
    }
    // Another point was asked about meanwhile, or the page has the clients now.
    if (this.#map.point !== point || this.#map.shown) return;
    this.#again = Date.now() + AGAIN_MS;
    const clients = answer?.clients ?? [];
    const within = `within ${distance(radius)}`;
    const found = answer?.more ? `The nearest ${clients.length} ${within}:` : `${plural(clients.length, 'client')} ${within}.`;
    const count = `${plural(grid.countAt(lat, lon), 'client')} in this cell of one degree.`;
    setText(byId('near-text'), answer ? `${count} ${found}` : count);
    this.#list(clients.map((client) => ({ key: keyOf(client), km: client.km })));
  }

  #list(clients) {
    this.#keys = clients.map(({ key }) => key);
    byId('near-clients').replaceChildren(
      ...clients.map(({ key, km }) => {
        const button = element('button', { type: 'button' }, shownId(key));
        button.addEventListener('click', () => this.#onSelect(key));
        return element('li', { 'data-km': km.toFixed(3) }, button, ` ${distance(km)}`);
      }),
    );
  }

  async #showPlaces(lat, lon, asked) {
    const status = byId('near-places-text');
    const list = byId('near-places');
    list.replaceChildren();
    byId('near-credits').replaceChildren();
    setText(status, 'asking …');
    const question = new URLSearchParams({ lat: lat.toFixed(6), lon: lon.toFixed(6), radius: RADIUS_KM, limit: MAX_PLACES });
    let answer = null;
    let problem = '';
    try {
      const response = await request(`/places?${question}`);
      if (response.ok) answer = await response.json();
      else problem = `this server answers ${response.status}`;
    } catch {
      problem = 'this server does not answer';
    }
    // Another point was asked about meanwhile.
    if (asked !== this.#asked) return;
    if (!answer) {
      setText(status, `No places: ${problem}.`);
      return;
    }
    const places = answer.results ?? [];
    const within = `within ${number(RADIUS_KM)} km`;
    let text = `No place ${within}.`;
    // The atlas weighs a place's size against its distance; the list is in the order of the clients beside it.
    if (places.length === MAX_PLACES) text = `${MAX_PLACES} places ${within}, chosen by size and distance, nearest first:`;
    else if (places.length > 0) text = `${plural(places.length, 'place')} ${within}, nearest first:`;
    setText(status, text);
    const away = ({ geometry: { location } }) => kilometers(lat, lon, location.lat, location.lng);
    const sorted = places.map((place) => ({ ...place, km: away(place) })).sort((one, other) => one.km - other.km);
    list.replaceChildren(
      ...sorted.map(({ name, vicinity, km }) => {
        const words = `${name}${vicinity ? `, ${vicinity}` : ''} `;
        return element('li', { 'data-km': km.toFixed(3) }, words, element('span', { class: 'muted' }, distance(km)));
      }),
    );
    if (places.length > 0) byId('near-credits').append(...credits(answer.html_attributions ?? []));
  }
}

/** Returns the credits as texts and links; nothing else of their HTML gets into the page. */
function credits(attributions) {
  return attributions.flatMap((html, index) => {
    const nodes = [];
    const copy = (node) => {
      if (node.nodeName === 'A' && /^https:/.test(node.getAttribute('href') ?? '')) {
        nodes.push(element('a', { href: node.getAttribute('href'), rel: 'noreferrer' }, node.textContent));
      } else if (node.nodeName === 'SCRIPT' || node.nodeName === 'STYLE') {
        return;
      } else if (node.childNodes.length > 0) {
        node.childNodes.forEach(copy);
      } else if (node.nodeType === Node.TEXT_NODE) {
        nodes.push(node.textContent);
      }
    };
    copy(new DOMParser().parseFromString(html, 'text/html').body);
    return index > 0 ? ['. ', ...nodes] : nodes;
  });
}
