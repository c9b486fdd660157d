// Moving the map by mouse, touch and keys, and asking about a point of it.

/** Movement in pixels up to which a press is a click. */
const CLICK = 6;
const STEP = 0.15;
const ZOOM = 1.6;

/**
 * Sets up `canvas` for a projection: `onMove` after each change, `onAsk` with a pixel, `onWatch` for the
 * center. While `draft` is on, a stroke draws on the map instead of moving it.
 */
export function attach(canvas, projection, { onMove, onAsk, onEscape, onWatch, draft }) {
  const pointers = new Map();
  /** Pointer that draws. */
  let pen = null;
  let traveled = 0;

  const placeOf = (event) => {
    const frame = canvas.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  };
  /** The center of the fingers, and how far they are from it. */
  const grip = () => {
    const all = [...pointers.values()];
    const x = all.reduce((sum, one) => sum + one.x, 0) / all.length;
    const y = all.reduce((sum, one) => sum + one.y, 0) / all.length;
    return { x, y, spread: Math.hypot(all[0].x - x, all[0].y - y) };
  };

  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || pointers.size === 2 || pen !== null) return;
    if (draft.isOn && pointers.size === 0) {
      pen = event.pointerId;
      canvas.setPointerCapture(pen);
      draft.begin(placeOf(event));
      return;
    }
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
    traveled = pointers.size === 1 ? 0 : Infinity;
  });
  canvas.addEventListener('pointermove', (event) => {
    if (event.pointerId === pen) draft.move(placeOf(event));
    if (!pointers.has(event.pointerId)) return;
    const before = grip();
    pointers.set(event.pointerId, placeOf(event));
    const after = grip();
    traveled += Math.hypot(after.x - before.x, after.y - before.y);
    if (traveled <= CLICK) return;
    canvas.classList.add('dragging');
    projection.pan(after.x - before.x, after.y - before.y);
    if (pointers.size === 2 && before.spread > 0) projection.zoom(after.spread / before.spread, after.x, after.y);
    onMove();
  });
  const release = (event) => {
    if (event.pointerId === pen) {
      pen = null;
      if (event.type === 'pointerup') draft.end(placeOf(event));
      else draft.cancel();
    }
    if (!pointers.delete(event.pointerId) || pointers.size > 0) return;
    canvas.classList.remove('dragging');
    if (event.type === 'pointerup' && traveled <= CLICK) onAsk(placeOf(event));
  };
  canvas.addEventListener('pointerup', release);
  canvas.addEventListener('pointercancel', release);

  canvas.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
      const { x, y } = placeOf(event);
      // A pinch on a touchpad comes as small steps with Ctrl.
      projection.zoom(Math.exp(-Math.max(-400, Math.min(400, pixels)) * (event.ctrlKey ? 0.01 : 0.002)), x, y);
      onMove();
    },
    { passive: false },
  );

  const center = () => ({ x: projection.width / 2, y: projection.height / 2 });
  const keys = {
    ArrowLeft: () => projection.pan(projection.width * STEP, 0),
    ArrowRight: () => projection.pan(-projection.width * STEP, 0),
    ArrowUp: () => projection.pan(0, projection.height * STEP),
    ArrowDown: () => projection.pan(0, -projection.height * STEP),
    '+': () => projection.zoom(ZOOM),
    '=': () => projection.zoom(ZOOM),
    '-': () => projection.zoom(1 / ZOOM),
    0: () => projection.showAll(),
    Enter: () => (draft.isOn ? onWatch() : onAsk(center())),
    w: onWatch,
    W: onWatch,
    Escape: () => (draft.isOn ? draft.set(false) : onEscape()),
  };
  canvas.addEventListener('keydown', (event) => {
    const action = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
    onMove();
  });

  return {
    zoomIn: () => (projection.zoom(ZOOM), onMove()),
    zoomOut: () => (projection.zoom(1 / ZOOM), onMove()),
    showAll: () => (projection.showAll(), onMove()),
  };
}
