// Distances and directions on the globe.

const EARTH_RADIUS_KM = 6371.0088;
const RADIANS = Math.PI / 180;

export const KM_PER_DEGREE = EARTH_RADIUS_KM * RADIANS;

/** Returns a difference of longitudes, or a longitude, between -180 and 180. */
export function wrap(degrees) {
  if (degrees >= -180 && degrees < 180) return degrees;
  return degrees - 360 * Math.floor((degrees + 180) / 360);
}

/** Returns the great-circle distance in kilometers. */
export function kilometers(lat1, lon1, lat2, lon2) {
  const a = Math.sin(((lat2 - lat1) * RADIANS) / 2);
  const b = Math.sin(((lon2 - lon1) * RADIANS) / 2);
  const h = a * a + Math.cos(lat1 * RADIANS) * Math.cos(lat2 * RADIANS) * b * b;
  return 2 * EARTH_RADIUS_KM * Math.asin(Math.min(1, Math.sqrt(h)));
}
