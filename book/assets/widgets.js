// Shows the anywidgets of a page without a kernel (https://anywidget.dev/en/afm/): the state that the notebook
// saved becomes a model that lives in the page, and the widget's own module draws it.
(() => {
  const MIME = "application/vnd.jupyter.widget";

  function makeModel(state) {
    const listeners = {}; // event: functions
    return {
      get: (name) => state[name],
      set(name, value) {
        if (state[name] === value) return;
        state[name] = value;
        for (const event of [`change:${name}`, "change"]) (listeners[event] ?? []).forEach((f) => f());
      },
      on: (event, f) => (listeners[event] ??= []).push(f),
      off: (event, f) => (listeners[event] = (listeners[event] ?? []).filter((g) => g !== f)),
      save_changes() {},
      send() {},
    };
  }

  async function makeWidget(state) {
    const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    URL.revokeObjectURL(url);
    const style = document.createElement("style");
    style.textContent = state._css ?? "";
    document.head.append(style);
    const model = makeModel(state);
    await widget.initialize?.({ model });
    return { model, render: widget.render };
  }

  async function show() {
    const saved = document.querySelector(`script[type="${MIME}-state+json"]`);
    if (!saved) return;
    const models = JSON.parse(saved.textContent).state;
    const widgets = {}; // id: two views of a model share it
    for (const view of document.querySelectorAll(`script[type="${MIME}-view+json"]`)) {
      const id = JSON.parse(view.textContent).model_id;
      widgets[id] ??= await makeWidget(models[id].state);
      const el = document.createElement("div");
      el.className = "widget";
      view.after(el);
      await widgets[id].render({ model: widgets[id].model, el });
    }
  }

  addEventListener("DOMContentLoaded", show);
})();
