// The page for people: hears the service's events and shows each state as it comes, until the next one.
// Text from the service enters the page as text nodes only, never as markup.

import { draw, shape } from "./chart.js";
import { clock, day, decimalsFor, moment, number, percent, seconds, span, wholeMoment } from "./words.js";

const FEW_SERIES = 12;
const FEW_INPUTS = 3;
const SILENCE_MS = 45000; // the service says something every ten seconds
const RETRY_MS = [2000, 30000];

const byId = (id) => document.getElementById(id);
const page = {
  asked: new URLSearchParams(location.search).get("series") ?? "",
  horizon: null,
  state: null,
  source: null,
  lostAt: null,
  retries: 0,
  timer: 0,
  names: [],
  drawn: null,
  hovered: null,
  timeAt: () => null,
};

// --- hearing the service

function connect() {
  page.source?.close();
  clearTimeout(page.timer);
  const source = new EventSource(`events?series=${encodeURIComponent(page.asked)}`);
  page.source = source;
  listenForSilence();
  source.addEventListener("state", (event) => {
    heard();
    try {
      const state = JSON.parse(event.data);
      show(state);
      page.state = state;
    } catch (error) {
      console.warn("an event that cannot be shown was skipped:", error);
    }
  });
  source.addEventListener("still", heard);
  source.addEventListener("error", () => {
    if (page.source !== source) return;
    lost();
    if (source.readyState === EventSource.CLOSED) retry(); // the browser retries by itself in all other cases
  });
}

function heard() {
  page.lostAt = null;
  page.retries = 0;
  say("live", "Live");
  listenForSilence();
}

function listenForSilence() {
  clearTimeout(page.timer);
  page.timer = setTimeout(() => {
    lost();
    connect();
  }, SILENCE_MS);
}

function lost() {
  page.lostAt ??= new Date();
  say("lost", `Connection lost since ${seconds(page.lostAt)}; trying again`);
}

/** The service has answered, but not with events: say why, and ask again later. */
async function retry() {
  const [first, longest] = RETRY_MS;
  const wait = Math.min(longest, first * 2 ** page.retries++);
  clearTimeout(page.timer);
  page.timer = setTimeout(connect, wait);
  try {
    const ending = new AbortController();
    const answer = await fetch(page.source.url, { signal: ending.signal });
    const told = answer.ok ? null : (await answer.json()).detail;
    ending.abort();
    if (told && page.lostAt) say("lost", `No connection since ${seconds(page.lostAt)}: ${told}; trying again`);
  } catch {
    // it is away altogether, which has been said
  }
}

function say(kind, words) {
  const status = byId("status");
  status.dataset.kind = kind;
  write(status, words);
}

// --- showing a state

function show(state) {
  const { model, series, signals } = state;
  page.asked ||= series?.unique_id ?? "";
  const update = seconds(new Date());
  write(byId("title"), model.title);
  document.title = `${series ? `${series.unique_id} \u00b7 ` : ""}${model.title}`;
  showModel(model);
  showPickers(state);
  const problem = state.problem ?? (series.problem && `No next forecast for ${series.unique_id}: ${series.problem}`);
  write(byId("problem"), problem ? sentence(problem) : "");
  byId("chart-card").hidden = byId("next-card").hidden = !series;
  byId("content").hidden = byId("pickers").hidden = false;
  byId("waiting").hidden = true;
  if (series) showSeries(model, series);
  showLive(model, signals);
  showDrift(signals);
  write(byId("updated"), `updated ${update}`);
}

function showModel(model) {
  const commit = element("code", { title: model.git_sha }, model.git_sha.slice(0, 8));
  const version = model.version.length > 16 ? `${model.version.slice(0, 8)}\u2026` : model.version;
  byId("model").replaceChildren(
    element("span", {}, "model ", element("b", { title: model.version }, version)),
    element("span", {}, "commit ", commit),
    element("span", {}, "trained until ", time(model.train_end, wholeMoment)),
  );
}

function showPickers({ model, series, series_count: count, unique_ids: names }) {
  if (names.length) page.names = names;
  if (!model.horizons.includes(page.horizon)) page.horizon = model.horizons[0];
  byId("filtering").hidden = Math.max(count, page.names.length) <= FEW_SERIES;
  const filter = byId("filter").value.trim().toLowerCase();
  const shown = page.names.filter((name) => name.toLowerCase().includes(filter));
  const selected = series?.unique_id ?? page.asked;
  if (!shown.includes(selected)) shown.unshift(selected);
  offer(byId("series"), shown.map((name) => [name, name || "none"]), selected);
  const ahead = model.horizons.map((each) => [String(each), `${span(each * model.step_minutes)} ahead`]);
  offer(byId("horizon"), ahead, String(page.horizon));
  const listed = page.names.length;
  const rest = count > listed ? ` (all ${number(count, 0)}: type a whole name, press Enter)` : "";
  const found = page.names.filter((name) => name.toLowerCase().includes(filter)).length;
  write(byId("found"), byId("filtering").hidden ? "" : `${number(found, 0)} of ${number(listed, 0)} listed${rest}`);
}

/** Make a select offer these, without touching one that does already: it may be open. */
function offer(select, options, selected) {
  const held = [...select.options].map((option) => option.value);
  if (held.length !== options.length || options.some(([value], index) => value !== held[index])) {
    select.replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
  }
  if (select.value !== selected) select.value = selected;
}

function showSeries(model, series) {
  const at = (each) => ({ ...each, time: Date.parse(each.ds) });
  const observations = series.observations.map(at);
  const made = series.made.filter((each) => each.horizon === page.horizon).map(at);
  const next = series.next.map(at);
  const newest = series.newest === null ? null : Date.parse(series.newest);
  const intervals = [...next, ...made].map((each) => each.upper - each.lower);
  const values = observations.map((each) => each.value);
  const spread = intervals.length ? Math.min(...intervals) : Math.max(...values) - Math.min(...values);
  const form = writer(decimalsFor(spread), model.unit);
  page.drawn = { model, series, observations, made, next, newest, form };

  const level = percent(model.interval);
  const ahead = span(page.horizon * model.step_minutes);
  const quantity = model.target.replaceAll("_", " ");
  const words = inWords(page.drawn);
  write(byId("chart-heading"), `${series.unique_id}: ${quantity}`);
  write(byId("made-legend"), `forecast ${ahead} before, with ${level} interval`);
  write(byId("next-legend"), `next forecasts, with ${level} interval`);
  write(byId("chart-title"), `${quantity} of ${series.unique_id} in ${model.unit}, observed and forecast`);
  write(byId("chart-words"), words);
  redraw();
  showNext(page.drawn, level);
  showUnusual(series, model);
  if (byId("rows").open) showRows();
}

function inWords({ observations, next, newest, form }) {
  const latest = observations.at(-1);
  const said = [];
  if (latest) said.push(`Newest value ${form.unit(latest.value)}, ${moment(latest.time)}\u00a0UTC.`);
  else if (newest === null) said.push("No observation yet.");
  if (next.length) {
    const first = next[0];
    said.push(`Next forecast ${form.unit(first.value)} (${form.range(first)}), ${moment(first.time)}\u00a0UTC.`);
  } else said.push("No next forecast.");
  return said.join(" ");
}

function redraw() {
  const { model, observations, made, next, newest } = page.drawn;
  const label = `${model.target.replaceAll("_", " ")} in ${model.unit}`;
  const shown = { observations, made, next, newest, stepMinutes: model.step_minutes, label, hovered: page.hovered };
  page.timeAt = draw(byId("chart"), shown);
  write(byId("readout"), page.hovered === null ? inWords(page.drawn) : hourInWords(page.drawn, page.hovered));
}

function hourInWords({ observations, made, next, model, form }, hovered) {
  const [seen, earlier, ahead] = [observations, made, next].map((all) => all.find((each) => each.time === hovered));
  const said = [];
  if (seen) said.push(`observed ${form.unit(seen.value)}`);
  if (earlier) said.push(`forecast ${span(earlier.horizon * model.step_minutes)} before ${form.unit(earlier.value)} (${form.range(earlier)})`);
  if (ahead) said.push(`forecast ${form.unit(ahead.value)} (${form.range(ahead)})`);
  return `${wholeMoment(hovered)}: ${said.join("; ")}`;
}

function showNext({ observations, newest, next, model, form }, level) {
  const latest = observations.at(-1);
  byId("newest").hidden = !latest;
  if (latest) {
    const [term, value] = byId("newest").children;
    term.replaceChildren("Newest value, ", time(latest.ds, wholeMoment));
    value.replaceChildren(exact(latest.value, form.unit(latest.value)));
  }
  byId("next").hidden = !next.length;
  const rows = next.map((each) => [
    time(each.ds, newest !== null && day(newest) === day(each.time) ? clock : moment),
    span(each.horizon * model.step_minutes),
    exact(each.value, form.plain(each.value)),
    [exact(each.lower, form.plain(each.lower)), " to ", exact(each.upper, form.plain(each.upper))],
  ]);
  fill(byId("next"), ["Time, UTC", "Ahead", model.unit, `${level} interval`], rows);
}

function showUnusual({ unusual, next }) {
  const told = ({ feature, value, low, high }) => {
    const decimals = decimalsFor(low === null ? Math.abs(value) : high - low) + 1;
    const found = value === null ? "missing" : number(value, decimals);
    const saw = low === null ? "never had a value" : `saw ${number(low, decimals)} to ${number(high, decimals)}`;
    return element("li", {}, name(feature), ` is ${found}; training ${saw}`);
  };
  const none = next.length ? "None: every input of these forecasts lies within what training saw." : "No forecast, so none.";
  write(byId("usual"), unusual.length ? "" : none);
  byId("unusual").replaceChildren(...unusual.slice(0, FEW_INPUTS).map(told));
  const [summary, more] = byId("more").children;
  byId("more").hidden = unusual.length <= FEW_INPUTS;
  write(summary, `and ${number(unusual.length - FEW_INPUTS, 0)} more`);
  more.replaceChildren(...unusual.slice(FEW_INPUTS).map(told));
}

/** The chart as a table, the newest time first. */
function showRows() {
  const { model, observations, made, next, form } = page.drawn;
  const rows = new Map();
  const put = (each, key) => rows.set(each.time, { ...rows.get(each.time), ds: each.ds, [key]: each });
  for (const each of observations) put(each, "seen");
  for (const each of [...made, ...next]) put(each, "forecast");
  const sorted = [...rows.entries()].sort(([one], [other]) => other - one).map(([, row]) => row);
  const cells = sorted.map(({ ds, seen, forecast }) => [
    time(ds, moment),
    seen ? form.plain(seen.value) : "\u2013",
    forecast ? form.plain(forecast.value) : "\u2013",
    forecast ? form.range(forecast) : "\u2013",
    forecast ? span(forecast.horizon * model.step_minutes) : "\u2013",
  ]);
  fill(byId("rows-table"), ["Time, UTC", "Observed", "Forecast", "Interval", "Made ahead"], cells);
}

function showLive(model, { live, live_by_horizon: byHorizon, limits, fewest_rows: fewest }) {
  const told = live !== null && live.error_ratio !== null;
  verdict(byId("live-verdict"), told ? live.error_ratio > limits.max_live_error_ratio : null);
  byId("live").hidden = live === null;
  if (live === null) {
    write(byId("live-words"), `Too little to say: it takes ${fewest} forecasts that met their truth.`);
    return;
  }
  const limit = number(limits.max_live_error_ratio, 2);
  const compared = told
    ? `The error is ${number(live.error_ratio, 2)} times that of the folds; the limit is ${limit}.`
    : "The folds' error is not known.";
  const forecasts = `Of the last ${number(live.scores, 0)} forecasts, of all series, that met their truth.`;
  write(byId("live-words"), `${compared} ${forecasts}`);
  const errors = Object.values(byHorizon).map((each) => each.error);
  const form = writer(Math.min(8, decimalsFor(Math.min(...errors, live.error)) + 1), model.error_unit);
  const row = (ahead, each, expected) => [
    ahead,
    form.plain(each.error),
    expected === undefined ? "\u2013" : form.plain(expected),
    each.error_ratio === null ? "\u2013" : number(each.error_ratio, 2),
    each.skill === null ? "\u2013" : percent(each.skill, 0),
    percent(each.coverage, 0),
  ];
  const rows = model.horizons
    .filter((horizon) => byHorizon[horizon])
    .map((horizon) => row(span(horizon * model.step_minutes), byHorizon[horizon], model.errors[horizon]?.error));
  rows.push(row("all", live, told ? live.error / live.error_ratio : undefined));
  const level = percent(model.interval);
  const heads = ["Ahead", model.error_unit ? `${model.measure}, ${model.error_unit}` : model.measure, "Folds", "Ratio", "Skill", "Inside"];
  const skill = `Skill: error saved against ${model.baseline}.`;
  fill(byId("live"), heads, rows, `${skill} Inside: truths within the ${level} interval.`);
}

function showDrift(signals) {
  const { rows, fewest_rows: fewest, out_of_distribution_ratio: ratio, features, limits } = signals;
  const enough = ratio !== null;
  byId("drift").hidden = !enough;
  if (!enough) {
    verdict(byId("drift-verdict"), null);
    write(byId("drift-words"), `Too little to say: ${rows} of the ${fewest} rows that it takes have been predicted.`);
    return;
  }
  const maxRatio = limits.max_out_of_distribution_ratio;
  const { features_drifting: drifting, features_watched: watched } = signals;
  verdict(byId("drift-verdict"), ratio > maxRatio || drifting > 0);
  byId("drift-words").replaceChildren(
    `${percent(ratio)} of the last ${number(rows, 0)} rows have an input that training never saw: `,
    judged(ratio > maxRatio),
    ` (limit ${percent(maxRatio)}). `,
    ...(watched
      ? [`${drifting} of ${watched} features lie farther from training than as much of training itself did: `, judged(drifting > 0), "."]
      : ["How far each feature lies from training is told when there are more rows."]),
  );
  byId("drift").hidden = !watched;
  const cells = features.map(({ feature, population_stability_index: index, limit }) => [
    name(feature),
    gauge(Math.min(index / limit / 2, 1), 0.5, index > limit),
    exact(index, number(index, 2)),
    exact(limit, number(limit, 2)),
    judged(index > limit),
  ]);
  fill(byId("drift"), ["Farthest from training", "", "PSI", "Limit", ""], cells);
}

// --- pieces

/** An HTML element. Strings among the children become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Set a text, if it is another: a live region must not say the same again. */
function write(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}`;
const time = (ds, form) => element("time", { datetime: ds }, form(Date.parse(ds)));
const exact = (value, words) => element("data", { value: String(value) }, words);
const judged = (beyond) => element("span", { class: beyond ? "beyond" : "within" }, beyond ? "drifting" : "within its limit");

function verdict(node, beyond) {
  node.hidden = beyond === null;
  node.classList.toggle("beyond", beyond === true);
  write(node, beyond ? "drifting" : "within its limits");
}

/** A feature's name, which may break after its underscores. */
function name(feature) {
  const parts = feature.split("_");
  return element("code", {}, ...parts.flatMap((part, index) => (index ? ["_", element("wbr"), part] : [part])));
}

function gauge(share, limit, beyond) {
  const drawn = shape("svg", { class: "gauge", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawn.append(
    shape("rect", { class: "rail", width: 100, height: 8 }),
    shape("rect", { class: beyond ? "fill beyond" : "fill", width: 100 * share, height: 8 }),
    shape("rect", { class: "limit", x: 100 * limit - 0.5, width: 1, height: 8 }),
  );
  return drawn;
}

function writer(decimals, unit) {
  const plain = (value) => number(value, decimals);
  return {
    plain,
    unit: (value) => `${plain(value)}\u00a0${unit}`,
    range: (each) => `${plain(each.lower)} to ${plain(each.upper)}`,
  };
}

/** Make a table of cells; the first of each row is its heading. */
function fill(table, heads, rows, caption) {
  const head = heads.map((words) => (words ? element("th", { scope: "col" }, words) : element("td")));
  const body = rows.map(([first, ...others]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...others.map((cell) => element("td", {}, ...[cell].flat()))),
  );
  const parts = [element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)];
  table.replaceChildren(...(caption ? [element("caption", {}, caption)] : []), ...parts);
}

// --- heeding people

function choose(unique_id) {
  page.asked = unique_id;
  page.hovered = null;
  history.replaceState(null, "", `?series=${encodeURIComponent(unique_id)}`);
  connect();
}

byId("pickers").addEventListener("submit", (event) => event.preventDefault());
byId("series").addEventListener("change", (event) => choose(event.target.value));
byId("horizon").addEventListener("change", (event) => {
  page.horizon = Number(event.target.value);
  if (page.drawn) showSeries(page.drawn.model, page.drawn.series);
});
byId("filter").addEventListener("input", () => page.state && showPickers(page.state));
byId("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const typed = event.target.value.trim();
  const found = page.names.filter((each) => each.toLowerCase().includes(typed.toLowerCase()));
  const chosen = page.names.includes(typed) || found.length !== 1 ? typed : found[0];
  if (chosen) choose(chosen);
});
byId("rows").addEventListener("toggle", () => byId("rows").open && page.drawn && showRows());
byId("chart").addEventListener("pointermove", (event) => hover(page.timeAt(event.clientX - byId("chart").getBoundingClientRect().left)));
byId("chart").addEventListener("pointerleave", () => hover(null));
new ResizeObserver(() => page.drawn && redraw()).observe(byId("chart").parentElement);

function hover(found) {
  if (!page.drawn || found === page.hovered) return;
  page.hovered = found;
  redraw();
}

connect();
