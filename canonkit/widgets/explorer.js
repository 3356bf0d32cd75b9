// A map of points beside one 3D pane. Traits beside those of panes.js: properties {name: [numbers]}, x, y, colour (names),
// chosen (index). A click chooses the nearest point; the pane is drawn by Python.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];  // viridis
function ramp(share) {
  const at = Math.max(0, Math.min(0.9999, share)) * (RAMP.length - 1), k = Math.floor(at);
  const mixed = RAMP[k].map((from, i) => Math.round(from + (RAMP[k + 1][i] - from) * (at - k)));
  return `rgb(${mixed})`;
}

function makeMap(model, el) {
  const [width, height, margin] = [420, model.get("size") + 20, 46];
  const canvas = document.createElement("canvas");
  const scale = window.devicePixelRatio || 1;
  canvas.className = "canonkit-map";
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.cssText = `width: ${width}px; height: ${height}px; background: white; cursor: crosshair`;
  el.appendChild(canvas);
  const pen = canvas.getContext("2d");
  let places = [];

  const span = values => {
    const known = values.filter(Number.isFinite), low = Math.min(...known), high = Math.max(...known);
    return low < high ? [low, high] : [low - 1, high + 1];
  };
  const text = value => Math.abs(value) >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(2);
  const redraw = () => {
    const all = model.get("properties"), names = ["x", "y", "colour"].map(axis => model.get(axis));
    const [xs, ys, cs] = names.map(name => all[name]);
    const [[x0, x1], [y0, y1], [c0, c1]] = [xs, ys, cs].map(span);
    const right = x => margin + (x - x0) / (x1 - x0) * (width - 2 * margin);
    const up = y => height - margin - (y - y0) / (y1 - y0) * (height - 2 * margin);
    const taken = {};
    places = xs.map((x, k) => {  // points that fall together are spread in a spiral
      const place = [right(x), up(ys[k])], key = place.map(v => Math.round(v / 3));
      const n = taken[key] = (taken[key] || 0) + 1, far = 4 * Math.sqrt(n - 1);
      return [place[0] + far * Math.cos(2.4 * n), place[1] + far * Math.sin(2.4 * n)];
    });
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = "#999999";
    pen.strokeRect(margin - 8, margin - 8, width - 2 * margin + 16, height - 2 * margin + 16);
    pen.font = "12px sans-serif";
    pen.fillStyle = "black";
    pen.textAlign = "center";
    pen.fillText(names[0], width / 2, height - 8);
    pen.fillText(`colour: ${names[2]}, ${text(c0)} dark to ${text(c1)} light`, width / 2, 16);
    for (const x of [x0, x1]) pen.fillText(text(x), right(x), height - margin + 24);
    pen.textAlign = "right";
    for (const y of [y0, y1]) pen.fillText(text(y), margin - 12, up(y) + 4);
    pen.save();
    pen.translate(14, height / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(names[1], 0, 0);
    pen.restore();
    places.forEach(([x, y], k) => {
      if (!Number.isFinite(x + y)) return;
      pen.beginPath();
      pen.arc(x, y, 4, 0, 2 * Math.PI);
      pen.fillStyle = Number.isFinite(cs[k]) ? ramp((cs[k] - c0) / (c1 - c0)) : "#bbbbbb";
      pen.fill();
    });
    const [x, y] = places[model.get("chosen")];
    pen.beginPath();
    pen.arc(x, y, 8, 0, 2 * Math.PI);
    pen.strokeStyle = "#d00000";
    pen.lineWidth = 2;
    pen.stroke();
    pen.lineWidth = 1;
  };
  const nearest = event => {
    const far = ([x, y]) => Number.isFinite(x + y) ? (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2 : Infinity;
    const distances = places.map(far);
    return distances.indexOf(Math.min(...distances));
  };
  canvas.onmousemove = event => { canvas.title = model.get("names")[nearest(event)]; };
  canvas.onclick = event => {
    model.set("chosen", nearest(event));
    model.save_changes();
  };
  for (const name of ["x", "y", "colour", "chosen"]) model.on(`change:${name}`, redraw);
  redraw();
}

export default {
  render({model, el}) {
    const row = document.createElement("div");
    row.style.cssText = "display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; background: white; color: black";
    el.appendChild(row);
    for (const make of [makeMap, makePanes]) {
      const side = document.createElement("div");
      row.appendChild(side);
      make(model, side);
    }
  },
};
