// The chart of one series: what was observed, what had been forecast for the same steps, and what comes next.
// It is drawn in the pixels that it has, so that its text is as large on a phone as elsewhere. No styles: only classes.

import { clock, day, decimalsFor, number, year } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const MINUTE = 60000;
const TICK_MINUTES = [1, 5, 10, 15, 30, 60, 180, 360, 720, 1440, 2880, 10080, 20160, 40320];
const MARGIN = { top: 26, right: 14, bottom: 44, left: 46 };
const NARROW = 560;
const NARROW_STEP = 9; // pixels
const MOST_BARS = 12;

/** An SVG element. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Draw into an svg element, keeping its title and desc; returns what finds the time under a place on it.
 *
 * shown: { observations, made, next }, each ascending in `time` (ms), with `value`, forecasts with `lower` and `upper`;
 * newest (ms or null), stepMinutes, label (of the vertical axis), hovered (ms or null).
 */
export function draw(svg, shown) {
  const width = Math.max(280, svg.parentElement.clientWidth);
  const narrow = width < NARROW;
  const height = narrow ? 270 : 312;
  const frame = {
    left: MARGIN.left,
    right: width - MARGIN.right,
    top: MARGIN.top,
    bottom: height - MARGIN.bottom,
  };
  const step = shown.stepMinutes * MINUTE;
  const since = narrow && shown.newest !== null ? shown.newest - ((frame.right - frame.left) / NARROW_STEP) * step : -Infinity;
  const [observations, made] = [shown.observations, shown.made].map((all) => all.filter((each) => each.time >= since));
  const { next } = shown;
  const times = [...observations, ...made, ...next].map((each) => each.time);
  const heights = [...observations.map((each) => each.value), ...[...made, ...next].flatMap((f) => [f.lower, f.upper])];
  const body = shape("g", { "aria-hidden": "true" });
  svg.querySelector(":scope > g")?.remove();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.append(body);
  if (!times.length) return () => null;

  const first = least(times) - step / 2;
  const last = most(times) + step / 2;
  const ticks = levels(least(heights), most(heights), narrow ? 4 : 6);
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (time) => frame.left + ((time - first) / (last - first)) * (frame.right - frame.left);
  const y = (value) => frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
  const at = (each) => [x(each.time), y(each.value)];

  body.append(...levelAxis(ticks, frame, y, shown.label), ...timeAxis(first, last, frame, x, step));
  if (shown.newest !== null && next.length) {
    const now = x(shown.newest);
    body.append(shape("rect", { class: "future", x: now, y: frame.top, width: frame.right - now, height: frame.bottom - frame.top }));
    body.append(shape("line", { class: "now", x1: now, x2: now, y1: frame.top, y2: frame.bottom }));
  }
  for (const run of runs(made, step)) {
    body.append(band(run, x, y, "made-band"), shape("path", { class: "made-line", d: line(run.map(at)) }));
  }
  for (const run of runs(next, step)) if (run.length > 1) body.append(band(run, x, y, "next-band"));
  for (const run of runs(observations, step)) {
    body.append(shape("path", { class: "observed", d: line(run.map(at)) }));
    if (run.length === 1) body.append(dot(run[0], at, "observed-dot", 2));
  }
  const latest = observations.at(-1);
  if (next.length && latest && latest.time === shown.newest) {
    body.append(shape("path", { class: "bridge", d: line([at(latest), at(next[0])]) }));
  }
  if (next.length <= MOST_BARS) body.append(...next.map((each) => bar(each, x, y)));
  body.append(shape("path", { class: "next-line", d: line(next.map(at)) }));
  if (next.length <= MOST_BARS) body.append(...next.map((each) => dot(each, at, "next-dot", 3.5)));
  if (latest) body.append(dot(latest, at, "observed-dot", 4.5));
  if (shown.hovered !== null && shown.hovered >= first && shown.hovered <= last) {
    const place = x(shown.hovered);
    body.append(shape("line", { class: "cursor", x1: place, x2: place, y1: frame.top, y2: frame.bottom }));
  }
  return (place) => {
    const time = first + ((place - frame.left) / (frame.right - frame.left)) * (last - first);
    return times.reduce((best, each) => (Math.abs(each - time) < Math.abs(best - time) ? each : best), times[0]);
  };
}

/** Round values from at or below the lowest to at or above the highest. */
function levels(lowest, highest, wanted) {
  const spread = highest - lowest || Math.abs(highest) || 1;
  const rough = spread / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const [from, to] = [Math.floor(lowest / size), Math.ceil(highest / size)];
  return Array.from({ length: Math.max(to - from, 1) + 1 }, (_, index) => (from + index) * size);
}

function levelAxis(ticks, frame, y, label) {
  const decimals = Math.max(0, decimalsFor(ticks[1] - ticks[0]) - 1);
  return [
    shape("text", { class: "label", x: 2, y: 12 }, label),
    ...ticks.flatMap((value) => [
      shape("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(value), y2: y(value) }),
      shape("text", { class: "tick level", x: frame.left - 8, y: y(value) + 4 }, number(value, decimals)),
    ]),
  ];
}

function timeAxis(first, last, frame, x, step) {
  const room = (frame.right - frame.left) / 62;
  const minutes = TICK_MINUTES.find((each) => each * MINUTE >= step && (last - first) / (each * MINUTE) <= room);
  const size = (minutes ?? TICK_MINUTES.at(-1)) * MINUTE;
  const drawn = [];
  for (let time = Math.ceil(first / size) * size; time <= last; time += size) {
    const midnight = time % (1440 * MINUTE) === 0;
    const place = x(time);
    drawn.push(shape("line", { class: midnight ? "midnight" : "grid", x1: place, x2: place, y1: frame.top, y2: frame.bottom + 5 }));
    if (place > frame.right - 16) continue;
    drawn.push(shape("text", { class: midnight ? "tick day" : "tick", x: place, y: frame.bottom + 19 }, midnight ? day(time) : clock(time)));
  }
  const years = [...new Set([year(first), year(last)])].join("\u2013");
  const days = [...new Set([day(first), day(last)])].join(" to ");
  drawn.push(shape("text", { class: "label end", x: frame.right, y: frame.bottom + 38 }, `time in UTC, ${days} ${years}`));
  return drawn;
}

/** The parts of a series between its gaps. */
function runs(series, step) {
  const parts = [];
  for (const each of series) {
    const before = parts.at(-1)?.at(-1);
    if (before && each.time - before.time <= step) parts.at(-1).push(each);
    else parts.push([each]);
  }
  return parts;
}

const line = (places) => places.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function band(run, x, y, name) {
  const upper = run.map((each) => [x(each.time), y(each.upper)]);
  const lower = run.map((each) => [x(each.time), y(each.lower)]).reverse();
  return shape("path", { class: name, d: `${line([...upper, ...lower])}Z` });
}

function bar(each, x, y) {
  const [place, top, bottom] = [x(each.time), y(each.upper), y(each.lower)];
  const cap = (level) => `M${place - 3.5} ${level}H${place + 3.5}`;
  return shape("path", { class: "next-bar", d: `M${place} ${top}V${bottom}${cap(top)}${cap(bottom)}` });
}

function dot(each, at, name, radius) {
  const [cx, cy] = at(each);
  return shape("circle", { class: name, cx, cy, r: radius });
}

const least = (values) => values.reduce((best, each) => Math.min(best, each), Infinity);
const most = (values) => values.reduce((best, each) => Math.max(best, each), -Infinity);
