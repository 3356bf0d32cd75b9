// Loads 3Dmol.js once per page, the copy that Jupyter's server hands out first, and calls ready() or failed().
window.canonkit3Dmol = window.canonkit3Dmol || function (local, address, ready, failed) {
  const script = url => new Promise((done, fail) => {
    const kept = {module: window.module, exports: window.exports, define: window.define};
    for (const name in kept) window[name] = undefined;  // so that it defines the global $3Dmol
    const restore = () => Object.assign(window, kept);
    const tag = document.createElement("script");
    tag.src = url;
    tag.onload = () => { restore(); window.$3Dmol ? done() : fail(); };
    tag.onerror = () => { restore(); fail(); };
    document.head.appendChild(tag);
  });
  if (!window.canonkit3DmolLoading) {
    const page = document.getElementById("jupyter-config-data");
    const near = local && page ? [JSON.parse(page.textContent).baseUrl + "lab/extensions/canonkit/3Dmol-min.js"] : [];
    window.canonkit3DmolLoading = window.$3Dmol ? Promise.resolve() :
      [...near, address].reduce((before, url) => before.catch(() => script(url)), Promise.reject());
    // Views of py3Dmol itself wait for this, so that they need not load it a second time.
    window.$3Dmolpromise = window.canonkit3DmolLoading.catch(() => new Promise(() => {}));
  }
  const canvas = document.createElement("canvas");
  const drawn = canvas.getContext("webgl2") || canvas.getContext("webgl");
  drawn ? window.canonkit3DmolLoading.then(ready, failed) : failed();
};
