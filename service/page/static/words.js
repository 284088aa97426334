// How numbers, times and spans are written on the page. All times are UTC.

const UTC = { timeZone: "UTC" };
const DAY = new Intl.DateTimeFormat("en-GB", { ...UTC, day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat("en-GB", { ...UTC, year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { ...UTC, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECONDS = new Intl.DateTimeFormat("en-GB", { ...UTC, timeStyle: "medium" });
const UNITS = [["d", 1440], ["h", 60], ["min", 1]];

/** 1234.56 with 1 decimal: "1,234.6"; a real minus sign, and no minus before a zero. */
export function number(value, decimals) {
  const form = { minimumFractionDigits: decimals, maximumFractionDigits: decimals, signDisplay: "negative" };
  return value.toLocaleString("en-GB", form).replace("-", "\u2212");
}

/** A share as a percentage; unless told otherwise, with one decimal where it is not whole and below 10 %. */
export function percent(share, decimals) {
  const size = Math.abs(100 * share);
  return `${number(100 * share, decimals ?? (size > 0 && size < 9.95 ? 1 : 0))}\u00a0%`;
}

/** How many decimals tell values apart that lie within such a spread: 3.7 takes 1, 0.002 takes 4. */
export function decimalsFor(spread) {
  if (!(spread > 0) || !Number.isFinite(spread)) return 1;
  return Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(spread))));
}

/** Minutes in the largest unit that writes them whole, up to two days in hours: "4 h", "90 min", "3 d". */
export function span(minutes) {
  const [unit, size] = UNITS.find(([name, each]) => minutes % each === 0 && (name !== "d" || minutes > 2880));
  return `${number(minutes / size, 0)}\u00a0${unit}`;
}

export const day = (time) => DAY.format(time);
export const year = (time) => YEAR.format(time);
export const clock = (time) => CLOCK.format(time);
export const seconds = (time) => `${SECONDS.format(time)}\u00a0UTC`;
/** "31 Dec, 03:00". */
export const moment = (time) => `${day(time)}, ${clock(time)}`;
/** "31 Dec 2013, 03:00 UTC". */
export const wholeMoment = (time) => `${day(time)} ${year(time)}, ${clock(time)}\u00a0UTC`;
