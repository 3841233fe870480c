"use strict";

// -- light and dark: the system's preference until the button is pressed; then stored if the browser allows it
const theme = {
  read() { try { return localStorage.getItem("theme"); } catch { return null; } },
  keep(value) { try { localStorage.setItem("theme", value); } catch { /* without storage, the button still works */ } },
  set(value) { document.documentElement.style.colorScheme = value ?? ""; },
};
theme.set(theme.read());
document.getElementById("theme").addEventListener("click", () => {
  const chosen = document.documentElement.style.colorScheme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme.keep(dark ? "light" : "dark");
  theme.set(dark ? "light" : "dark");
});

// -- sortable tables: numbers descend first, texts ascend first; empty cells stay last
function sortBy(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const numeric = header.classList.contains("number");
  const before = header.getAttribute("aria-sort");
  const up = before ? before === "descending" : !numeric;
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent === "" ? null : cell.textContent;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return up ? order : -order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}
for (const header of document.querySelectorAll("thead th")) header.querySelector("button").addEventListener("click", () => sortBy(header));

// -- figures: a pressed chip dims the other models in all figures; series of the study's figures are not models
for (const chip of document.querySelectorAll(".chips button")) {
  chip.addEventListener("click", () => {
    const number = chip.getAttribute("aria-pressed") === "true" ? null : chip.dataset.series;
    for (const other of document.querySelectorAll(".chips button")) other.setAttribute("aria-pressed", String(other.dataset.series === number));
    for (const svg of document.querySelectorAll("section:not(#study) figure svg")) {
      const hasSeries = number !== null && svg.querySelector(`.series-${number}`) !== null;
      for (const part of svg.querySelectorAll("[class^=series-]")) part.classList.toggle("dim", hasSeries && !part.classList.contains(`series-${number}`));
    }
  });
}

// -- recommendations per user
const views = JSON.parse(document.getElementById("views").textContent);
const get = (id) => document.getElementById(id);

const counted = (number) => number.toLocaleString("en");

function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
}

function reader() {
  let view = views[0];
  let shown = []; // the users that pass filter and search

  const found = (user, label) => user.top[label].includes(user.target);
  const filters = {
    all: () => true,
    some: (user) => view.labels.some((_, i) => found(user, i)),
    none: (user) => !view.labels.some((_, i) => found(user, i)),
  };
  const passes = (user) => {
    const [kind, number] = get("pick-filter").value.split(" ");
    const label = Number(number);
    if (kind === "hit") return found(user, label);
    if (kind === "miss") return !found(user, label);
    if (kind === "alone") return view.labels.every((_, i) => found(user, i) === (i === label));
    return filters[kind](user);
  };
  const holds = (user, text) => {
    const name = (item) => `${view.items.token[item]} ${view.items.title[item]}`;
    return [user.user, name(user.target), ...user.history.map(name)].some((words) => words.toLowerCase().includes(text));
  };

  const named = (user) => {
    const labels = view.labels.filter((_, i) => found(user, i));
    const hits = labels.length > 2 ? `${labels.length} of ${view.labels.length}` : labels.join(", ");
    return hits ? `${user.user} ✓ ${hits}` : user.user;
  };

  function openView() {
    view = views[Number(get("pick-dataset").value) || 0];
    const each = (kind, text) => view.labels.map((label, i) => [`${kind} ${i}`, text(label)]);
    fill(get("pick-filter"), [
      ["all", "all"], ["some", "some model found the target for"], ["none", "no model found the target for"],
      ...each("hit", (label) => `${label} found the target for`),
      ...each("miss", (label) => `${label} missed the target of`),
      ...(view.labels.length > 1 ? each("alone", (label) => `${label} alone found the target for`) : []),
    ]);
    fill(get("pick-codes"), [["", "hidden"], ...view.codes.map(({ label, modality }, i) => [i, `${label}, ${modality}`])]);
    get("pick-codes").selectedIndex = view.codes.length ? 1 : 0;
    get("code-label").hidden = !view.codes.length;
    list();
  }

  function list() {
    const text = get("pick-text").value.trim().toLowerCase();
    const kept = get("pick-user").value;
    shown = view.users.filter((user) => passes(user) && (!text || holds(user, text)));
    fill(get("pick-user"), shown.map((user) => [user.user, named(user)]));
    if (shown.some((user) => user.user === kept)) get("pick-user").value = kept;
    get("reader-count").textContent = `${shown.length} of ${view.users.length} users shown; ${counted(view.testUsers)} were tested.`;
    show();
  }

  function step(by) {
    const picker = get("pick-user");
    if (!shown.length) return;
    picker.selectedIndex = (picker.selectedIndex + by + shown.length) % shown.length;
    show();
  }

  const codeOf = (item) => {
    const choice = get("pick-codes").value;
    return choice === "" ? null : view.tables[view.codes[Number(choice)].table][item];
  };

  function picture(number) {
    if (number === null) return make("span", "blank");
    const element = make("img");
    element.src = view.images[number];
    element.alt = "";
    return element;
  }

  function card(item, user, place, badges) {
    const { token, title, trained, image } = view.items;
    const name = make("div", "title", title[item] || token[item]);
    name.title = title[item];
    const text = make("div", "text", name);
    text.append(make("div", "meta", title[item] ? `${token[item]} · ` : "", `trained ${trained[item]}×`));
    const code = codeOf(item);
    if (code) text.append(coded(code, codeOf(user.target)));
    for (const [badge, className] of badges) text.append(make("span", `badge ${className}`, badge), " ");
    const element = make("li", "item", text);
    if (view.images.length) element.prepend(picture(image[item]));
    if (place) element.prepend(make("span", "place", String(place)));
    return element;
  }

  // the prefix that a code shares with the target's code is bold
  function coded(code, target) {
    let same = 0;
    while (same < code.length && code[same] === target[same]) same += 1;
    return make("div", "code", make("b", "", code.slice(0, same).join(" ")), same && same < code.length ? " " : "", code.slice(same).join(" "));
  }

  function models(user) {
    return view.labels.map((label, i) => {
      const rank = make("span", "badge", `target at ${counted(user.ranks[i])}`);
      if (found(user, i)) rank.classList.add("found");
      const items = user.top[i].map((item, place) => {
        const hit = item === user.target;
        const badges = [...(hit ? [["✓ hit", "found"]] : []), ...(user.history.includes(item) ? [["seen before", ""]] : [])];
        const element = card(item, user, place + 1, badges);
        element.classList.toggle("hit", hit);
        return element;
      });
      return make("section", "", make("h4", "", label, rank), make("ol", "", ...items));
    });
  }

  function show() {
    const user = shown.find(({ user: name }) => name === get("pick-user").value);
    if (!user) {
      get("reader-user").replaceChildren(make("p", "", "No user matches."));
      return;
    }
    const target = card(user.target, user, 0, [["withheld target", "found"]]);
    target.classList.add("target");
    const strip = make("ol", "strip", ...user.history.map((item) => card(item, user, 0, [])), target);
    const lists = make("div", "lists", ...models(user));
    for (const [element, name] of [[strip, "History"], [lists, "Recommendations"]]) {
      element.tabIndex = 0;
      element.setAttribute("aria-label", name);
    }
    const earlier = user.earlier ? `, the last ${user.history.length} of ${user.history.length + user.earlier}` : "";
    get("reader-user").replaceChildren(
      make("h3", "", `History of ${user.user}`), make("p", "hint", `Oldest first${earlier}; the last card is the item withheld for the test.`), strip,
      make("h3", "", "Recommendations of each model"), lists,
    );
    strip.scrollLeft = strip.scrollWidth;
  }

  fill(get("pick-dataset"), views.map(({ dataset }, i) => [i, dataset]));
  get("pick-dataset").addEventListener("change", openView);
  for (const id of ["pick-filter", "pick-text"]) get(id).addEventListener("input", list);
  for (const id of ["pick-user", "pick-codes"]) get(id).addEventListener("change", show);
  get("pick-previous").addEventListener("click", () => step(-1));
  get("pick-next").addEventListener("click", () => step(1));
  get("reader").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.matches("input, select, .strip, .lists")) return;
    event.preventDefault();
    step(by);
  });
  document.querySelector(".picker").addEventListener("submit", (event) => event.preventDefault());
  openView();
}
if (views.length) reader();
