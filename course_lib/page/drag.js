// A query to drag among values in the plane: softmax attention and the nearest point of the hull follow it.
const SIZE = 420; // of the picture, in its own pixels
const MARGIN = 28; // kept free of the query, so that its mark is never cut off
const STEPS = 100; // of an arrow key, from one end of the plane to the other
const TINY = 1e-9; // weights, and distances relative to the coordinates, up to here are zero but for rounding
const REST = 500; // milliseconds without a move before the result is announced
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const minus = (a, b) => [a[0] - b[0], a[1] - b[1]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const distance = (a, b) => Math.hypot(...minus(a, b));
const area = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]); // twice, with its sign
const average = (weights, points) => [0, 1].map((k) => weights.reduce((sum, w, i) => sum + w * points[i][k], 0));
const text = (x) => (Math.round(x * 100) / 100 || 0).toFixed(2); // no -0.00

export function softmax(scores) {
  const powers = scores.map((score) => Math.exp(score - Math.max(...scores)));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// All sets of one, two or three of the numbers 0 to n - 1, small sets first.
function supports(n) {
  const all = [...Array(n).keys()];
  const sets = [...Array(1 << n).keys()].map((bits) => all.filter((i) => (bits >> i) & 1));
  return [1, 2, 3].flatMap((size) => sets.filter((set) => set.length === size));
}

// Weights with sum one, of any sign, whose average of the points is nearest to q; not finite if they are dependent.
function solve(q, [a, b, c]) {
  if (!b) return [1];
  const t = c ? area(a, q, c) / area(a, b, c) : dot(minus(q, a), minus(b, a)) / dot(minus(b, a), minus(b, a));
  if (!c) return [1 - t, t];
  const u = area(a, b, q) / area(a, b, c);
  return [1 - t - u, t, u];
}

// The point of the hull nearest to q. It is an average of at most three values (Carathéodory): try them all.
export function project(q, values) {
  const found = supports(values.length).map((support) => {
    const weights = values.map(() => 0);
    solve(q, support.map((i) => values[i])).forEach((w, k) => (weights[support[k]] = w));
    const point = average(weights, values);
    return { weights, point, distance: distance(point, q), allowed: support.every((i) => weights[i] > TINY) };
  }).filter((candidate) => candidate.allowed);
  const slack = TINY * Math.max(...[q, ...values].flat().map(Math.abs));
  const nearest = Math.min(...found.map((candidate) => candidate.distance)) + slack;
  const [first, ...others] = found.filter((candidate) => candidate.distance <= nearest);
  return { ...first, inHull: first.distance <= slack, unique: others.length === 0 };
}

// The square of the plane in which the query moves: around the points, with some room.
function square(points) {
  const [low, high] = [Math.min, Math.max].map((end) => [0, 1].map((k) => end(...points.map((point) => point[k]))));
  const half = 0.65 * Math.max(...minus(high, low)) || 1;
  return { low: [0, 1].map((k) => (low[k] + high[k]) / 2 - half), side: 2 * half };
}

// Each value as a dot with its number on the outer side; equal values share the place, and so their numbers.
function dots(corners) {
  const centre = average(corners.map(() => 1 / corners.length), corners);
  return corners.map((corner, i) => {
    const same = corners.flatMap((other, j) => (distance(other, corner) < 1 ? [j] : []));
    const out = distance(corner, centre) < 1 ? [0, -1] : minus(corner, centre);
    const [x, y] = corner.map((at, k) => at + (17 * out[k]) / Math.hypot(...out));
    const name = same[0] === i ? `<text x="${x}" y="${y}">${same.map((j) => j + 1)}</text>` : "";
    return `<circle cx="${corner[0]}" cy="${corner[1]}" r="4"/>${name}`;
  });
}

// All triangles together cover the hull. All run the same way round: else they would cut holes into each other.
function hull(corners) {
  const triangles = supports(corners.length).filter((set) => set.length === 3).map((set) => set.map((i) => corners[i]));
  return triangles.map(([a, b, c]) => `M${a}L${area(a, b, c) < 0 ? [c, b] : [b, c]}Z`).join("");
}

function render({ model, el }) {
  const values = model.get("values");
  const { low, side } = square([...values, model.get("query"), [0, 0]]);
  const pixels = (SIZE - 2 * MARGIN) / side;
  const toPicture = ([x, y]) => [MARGIN + (x - low[0]) * pixels, SIZE - MARGIN - (y - low[1]) * pixels];
  const toPlane = ([x, y]) => [low[0] + (x - MARGIN) / pixels, low[1] + (SIZE - MARGIN - y) / pixels];
  const corners = values.map(toPicture);
  const range = (name, min, max, step) => `<label>${name}
    <input type="range" min="${min}" max="${max}" step="${step}"><output aria-hidden="true"></output></label>`;
  const row = (start) => `<tr>${start}<td class="drag-number"></td><td class="drag-number"></td></tr>`;
  el.innerHTML = `<figure class="drag"><div class="drag-columns">
    <svg viewBox="0 0 ${SIZE} ${SIZE}" role="presentation">
      <g role="img" aria-label="${model.get("alt")}">
        <path class="drag-axes" d="M-${SIZE} 0H${SIZE}M0-${SIZE}V${SIZE}" transform="translate(${toPicture([0, 0])})"/>
        <path class="drag-edge" d="${hull(corners)}"/><path class="drag-hull" d="${hull(corners)}"/>
        ${dots(corners).join("")}<path class="drag-gap"/>
        <circle class="drag-softmax" r="8"/><rect class="drag-projection" x="-5" y="-5" width="10" height="10"/>
      </g>
      <g class="drag-query" role="button" tabindex="0" aria-label="query q: drag it, or press the arrow keys">
        <circle r="20"/><path d="M0-14 14 0 0 14-14 0Z"/><text x="22" y="-17">q</text>
      </g>
    </svg>
    <div class="drag-side">
      <div class="drag-controls">
        ${["query x", "query y"].map((name, k) => range(name, low[k], low[k] + side, side / STEPS)).join("")}
        ${range("inverse temperature c", -1, 2, 0.05)}
      </div>
      <table>
        <tr><th colspan="2" scope="col">weights</th><th scope="col"><i class="drag-softmax">●</i> softmax</th>
          <th scope="col"><i class="drag-projection">■</i> projection</th></tr>
        ${values.map((_, i) => row(`<th scope="row">${i + 1}</th>
          <td><div class="drag-softmax"></div><div class="drag-projection"></div></td>`)).join("")}
        ${row('<th colspan="2" scope="row">distance from q</th>')}
      </table><p aria-live="polite"></p>
    </div>
  </div><figcaption>${model.get("caption")}</figcaption></figure>`;

  const all = (selector) => [...el.querySelectorAll(selector)];
  const [[figure], [picture], [handle], [gap], [said]] = ["figure", "svg", ".drag-query", ".drag-gap", "p"].map(all);
  const marks = ["circle.drag-softmax", "rect.drag-projection", ".drag-query"].flatMap(all);
  const [inputs, outputs, bars, cells] = ["input", "output", "td div", ".drag-number"].map(all);

  let timer;
  const draw = () => {
    const [q, c] = [model.get("query"), model.get("c")];
    const weights = softmax(values.map((v) => c * dot(v, q)));
    const output = average(weights, values);
    const nearest = project(q, values);
    const places = [output, nearest.point, q].map(toPicture);
    marks.forEach((mark, i) => mark.setAttribute("transform", `translate(${places[i]})`));
    gap.setAttribute("d", `M${places[1]}L${places[2]}`);

    [...q, Math.log10(c)].forEach((value, i) => (inputs[i].value = value));
    [...q.map(text), c.toPrecision(3)].forEach((value, i) => {
      outputs[i].textContent = value;
      inputs[i].setAttribute("aria-valuetext", value);
    });
    const pairs = values.flatMap((_, i) => [weights[i], nearest.weights[i]]);
    bars.forEach((bar, i) => (bar.style.width = `${100 * pairs[i]}%`));
    [...pairs, distance(output, q), nearest.distance].forEach((x, i) => (cells[i].textContent = text(x)));

    const sentence = `q is ${nearest.inHull ? "inside" : "outside"} the hull, ${text(distance(output, q))} from ` +
      `softmax’s output and ${text(nearest.distance)} from its projection` +
      (nearest.unique ? "." : ", whose weights are one solution of many.");
    clearTimeout(timer);
    timer = setTimeout(() => (said.textContent = sentence), said.textContent && REST); // at once at the start
  };

  // The changes stay in the page: no kernel has to hear of every pixel.
  const move = (point) => model.set("query", point.map((at, k) => Math.min(Math.max(at, low[k]), low[k] + side)));
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    move(toPlane([x, y]));
  });
  handle.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault(); // it would scroll the page
    move(model.get("query").map((at, k) => at + (way[k] * side) / STEPS));
  });
  inputs.forEach((input, i) => input.addEventListener("input", () => {
    if (i === 2) return model.set("c", 10 ** input.valueAsNumber);
    move(model.get("query").map((at, k) => (k === i ? input.valueAsNumber : at)));
  }));
  figure.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab would take the arrow keys
  model.on("change", draw);
  draw();
  return () => model.off("change", draw);
}

export default { render };
