"use strict";
(function () {
  const problem = document.getElementById("problem");
  window.addEventListener("error", function (event) {
    problem.textContent = "A part of this page does not work in this browser: " + event.message;
  });

  /* ------------------------------------------------------------------ the layer table: sort and filter */
  const table = document.getElementById("layer-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const words = rows.map(function (row) { return row.textContent.toLowerCase(); });
    const search = document.getElementById("layer-search");
    const segment = document.getElementById("layer-segment");
    const limit = document.getElementById("layer-limit");
    const count = document.getElementById("layer-count");
    const filter = function () {
      const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(function (row, i) {
        const fits = wanted.every(function (w) { return words[i].includes(w); })
          && (!segment.value || row.dataset.segment === segment.value)
          && (!limit.value || row.dataset.limit === limit.value);
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      });
      count.textContent = shown + " of " + rows.length + " layers";
    };
    const sort = function (head) {
      const column = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      const text = head.dataset.kind === "text";
      const order = text && !head.hasAttribute("aria-sort") ? 1 : down;
      const key = function (row) {
        const cell = row.cells[column];
        return text ? cell.textContent.trim() : Number(cell.dataset.v);
      };
      const keyed = rows.map(function (row) { return [key(row), row]; });
      keyed.sort(function (a, b) { return order * (text ? a[0].localeCompare(b[0]) : a[0] - b[0]); });
      Array.from(table.tHead.rows[0].cells).forEach(function (cell) { cell.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
      body.append.apply(body, keyed.map(function (pair) { return pair[1]; }));
    };
    table.tHead.addEventListener("click", function (event) {
      if (event.target.closest("button")) { sort(event.target.closest("th")); }
    });
    [search, segment, limit].forEach(function (field) { field.addEventListener("input", filter); });
    filter();
  }

  /* ------------------------------------------------------------------ the timeline */
  const canvas = document.getElementById("timeline");
  const data = JSON.parse(document.getElementById("timeline-data").textContent);
  if (canvas && data.start.length) {
    const LEFT = 104, ROW = 28, TOP = 22, AXIS = 24;
    const pen = canvas.getContext("2d");
    const tip = document.getElementById("tip");
    const span = document.getElementById("timeline-span");
    const byLane = data.lanes.map(function () { return []; });
    data.lane.forEach(function (lane, bar) { byLane[lane].push(bar); });
    let from = 0, until = data.total, width = 0, height = 0, colours = {};

    const readColours = function () {
      const style = getComputedStyle(document.documentElement);
      ["matrix", "vector", "load", "store", "launch", "cpu", "ink", "soft", "line", "paper"].forEach(function (name) {
        colours[name] = style.getPropertyValue("--" + name).trim();
      });
    };
    const toX = function (ns) { return LEFT + (ns - from) / (until - from) * (width - LEFT - 8); };
    const toTime = function (x) { return from + (x - LEFT) / (width - LEFT - 8) * (until - from); };
    const time = function (ns) {
      const range = until - from;
      if (range > 5e6) { return (ns / 1e6).toFixed(range > 5e7 ? 1 : 2) + " ms"; }
      return (ns / 1e3).toFixed(range > 5e5 ? 0 : range > 5e4 ? 1 : 3) + " us";
    };
    const firstVisible = function (bars) {
      let low = 0, high = bars.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (data.start[bars[middle]] < from) { low = middle + 1; } else { high = middle; }
      }
      return Math.max(0, low - 8); /* transfers may overlap: some that began earlier still run */
    };
    const draw = function () {
      pen.clearRect(0, 0, width, height);
      pen.font = "12px system-ui, sans-serif";
      pen.textBaseline = "middle";
      const ticks = Math.max(2, Math.floor((width - LEFT) / 130));
      for (let i = 0; i <= ticks; i++) {
        const x = LEFT + (width - LEFT - 8) * i / ticks;
        pen.fillStyle = colours.line;
        pen.fillRect(x, TOP, 1, height - AXIS - TOP);
        pen.fillStyle = colours.soft;
        pen.textAlign = i === 0 ? "left" : i === ticks ? "right" : "center";
        pen.fillText(time(toTime(x)), x, height - AXIS / 2);
      }
      pen.textAlign = "left";
      let free = LEFT;
      data.steps.forEach(function (step) {
        const x = Math.max(LEFT, toX(step[0])), end = toX(step[0] + step[1]);
        if (end < LEFT || x > width) { return; }
        pen.fillStyle = colours.line;
        pen.fillRect(x, 4, 1, height - AXIS - 4);
        const needed = pen.measureText(step[2]).width + 8;
        if (x >= free && Math.min(end, width) - x > needed) {
          pen.fillStyle = colours.soft;
          pen.fillText(step[2], x + 4, 12);
          free = x + needed;
        }
      });
      data.lanes.forEach(function (lane, row) {
        const y = TOP + row * ROW;
        pen.fillStyle = colours.ink;
        pen.textAlign = "right";
        pen.fillText(lane[0], LEFT - 10, y + ROW / 2);
        pen.fillStyle = colours[lane[1]];
        const bars = byLane[row];
        let drawn = -1;
        for (let i = firstVisible(bars); i < bars.length; i++) {
          const bar = bars[i];
          if (data.start[bar] > until) { break; }
          const end = toX(data.start[bar] + data.length[bar]);
          if (end < LEFT || end <= drawn) { continue; }
          const x = Math.max(LEFT, toX(data.start[bar]), drawn);
          const w = Math.max(0.7, end - x);
          pen.globalAlpha = data.name[bar] % 2 ? 0.72 : 1;
          pen.fillRect(x, y + 4, w, ROW - 8);
          drawn = x + w;
        }
        pen.globalAlpha = 1;
      });
      span.textContent = time(from) + " to " + time(until);
    };
    const resize = function () {
      const scale = window.devicePixelRatio || 1;
      width = canvas.clientWidth;
      height = TOP + data.lanes.length * ROW + AXIS;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = height + "px";
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      readColours();
      draw();
    };
    const show = function (low, high) {
      const length = Math.min(data.total, Math.max(20, high - low));
      from = Math.min(Math.max(0, low), data.total - length);
      until = from + length;
      draw();
    };
    const zoom = function (factor, at) { show(at - (at - from) * factor, at + (until - at) * factor); };
    const act = {
      "in": function () { zoom(0.5, (from + until) / 2); },
      "out": function () { zoom(2, (from + until) / 2); },
      "left": function () { show(from - (until - from) / 3, until - (until - from) / 3); },
      "right": function () { show(from + (until - from) / 3, until + (until - from) / 3); },
      "all": function () { show(0, data.total); },
    };
    document.querySelectorAll("[data-timeline]").forEach(function (button) {
      button.addEventListener("click", act[button.dataset.timeline]);
    });
    canvas.addEventListener("keydown", function (event) {
      const keys = { "+": "in", "=": "in", "-": "out", "ArrowLeft": "left", "ArrowRight": "right", "0": "all", "Home": "all" };
      if (keys[event.key] && !event.ctrlKey && !event.metaKey) { act[keys[event.key]](); event.preventDefault(); }
    });
    canvas.addEventListener("wheel", function (event) {
      if (!event.ctrlKey && !event.metaKey) { return; } /* plain scrolling stays with the page */
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, toTime(event.offsetX));
    }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", function (event) {
      held = { x: event.offsetX, from: from, until: until };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", function () { held = null; });
    canvas.addEventListener("pointercancel", function () { held = null; });
    canvas.addEventListener("pointermove", function (event) {
      if (held) {
        const move = (held.x - event.offsetX) / (width - LEFT - 8) * (held.until - held.from);
        show(held.from + move, held.until + move);
        return;
      }
      const row = Math.floor((event.offsetY - TOP) / ROW), at = toTime(event.offsetX);
      const bars = byLane[row] || [];
      const slack = (until - from) / (width - LEFT) * 1.5;
      let found = -1;
      for (let i = firstVisible(bars); i < bars.length && data.start[bars[i]] <= at + slack; i++) {
        if (data.start[bars[i]] + data.length[bars[i]] >= at - slack) { found = bars[i]; }
      }
      tip.hidden = found < 0 || event.offsetX < LEFT;
      if (!tip.hidden) {
        const name = data.names[data.name[found]];
        tip.textContent = name[0] + " (" + name[1] + "): " + (data.start[found] / 1e3).toFixed(2) + " us, for "
          + (data.length[found] / 1e3).toFixed(2) + " us";
        const right = event.offsetX > width * 0.6;
        tip.style.left = right ? "auto" : event.offsetX + 14 + "px";
        tip.style.right = right ? width - event.offsetX + 14 + "px" : "auto";
        tip.style.top = event.offsetY + 16 + "px";
      }
    });
    canvas.addEventListener("pointerleave", function () { tip.hidden = true; });
    document.querySelectorAll("[data-from]").forEach(function (button) {
      button.addEventListener("click", function () {
        const low = Number(button.dataset.from), high = Number(button.dataset.until), room = (high - low) * 0.1;
        show(low - room, high + room);
        canvas.scrollIntoView({ block: "center" });
        canvas.focus({ preventScroll: true });
      });
    });
    new ResizeObserver(resize).observe(canvas.parentElement);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", resize);
    resize();
  }
  document.documentElement.dataset.ready = "yes";
})();
