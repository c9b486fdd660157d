// Text and elements. Whatever a server or a client has sent gets into the page as text only.

export const byId = (id) => document.getElementById(id);

/** Returns a new element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Returns a new element of the ring's namespace. */
export function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS(byId('ring').namespaceURI, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Sets the text of an element where it differs: an equal text would be laid out, and read out, again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute where it differs, or removes it for null. */
export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const whole = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });

export const number = (value) => whole.format(value);

/** Returns a number in few letters: 950, 12.3K. */
export const compact = (value) => (value < 10000 ? whole.format(Math.round(value)) : short.format(value));

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Returns a time in seconds with the unit that fits it. */
export function seconds(value) {
  if (value === 0) return '0 ms';
  const [amount, unit] = value < 0.001 ? [value * 1e6, 'µs'] : value < 1 ? [value * 1e3, 'ms'] : [value, 's'];
  return `${amount.toFixed(amount < 10 ? 2 : amount < 100 ? 1 : 0)} ${unit}`;
}

/** Returns how long something takes or has taken: 12 s, 3 min 5 s, 2 h 3 min, 4 days. */
export function duration(milliseconds) {
  const total = Math.max(0, Math.round(milliseconds / 1000));
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  if (total < 48 * 3600) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} days`;
}

const time = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const dateAndTime = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

/** Returns a time of the day, by the viewer's clock and zone, with the date if it is long ago. */
export function clock(milliseconds) {
  const isNear = Math.abs(Date.now() - milliseconds) < 12 * 3600 * 1000;
  return (isNear ? time : dateAndTime).format(milliseconds);
}

/** Returns a distance in kilometers with the unit that fits it. */
export function distance(kilometers) {
  if (kilometers < 1) return `${Math.round(kilometers * 1000)} m`;
  return `${kilometers < 100 ? kilometers.toFixed(1) : number(Math.round(kilometers))} km`;
}

export const position = (lat, lon) => `${degrees(lat, 'N', 'S')}, ${degrees(lon, 'E', 'W')}`;

/** Returns an angle with its direction, between which no line ends. */
const degrees = (value, plus, minus) => `${Math.abs(value).toFixed(5)}°\u00a0${value < 0 ? minus : plus}`;
