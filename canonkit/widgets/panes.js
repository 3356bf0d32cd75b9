// Several 3D panes side by side, redrawn when the molecules change. Traits: panes [{title, block, axes, halo}],
// ball_and_stick (3Dmol's style), size, zoom (a number: when it changes the cameras start anew), local, address, picture (PNG, without WebGL).
function drawPane(viewer, pane, style) {
  viewer.removeAllModels();
  viewer.removeAllShapes();
  viewer.removeAllLabels();
  viewer.addModel(pane.block, "sdf");
  viewer.setStyle(style);
  const [origin, point] = [{x: 0, y: 0, z: 0}, ([x, y, z]) => ({x, y, z})];
  for (const [name, colour, end] of pane.axes) {
    viewer.addArrow({start: origin, end: point(end), radius: 0.05, color: colour});
    viewer.addLabel(name, {position: point(end), fontColor: colour, backgroundOpacity: 0, fontSize: 12});
  }
  for (const centre of pane.halo) viewer.addSphere({center: point(centre), radius: 0.55, color: "#d00000", opacity: 0.35});
}

function makePanes(model, el) {
  const row = document.createElement("div");
  row.className = "canonkit-panes";
  row.style.cssText = "display: flex; gap: 8px; background: white; color: black";
  el.appendChild(row);
  const size = Number(model.get("size"));
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
      viewers.push([box.children[0], window.$3Dmol.createViewer(box.children[1], {backgroundColor: "white"})]);
    }
    const fresh = zoomed !== model.get("zoom");
    zoomed = model.get("zoom");
    panes.forEach((pane, k) => {
      const [title, viewer] = viewers[k];
      title.textContent = pane.title;
      drawPane(viewer, pane, model.get("ball_and_stick"));
      if (fresh) { viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]); viewer.zoomTo(); }
      viewer.render();
    });
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
