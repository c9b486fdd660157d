// Returns the faults of the page's layout as sentences: boxes of text or panels that overlap, text
// that is cut off, covered or faint, and a page that scrolls sideways.
const faults = [];
const root = document.documentElement;
const name = (element) => {
    const id = element.id ? `#${element.id}` : '';
    const text = element.textContent.trim().replace(/\s+/g, ' ').slice(0, 40);
    return `${element.tagName.toLowerCase()}${id} "${text}"`;
};
const seen = (element) => element.checkVisibility({
    opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true,
});
const plain = ({ left, top, right, bottom }) => ({ left, top, right, bottom });
const meet = (one, other) => ({
    left: Math.max(one.left, other.left),
    top: Math.max(one.top, other.top),
    right: Math.min(one.right, other.right),
    bottom: Math.min(one.bottom, other.bottom),
});
const is_empty = (box) => box.right - box.left <= 1 || box.bottom - box.top <= 1;
const related = (one, other) => one.contains(other) || other.contains(one);
const text_of = (box) => `${Math.round(box.left)},${Math.round(box.top)} to ${Math.round(box.right)},${Math.round(box.bottom)}`;

// Text for screen readers only is in a box of a pixel.
const is_for_the_ear = (element) => {
    for (let outer = element; outer && outer !== root; outer = outer.parentElement) {
        const box = outer.getBoundingClientRect();
        if (getComputedStyle(outer).position === 'absolute' && box.width <= 2 && box.height <= 2) return true;
    }
    return false;
};

// The part of a box that the element and those around it show, with the element that cuts it off.
const shown = (element, whole) => {
    let box = plain(whole), cut = null;
    for (let outer = element; outer && outer !== document.body && outer !== root; outer = outer.parentElement) {
        const style = getComputedStyle(outer);
        const edges = outer.getBoundingClientRect();
        const hides = (overflow) => overflow === 'hidden' || overflow === 'clip';
        if (style.overflowX !== 'visible' && style.display !== 'inline') {
            if (hides(style.overflowX) && (box.left < edges.left - 1 || box.right > edges.right + 1)) cut ??= outer;
            box = meet(box, { ...plain(edges), top: box.top, bottom: box.bottom });
        }
        if (style.overflowY !== 'visible' && style.display !== 'inline') {
            if (hides(style.overflowY) && (box.top < edges.top - 1 || box.bottom > edges.bottom + 1)) cut ??= outer;
            box = meet(box, { ...plain(edges), left: box.left, right: box.right });
        }
        if (style.position === 'fixed') break;
    }
    return { box, cut };
};

// Red, green, blue and opacity of a color, each from 0 to 1, whatever the color space.
const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const channels = (color) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data].map((channel) => channel / 255);
};
const over = (front, back) => [0, 1, 2].map((index) => front[index] * front[3] + back[index] * (1 - front[3]));
// Relative luminance as the guidelines for accessible content (WCAG) define it.
const luminance = (color) => {
    const [red, green, blue] = color.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
// The ratio of contrast between a text and its background, or null where the background is a picture.
const contrast = (element) => {
    const layers = [];
    for (let outer = element; outer; outer = outer.parentElement) {
        const style = getComputedStyle(outer);
        if (style.backgroundImage !== 'none' || style.opacity !== '1') return null;
        layers.push(channels(style.backgroundColor));
        if (layers.at(-1)[3] === 1) break;
        if (style.position === 'absolute' || style.position === 'fixed') return null;
    }
    const back = layers.reduceRight((below, layer) => over(layer, below), channels(getComputedStyle(root).colorScheme === 'dark' ? '#121212' : '#fff'));
    const front = over(channels(getComputedStyle(element).color), back);
    const [dark, bright] = [luminance(front), luminance(back)].sort((one, other) => one - other);
    return (bright + 0.05) / (dark + 0.05);
};

if (root.scrollWidth > root.clientWidth + 1) {
    faults.push(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth}`);
}

const lines = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('script, style, option, noscript, title, desc')) continue;
    if (!seen(element) || is_for_the_ear(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
        if (is_empty(rect)) continue;
        const { box, cut } = shown(element, rect);
        if (cut) faults.push(`${name(element)} is cut off by ${name(cut)}`);
        if (is_empty(box)) continue;
        if (box.left < -1 || box.right > root.clientWidth + 1) {
            faults.push(`${name(element)} is outside the window: ${text_of(box)}`);
        }
        // A font's ascent and descent reach beyond the letters.
        const inset = Math.min(3, (box.bottom - box.top) / 5);
        lines.push({ element, box: { ...box, top: box.top + inset, bottom: box.bottom - inset } });
    }
}
for (const [index, one] of lines.entries()) {
    for (const other of lines.slice(index + 1)) {
        if (one.element === other.element || is_empty(meet(one.box, other.box))) continue;
        faults.push(`${name(one.element)} at ${text_of(one.box)} overlaps ${name(other.element)} at ${text_of(other.box)}`);
    }
    const x = (one.box.left + one.box.right) / 2, y = (one.box.top + one.box.bottom) / 2;
    const above = document.elementFromPoint(x, y);
    if (!above || getComputedStyle(one.element).pointerEvents === 'none' || related(above, one.element)) continue;
    const picture = one.element.closest('svg');
    if (!picture || above.closest('svg') !== picture) {
        faults.push(`${name(one.element)} at ${text_of(one.box)} is covered by ${name(above)}`);
    }
}

for (const element of new Set(lines.map((line) => line.element))) {
    if (element.closest('svg, :disabled')) continue;
    const { fontSize, fontWeight } = getComputedStyle(element);
    const is_large = parseFloat(fontSize) >= (fontWeight >= 700 ? 18.66 : 24);
    const ratio = contrast(element);
    if (ratio !== null && ratio < (is_large ? 3 : 4.5)) faults.push(`${name(element)} has a contrast of ${ratio.toFixed(2)}`);
}

const panels = [...document.querySelectorAll('header, footer, nav, main, aside, section, article, form, canvas, svg, input, button, [role], [id]')]
    .filter((element) => !element.closest('svg') || element.tagName === 'svg')
    .filter((element) => seen(element) && !is_for_the_ear(element))
    .map((element) => ({ element, box: shown(element.parentElement, element.getBoundingClientRect()).box }))
    .filter(({ box }) => !is_empty(box));
const holds = (outer, inner) =>
    outer.left <= inner.left + 1 && outer.top <= inner.top + 1 && outer.right >= inner.right - 1 && outer.bottom >= inner.bottom - 1;
for (const [index, one] of panels.entries()) {
    for (const other of panels.slice(index + 1)) {
        if (related(one.element, other.element) || is_empty(meet(one.box, other.box))) continue;
        if (holds(one.box, other.box) || holds(other.box, one.box)) continue;
        faults.push(`${name(one.element)} at ${text_of(one.box)} overlaps ${name(other.element)} at ${text_of(other.box)}`);
    }
}

return [...new Set(faults)];
