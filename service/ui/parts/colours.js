// The map's colours: perceptually uniform, dark to bright, so that they rank the same in grey.

// Inferno at eleven places (matplotlib's, public domain), between which colours are mixed.
const STOPS = [
  [0, 0, 4], [22, 11, 57], [66, 10, 104], [106, 23, 110], [147, 38, 103], [188, 55, 84],
  [221, 81, 58], [243, 120, 25], [252, 165, 10], [246, 215, 70], [252, 255, 164],
];
const CLEAR = 48; // below three eighths of the threshold nothing is drawn
export const THRESHOLD = 128; // of a map's grey values; 255 is twice the threshold

function colour(share) {
  const place = share * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(place));
  return STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * (place - low)));
}

/** Colour and opacity of each grey value: 256 times [red, green, blue, alpha]. */
export const TABLE = Array.from({ length: 256 }, (_, grey) => [
  ...colour(0.15 + 0.85 * (grey / 255)),
  grey < CLEAR ? 0 : Math.round(235 * Math.min(1, (grey - CLEAR) / (THRESHOLD - CLEAR))),
]);

/** Paint a map's grey values (H × W) in colours, with a line where they cross the threshold. */
export function paint(grey, width, height) {
  const image = new ImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const lookup = new Uint32Array(TABLE.map(([r, g, b, a]) => (a << 24) | (b << 16) | (g << 8) | r));
  for (let i = 0; i < grey.length; i += 1) out[i] = lookup[grey[i]];
  contour(grey, width, height, out);
  return image;
}

function contour(grey, width, height, out) {
  const thickness = Math.max(1, Math.round(Math.hypot(width, height) / 700));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const i = y * width + x;
      if (grey[i] < THRESHOLD) continue;
      const isEdge =
        x < thickness || y < thickness || x >= width - thickness || y >= height - thickness ||
        grey[i - thickness] < THRESHOLD || grey[i + thickness] < THRESHOLD ||
        grey[i - thickness * width] < THRESHOLD || grey[i + thickness * width] < THRESHOLD;
      if (isEdge) out[i] = 0xffffffff;
    }
  }
}
