// Plays trajectories. data: {elements, style, titles, axes, size, columns, fps, frames: [[molecule per pane] per frame]}, molecules as in
// panes.js. All panes share one canvas and turn together.
function makePlayer(root, data) {
  const columns = Math.max(1, Math.min(data.columns, Math.floor(root.parentElement.clientWidth / data.size) || data.columns));
  const rows = Math.ceil(data.titles.length / columns), last = data.frames.length - 1;
  root.className = "canonkit-player";
  root.style.cssText = `position: relative; width: ${columns * data.size}px; background: white; color: black; color-scheme: light`;
  root.innerHTML = `<div class="canonkit-stage" style="position: relative; width: 100%; height: ${rows * data.size}px"></div>
    <div style="display: flex; gap: 8px; align-items: center; font: 13px sans-serif; padding: 4px">
      <button aria-label="play or pause" style="width: 34px; height: 26px"></button>
      <input type="range" min="0" max="${last}" value="0" aria-label="frame" style="flex: 1; min-width: 80px">
      <span style="width: 64px; text-align: right"></span>
      <label><input type="checkbox" checked> loop</label></div>`;
  if (!last) root.children[1].style.display = "none";  // nothing moves
  const [stage, bar] = root.children, [button, slider, counter] = bar.children, loop = bar.querySelector("[type=checkbox]");
  const grid = window.$3Dmol.createViewerGrid(stage, {rows, cols: columns, control_all: true}, viewerOptions());
  const viewers = grid.flat().slice(0, data.titles.length);
  scrollThrough(stage);
  data.titles.forEach((title, k) => {
    const label = document.createElement("div");
    label.textContent = title;
    if (/: .*(ambiguous|jumps)/.test(title)) label.style.fontWeight = "bold";
    label.style.cssText = `position: absolute; pointer-events: none; font: 12px sans-serif; text-align: center; width: ${data.size}px;
      left: ${k % columns * data.size}px; top: ${Math.floor(k / columns) * data.size + 2}px`;
    stage.appendChild(label);
  });
  let shown = -1, wanted = 0, playing = false, started = 0;
  const draw = () => {
    if (shown === wanted) return;
    shown = wanted;
    viewers.forEach((viewer, k) => { setMolecule(viewer, data.frames[shown][k], data); viewer.render(); });
    slider.value = shown;
    counter.textContent = `${shown + 1} / ${last + 1}`;
    root.dataset.frame = shown;
    root.dataset.drawn = 1 + Number(root.dataset.drawn || 0);
  };
  const tick = now => {
    if (!playing || !root.isConnected) return;
    const at = Math.max(0, Math.floor((now - started) / 1000 * data.fps));  // late frames are left out, the pace is kept
    wanted = loop.checked ? at % (last + 1 + data.fps) : at;  // a loop rests for a second at its end
    wanted = Math.min(wanted, last);
    draw();
    if (!loop.checked && at >= last) return play(false);
    requestAnimationFrame(tick);
  };
  const play = on => {
    playing = on;
    button.textContent = on ? "❚❚" : "▶";
    if (!on) return;
    started = performance.now() - (wanted === last ? 0 : wanted) / data.fps * 1000;
    requestAnimationFrame(tick);
  };
  button.onclick = () => play(!playing);
  slider.oninput = () => { play(false); wanted = Number(slider.value); requestAnimationFrame(draw); };
  viewers.forEach((viewer, k) => {
    setMolecule(viewer, data.frames[last][k], data);  // the camera is set for the molecule, not for the noise
    if (data.axes) addAxes(viewer, data.axes);
    look(viewer, data.frames[last]);
  });
  draw();
  play(false);
}
