// Where the label of the marked client stands on the map, and how much of it: all that is drawn of it
// lies inside the map.

/** Room between the label and the edge of the map. */
const EDGE = 4;
/** Distance of the label from the center of the mark, beside it and from it to the line of the text. */
const BESIDE = 14;
const BELOW = 28;
const ABOVE = 16;
/** Height of the letters over the line of the text and under it. */
const ASCENT = 12;
const DESCENT = 4;

/**
 * Returns a label as { text, left, line } for a mark at a pixel, or null if the mark is not in view.
 * `measure` returns the width of a text.
 */
export function placeLabel(text, { x, y }, { width, height }, measure) {
  if (x < 0 || x > width || y < 0 || y > height) return null;
  const shown = shortened(text, width - 2 * EDGE, measure);
  const wide = measure(shown);
  const within = (line) => Math.min(height - EDGE - DESCENT, Math.max(EDGE + ASCENT, line));
  if (x + BESIDE + wide <= width - EDGE) return { text: shown, left: x + BESIDE, line: within(y + 4.5) };
  if (x - BESIDE - wide >= EDGE) return { text: shown, left: x - BESIDE - wide, line: within(y + 4.5) };
  const left = Math.min(width - EDGE - wide, Math.max(EDGE, x - wide / 2));
  const isBelow = y + BELOW + DESCENT <= height - EDGE;
  return { text: shown, left, line: within(isBelow ? y + BELOW : y - ABOVE) };
}

/** Returns as much of a text as has room, with … for the rest. */
function shortened(text, room, measure) {
  const letters = [...text];
  let shown = text;
  for (let count = Math.min(letters.length, 40); measure(shown) > room || [...shown].length > 40; ) {
    if (--count <= 0) return '…';
    shown = `${letters.slice(0, count).join('')}…`;
  }
  return shown;
}
