// Several 3D panes side by side, redrawn when the molecules change. Traits: panes [{title, molecule, axes, halo}], elements,
// ball_and_stick (3Dmol's style), size, zoom (a number: when it changes the cameras start anew), local, address, picture (PNG, without WebGL).
// A molecule is {types: [index of the element], x: [hundredths of Å, three per atom], bonds: [i, j, order, ...]}.
function viewerOptions() {
  const gl = document.createElement("canvas").getContext("webgl2"), info = gl && gl.getExtension("WEBGL_debug_renderer_info");
  const slow = !info || /swiftshader|llvmpipe|software/i.test(gl.getParameter(info.UNMASKED_RENDERER_WEBGL));
  return {backgroundColor: "white", antialias: !slow};  // without a GPU smooth edges cost eight times the time
}

function setMolecule(viewer, {types, x, bonds}, {elements, style}) {
  const atoms = types.map((type, i) => ({
    elem: elements[type], serial: i, x: x[3 * i] / 100, y: x[3 * i + 1] / 100, z: x[3 * i + 2] / 100, bonds: [], bondOrder: [],
  }));
  for (let k = 0; k < bonds.length; k += 3) {
    for (const [i, j] of [[bonds[k], bonds[k + 1]], [bonds[k + 1], bonds[k]]]) {
      atoms[i].bonds.push(j);
      atoms[i].bondOrder.push(bonds[k + 2]);
    }
  }
  viewer.removeAllModels();
  viewer.addModel().addAtoms(atoms);
  viewer.setStyle(style);
}

function addAxes(viewer, axes) {
  for (const [name, color, [x, y, z]] of axes) {
    viewer.addArrow({start: {x: 0, y: 0, z: 0}, end: {x, y, z}, radius: 0.05, color});
    viewer.addLabel(name, {position: {x, y, z}, fontColor: color, backgroundOpacity: 0, fontSize: 12});
  }
}

function look(viewer, molecules) {  // along z; the farthest atom of all is seen however they are turned (as in view.py)
  const far = Math.max(...molecules.flatMap(({x}) => x.map((_, i) => i % 3 ? 0 : Math.hypot(x[i], x[i + 1], x[i + 2]) / 100)));
  viewer.setView([0, 0, 0, 150 - Math.max(far + 0.8, 2.5) / Math.sin(Math.PI / 18), 0, 0, 0, 1]);
}

function scrollThrough(box) {  // the wheel scrolls the page; with ctrl it zooms
  box.addEventListener("wheel", event => { if (!event.ctrlKey) event.stopPropagation(); }, {capture: true});
}

function drawPane(viewer, pane, how) {
  viewer.removeAllShapes();
  viewer.removeAllLabels();
  setMolecule(viewer, pane.molecule, how);
  addAxes(viewer, pane.axes);
  for (const [x, y, z] of pane.halo) viewer.addSphere({center: {x, y, z}, radius: 0.55, color: "#d00000", opacity: 0.45});
}

function makePanes(model, el) {
  const row = document.createElement("div");
  row.className = "canonkit-panes";
  row.style.cssText = "display: flex; flex-wrap: wrap; gap: 8px; background: white; color: black";
  el.appendChild(row);
  const size = Number(model.get("size"));
  const options = viewerOptions();
  let viewers = [], waiting = false, zoomed = null;

  const flat = () => {
    const picture = model.get("picture");
    const image = document.createElement("img");
    image.src = `data:image/png;base64,${picture}`;
    row.replaceChildren(...(picture ? [image] : []));
    if (!model.get("flat")) { model.set("flat", true); model.save_changes(); }
  };
  const redraw = () => {
    waiting = false;
    const panes = model.get("panes");
    while (viewers.length < panes.length) {
      const box = document.createElement("div");
      box.innerHTML = `<div style="font: 13px sans-serif; text-align: center"></div>
        <div class="canonkit-pane" style="position: relative; width: ${size}px; height: ${size}px"></div>`;
      row.appendChild(box);
      scrollThrough(box);
      viewers.push([box.children[0], window.$3Dmol.createViewer(box.children[1], options)]);
    }
    const fresh = zoomed !== model.get("zoom");
    zoomed = model.get("zoom");
    panes.forEach((pane, k) => {
      const [title, viewer] = viewers[k], state = JSON.stringify(pane);
      if (state === viewers[k].state && !fresh) return;  // canonical poses that do not move cost nothing
      viewers[k].state = state;
      title.textContent = pane.title;
      drawPane(viewer, pane, {elements: model.get("elements"), style: model.get("ball_and_stick")});
      if (fresh) look(viewer, panes.map(one => one.molecule));
      viewer.render();
    });
    row.dataset.drawn = 1 + Number(row.dataset.drawn || 0);
  };
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(redraw); } };
  window.canonkit3Dmol(model.get("local"), model.get("address"), () => {
    later();
    model.on("change:panes", later);
  }, () => {
    flat();
    model.on("change:picture", flat);
  });
}
