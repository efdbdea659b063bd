"use strict";
// Draws what suan simulate --html put into #data: one object a policy, one value an hour in each list.
const runs = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#2a6fdb", "#d9622b", "#2f9e63", "#8a55c7", "#c23b5e", "#1794a5", "#a07a1c", "#5b6675",
  "#7fb03b", "#d14ba3", "#3b4fb8", "#8c5a3c"];
const MOST_POINTS = 1500;

function hours(run, count) {
  return Array.from({length: count}, (_, hour) => run.start_s + hour * 3600);
}

// Means over equal stretches, so that a long run stays light.
function thin(times, lists) {
  const step = Math.ceil(times.length / MOST_POINTS);
  if (step < 2) return [times, ...lists];
  const pick = (list, mean) => Array.from({length: Math.ceil(list.length / step)}, (_, index) => {
    const part = list.slice(index * step, (index + 1) * step);
    if (!mean || part.some((value) => value === null)) return part[0];
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
  return [pick(times, false), ...lists.map((list) => pick(list, true))];
}

function section(title) {
  const box = document.createElement("section");
  box.innerHTML = `<h2></h2><div class="grid"></div>`;
  box.firstChild.textContent = title;
  document.getElementById("plots").append(box);
  return box.lastChild;
}

function holder(parent, title) {
  const box = document.createElement("div");
  box.className = "plot";
  const head = document.createElement("h3");
  head.textContent = title;
  box.append(head);
  parent.append(box);
  return box;
}

const shorten = (value) => Math.abs(value) >= 1e6 ? (value / 1e6).toPrecision(3) + " M"
  : Math.abs(value) >= 1e4 ? (value / 1e3).toPrecision(3) + " k" : String(+value.toPrecision(4));

function lines(parent, title, times, named, options = {}) {
  const box = holder(parent, title);
  const width = Math.max(320, Math.min(608, box.clientWidth || 560));
  const series = [{value: (_, at) => at == null ? "" : uPlot.fmtDate("{YYYY}-{MM}-{DD} {HH}:00")(utc(at))}];
  named.forEach(([label], index) => series.push({
    label, stroke: COLOURS[index % COLOURS.length], width: 1.2, points: {show: false},
    value: (_, value) => value == null ? "" : (options.percent ? (100 * value).toFixed(0) + " %" : shorten(value)),
  }));
  const scale = options.percent ? {y: {range: [0, 1]}} : {};
  new uPlot({
    width, height: 220, series, scales: scale, tzDate: utc, legend: {live: false},
    axes: [{values: (plot, splits) => splits.map((at) => days(plot, at))}, {size: 58, values: (_, values) => values.map((value) =>
      options.percent ? Math.round(100 * value) + " %" : shorten(value))}],
  }, thin(times, named.map(([, list]) => list)), box);
}
const day = uPlot.fmtDate("{MM}-{DD}"), minute = uPlot.fmtDate("{MM}-{DD} {HH}:{mm}");
const days = (plot, at) => (plot.scales.x.max - plot.scales.x.min > 4 * 86400 ? day : minute)(utc(at));
const utc = (at) => uPlot.tzDate(new Date(at * 1e3), "Etc/UTC");

// Groups of bars, one bar a policy in each group.
function bars(parent, title, groups, valueOf, unit) {
  const box = holder(parent, `${title}, ${unit}`);
  const width = Math.max(320, Math.min(608, box.clientWidth || 560));
  const count = runs.length;
  const places = groups.map((_, index) => index);
  const data = [places];
  const series = [{}];
  runs.forEach((run, index) => {
    const left = -0.4 + 0.8 * index / count;
    data.push(groups.map((group) => valueOf(run, group)));
    series.push({
      label: run.policy, fill: COLOURS[index % COLOURS.length], stroke: COLOURS[index % COLOURS.length], width: 0,
      points: {show: false},
      paths: (plot, at) => {
        const path = new Path2D();
        const zero = plot.valToPos(0, "y", true);
        plot.data[at].forEach((value, place) => {
          if (value == null) return;
          const from = plot.valToPos(place + left, "x", true);
          const to = plot.valToPos(place + left + 0.76 / count, "x", true);
          const top = plot.valToPos(value, "y", true);
          path.rect(from, Math.min(top, zero), Math.max(1, to - from), Math.abs(zero - top));
        });
        return {fill: path};
      },
    });
  });
  new uPlot({
    width, height: 220, series, legend: {live: false}, cursor: {show: false},
    scales: {x: {time: false, range: [-0.5, groups.length - 0.5]}, y: {range: (_, low, high) => [Math.min(0, low), high * 1.05 || 1]}},
    axes: [{splits: () => places, values: (_, at) => at.map((place) => groups[place]), grid: {show: false},
            rotate: groups.length > 8 ? -40 : 0, size: groups.length > 8 ? 64 : 36},
           {size: 58, values: (_, values) => values.map(shorten)}],
  }, data, box);
}

function together(grid, title, pick) {
  const longest = runs.reduce((most, run) => pick(run).length > pick(most).length ? run : most);
  const count = pick(longest).length;
  const padded = (list) => list.concat(Array(count - list.length).fill(null));
  lines(grid, title, hours(longest, count), runs.map((run) => [run.policy, padded(pick(run))]));
}

if (runs.length) {
  const names = (run, key) => run[key].map((row) => row.name);
  const all = (key) => [...new Set(runs.flatMap((run) => names(run, key)))];
  const from = (key, field) => (run, name) => (run[key].find((row) => row.name === name) || {})[field] ?? null;

  const used = section("Devices in use by site");
  for (const run of runs) {
    const sites = Object.entries(run.used_ratio);
    lines(used, run.policy, hours(run, sites[0][1].length), sites, {percent: true});
  }
  const first = runs.reduce((most, run) => run.carbon_kg.length > most.carbon_kg.length ? run : most);
  const money = section("Prices and costs");
  const priced = Object.entries(first.price).filter(([, list]) => list[0] !== null);
  if (priced.length) lines(money, "Electricity by site, yuan a kWh", hours(first, priced[0][1].length), priced);
  bars(money, "Cost", Object.keys(first.cost_yuan), (run, term) => run.cost_yuan[term], "yuan");
  const course = section("Queue and carbon");
  together(course, "Jobs that have not started", (run) => run.waiting_jobs);
  together(course, "Carbon, kg CO2 an hour", (run) => run.carbon_kg);
  const waits = section("Waits for the first start");
  bars(waits, "99th percentile by devices", all("waits_by_size"), from("waits_by_size", "p99_s"), "s");
  bars(waits, "Mean by devices", all("waits_by_size"), from("waits_by_size", "mean_s"), "s");
  bars(waits, "99th percentile by tenant", all("waits_by_tenant"), from("waits_by_tenant", "p99_s"), "s");
}
