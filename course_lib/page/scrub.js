// One frame at a time, chosen by a slider or played one after another.
const MILLISECONDS = 600;

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const label = model.get("label");
  const names = model.get("names");
  const notes = model.get("notes");
  const last = names.length - 1;

  const play = element("button", { type: "button" });
  const slider = element("input", { type: "range", min: 0, max: last, step: 1, "aria-label": label });
  const value = element("output", { "aria-hidden": "true" }); // the slider announces its value itself
  const frames = model.get("pictures").map((picture, i) => {
    const frame = element("div", { class: "scrub-frame" });
    frame.innerHTML = picture;
    frame.append(element("p", {}, notes[i]));
    return frame;
  });
  // on paper, where nothing moves: the first, the middle and the last
  for (const i of [0, Math.floor(last / 2), last]) frames[i].classList.add("scrub-print");

  let timer = null;
  const go = (i) => {
    model.set("index", i);
    model.save_changes();
  };
  const show = () => {
    const now = model.get("index");
    slider.value = now;
    slider.setAttribute("aria-valuetext", `${names[now]}. ${notes[now]}`);
    value.textContent = names[now];
    frames.forEach((frame, i) => frame.classList.toggle("scrub-now", i === now));
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", `Play: ${label}`);
  };
  const step = () => {
    go(model.get("index") + 1);
    if (model.get("index") >= last) pause();
  };
  play.addEventListener("click", () => {
    if (timer !== null) return pause();
    if (model.get("index") >= last) go(0);
    timer = setInterval(step, MILLISECONDS);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", `Pause: ${label}`);
  });
  slider.addEventListener("input", () => {
    pause();
    go(slider.valueAsNumber);
  });
  model.on("change:index", show);

  const controls = element("div", { class: "scrub-controls" }, play, slider, element("span", {}, label, " ", value));
  controls.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab would take the arrow keys
  const caption = element("figcaption", {});
  caption.innerHTML = model.get("caption");
  el.append(element("figure", { class: "scrub" }, controls, ...frames, caption));
  pause();
  show();
  return () => {
    clearInterval(timer);
    model.off("change:index", show);
  };
}

export default { render };
