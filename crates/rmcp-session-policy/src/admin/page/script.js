"use strict";
// The operator's page. It reads the JSON API beside it, and puts what it reads into the page as text, never as markup.
(() => {
  const EVERY = 2000;
  const PER_PAGE = 25;
  const FEW = 5;
  const TOKEN = "token of the operator's page";

  // The page may be at a path with or without a slash at its end. The script is always beside the API.
  const BASE = document.currentScript.src;

  const by = (id) => document.getElementById(id);
  const number = (n) => n.toLocaleString("en");
  const many = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
  // Characters that do not print, or that turn the direction of what follows.
  const clean = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\u2028\u2029]/gu, "\uFFFD");

  /** Makes an element. Text is always text. */
  function make(name, properties = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (value === undefined || value === null || value === false) continue;
      if (key === "onclick") element.addEventListener("click", value);
      else if (key === "text") element.textContent = value;
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }

  function draw(name, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /** Sets a text only if it is another one, so that a reader of the screen is not told of it again. */
  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function say(text) {
    by("said").textContent = "";
    setTimeout(() => { by("said").textContent = text; }, 50);
  }

  function time(ms) {
    const units = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];
    const first = units.findIndex(([size]) => ms >= size);
    if (first < 0) return "0 s";
    const [size, unit] = units[first];
    const whole = Math.floor(ms / size);
    const next = units[first + 1];
    const rest = next && whole < 10 ? Math.floor((ms % size) / next[0]) : 0;
    return `${whole} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
  }

  function bytes(n) {
    const units = ["B", "KiB", "MiB", "GiB"];
    let unit = 0;
    for (; n >= 1024 && unit < 3; unit++) n /= 1024;
    return `${n < 10 && unit ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
  }

  // ------------------------------------------------------------------ the API

  class Refused extends Error {
    constructor(status, body) {
      super((body && body.error) || `the server answered ${status}`);
      this.status = status;
      this.body = body;
    }
  }

  async function ask(path, { body, signal } = {}) {
    const headers = {};
    const token = sessionStorage.getItem(TOKEN);
    if (token) headers.authorization = `Bearer ${token}`;
    if (body) Object.assign(headers, { "content-type": "application/json", "x-admin-action": "1" });
    const method = body ? "POST" : "GET";
    const answer = await fetch(new URL(`api/${path}`, BASE), { method, headers, body: body && JSON.stringify(body), signal });
    const said = await answer.json().catch(() => null);
    if (!answer.ok) throw new Refused(answer.status, said);
    return said;
  }

  // ------------------------------------------------------------- what is shown

  const usual = { filter: "", which: "", principal: "", address: "", sort: "age", order: "descending", page: 1 };
  let wanted = { ...usual };
  let shown = null; // the fingerprint of the session that is shown alone
  let actions = false;
  let paused = false;
  let more = false;
  let timer = 0;
  let round = null; // the requests that are under way

  function readAddress() {
    const [path, query] = location.hash.replace(/^#/, "").split("?");
    const session = /^\/session\/([0-9a-f]{8})$/.exec(path);
    shown = session && session[1];
    if (shown) return;
    wanted = { ...usual };
    for (const [key, value] of new URLSearchParams(query || "")) if (key in usual) wanted[key] = value;
    wanted.page = Math.max(1, Number.parseInt(wanted.page, 10) || 1);
    if (!columns.some((column) => column.sort === wanted.sort)) wanted.sort = usual.sort;
    if (wanted.order !== "ascending") wanted.order = "descending";
    by("filter").value = wanted.filter;
    by("which").value = wanted.which;
    showOrder();
  }

  function addressOf(what) {
    const query = new URLSearchParams();
    for (const key of Object.keys(usual)) if (String(what[key]) !== String(usual[key])) query.set(key, what[key]);
    return `#/${String(query) && `?${query}`}`;
  }

  function want(change) {
    wanted = { ...wanted, page: 1, ...change };
    history.replaceState(null, "", addressOf(wanted));
    showOrder();
    refresh();
  }

  // ------------------------------------------------------------------ rounds

  async function refresh() {
    clearTimeout(timer);
    if (round) round.abort();
    const mine = round = new AbortController();
    const { signal } = mine;
    try {
      const overview = await ask("overview", { signal });
      actions = overview.actions;
      by("sign-in").hidden = true;
      by("pause").hidden = false;
      showState(overview);
      if (shown) {
        showSession(await ask(`sessions/${shown}`, { signal }));
      } else {
        showOverview(overview);
        showList(await ask(`sessions?${queryOf(wanted)}`, { signal }));
        if (by("settings").open) showSettings(await ask("settings", { signal }));
      }
      by("session").hidden = !shown;
      by("overview").hidden = Boolean(shown);
      by("trouble").hidden = true;
      set(by("updated"), `${paused ? "Paused at" : "As of"} ${new Date().toLocaleTimeString("en-GB")}`);
    } catch (error) {
      if (signal.aborted) return;
      trouble(error);
    }
    if (round === mine) schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (!paused && !document.hidden && by("sign-in").hidden) timer = setTimeout(refresh, EVERY);
  }

  function queryOf(what) {
    const query = new URLSearchParams({ sort: what.sort, order: what.order, page: what.page, per_page: PER_PAGE });
    for (const key of ["filter", "principal", "address"]) if (what[key]) query.set(key, what[key]);
    if (what.which === "busy") query.set("busy", "true");
    else if (what.which) query.set("phase", what.which);
    return query;
  }

  function trouble(error) {
    if (error instanceof Refused && error.status === 401) {
      const was = sessionStorage.getItem(TOKEN);
      sessionStorage.removeItem(TOKEN);
      for (const id of ["overview", "session", "trouble", "drain", "pause"]) by(id).hidden = true;
      state("warn", "Token needed");
      if (by("sign-in").hidden) {
        by("sign-in").hidden = false;
        by("token").focus();
      }
      set(by("sign-in-error"), was ? "This is not the token." : "");
      return;
    }
    state("bad", "No answer");
    const text = error instanceof Refused ? `The server refuses: ${clean(error.message)}.` : "The server does not answer. Trying again.";
    set(by("trouble"), text);
    by("trouble").hidden = false;
  }

  function state(kind, text) {
    by("state").dataset.state = kind;
    set(by("state"), text);
  }

  function showState({ now, drain }) {
    if (drain && drain.report) state("bad", "Drained");
    else if (now.draining) state("bad", "Draining");
    else if (now.directory_away) state("bad", "Directory away");
    else if (now.stuck > 0) state("bad", `${number(now.stuck)} stuck`);
    else if (now.surge_ms !== null) state("warn", `Surge for ${time(now.surge_ms)}`);
    else state("good", "Serving");
    by("drain").hidden = !actions || now.draining;
    showDrain(now, drain);
  }

  let told = null;

  function showDrain(now, drain) {
    by("progress").hidden = !drain;
    if (!drain) return;
    const bar = by("progress-bar");
    bar.max = Math.max(1, drain.sessions);
    bar.value = drain.report ? bar.max : Math.max(0, drain.sessions - now.live);
    by("progress").classList.toggle("done", Boolean(drain.report));
    set(by("progress-title"), drain.report ? "Drained" : "Draining");
    let text = `${many(now.live, "session")} of ${number(drain.sessions)} left, after ${time(drain.for_ms)} of ${time(drain.deadline_ms)}.`;
    if (drain.report) {
      const { finished, cut_off, stuck } = drain.report;
      text = `In ${time(drain.for_ms)}: ${number(finished)} finished, ${number(cut_off)} cut off, ${number(stuck)} stuck. The process serves no sessions any more, and can be stopped.`;
    }
    set(by("progress-text"), text);
    const step = drain.report ? "done" : Math.floor((4 * bar.value) / bar.max);
    if (step !== told) say(text);
    told = step;
  }

  // ------------------------------------------------------------- the overview

  const tiles = [
    { key: "live", title: "Live", limit: "sessions", full: [0.95, 2] }, // A full server is no trouble: it evicts.
    { key: "busy", title: "Busy", limit: "sessions", full: [0.8, 0.95] },
    { key: "opening", title: "Opening", limit: "opening", full: [0.8, 1] },
    { key: "parked", title: "Parked", limit: "parked", extra: (now) => now.parked ? `, ${bytes(now.parked_bytes)}` : "" },
    { key: "parked_streams", title: "Held streams", limit: "parked_streams" },
  ];

  function makeTile({ title }) {
    const tile = {
      number: make("p", { class: "number" }),
      of: make("p", { class: "of" }),
      bar: draw("rect", { height: 4, width: 0 }),
      area: draw("path", { class: "area" }),
      line: draw("path", { class: "line" }),
    };
    const share = draw("svg", { class: "share", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, tile.bar);
    tile.chart = draw("svg", { class: "chart", viewBox: "0 0 600 40", preserveAspectRatio: "none", role: "img" }, tile.area, tile.line);
    tile.root = make("li", { class: "card tile" }, make("h3", { text: title }), tile.number, tile.of, share, tile.chart);
    return tile;
  }

  function makeFlow() {
    const rows = ["opened", "closed", "rejected"].map((key) => {
      const value = make("dd");
      const name = { opened: "opened or restored", closed: "ended", rejected: "rejected" }[key];
      return { key, value, root: make("div", {}, make("dt", { text: name }), value) };
    });
    const list = make("dl", { class: "flow" }, ...rows.map((row) => row.root));
    return { rows, root: make("li", { class: "card tile" }, make("h3", { text: "Last ten minutes" }), list) };
  }

  const made = tiles.map(makeTile);
  const flow = makeFlow();

  /** A chart over ten minutes, with the newest value at its right edge. */
  function plot(tile, values, ago, now) {
    const points = values.map((value, i) => [600 - ago[i] / 1000, value]).filter(([x]) => x >= 0);
    points.push([600, now]);
    const top = Math.max(1, ...points.map(([, value]) => value)) * 1.1;
    const path = points.map(([x, value]) => `${x.toFixed(1)},${(39 - (value / top) * 38).toFixed(1)}`).join("L");
    tile.line.setAttribute("d", `M${path}`);
    tile.area.setAttribute("d", `M${points[0][0].toFixed(1)},40L${path}L600,40Z`);
    return [Math.min(...points.map(([, value]) => value)), Math.max(...points.map(([, value]) => value))];
  }

  function showOverview({ now, limits, counts, history, explanations }) {
    tiles.forEach(({ key, title, limit, full, extra }, i) => {
      const tile = made[i];
      const share = limits[limit] ? Math.min(1, now[key] / limits[limit]) : 0;
      set(tile.number, number(now[key]));
      set(tile.of, limits[limit] ? `of ${number(limits[limit])}${extra ? extra(now) : ""}` : "off");
      tile.bar.setAttribute("width", share > 0 ? Math.max(2, share * 100) : 0);
      tile.root.dataset.level = !full || share < full[0] ? "good" : share < full[1] ? "warn" : "bad";
      const [least, most] = plot(tile, history[key], history.ago_ms, now[key]);
      tile.chart.setAttribute("aria-label", `${title}: between ${number(least)} and ${number(most)} in the last ten minutes`);
    });
    const sum = (of) => Object.values(of).reduce((all, one) => all + one, 0);
    const total = { opened: counts.opened + counts.restored, closed: sum(counts.closed), rejected: sum(counts.rejected) };
    for (const { key, value } of flow.rows) {
      set(value, number(Math.max(0, total[key] - (history[key].length ? history[key][0] : 0))));
    }
    if (!by("tiles").children.length) by("tiles").append(...made.map((tile) => tile.root), flow.root);
    by("more").hidden = explanations.length <= FEW;
    showWhy(by("why"), more ? explanations : explanations.slice(0, FEW), true, "No session has ended and nothing was rejected since the server started.");
  }

  function showSettings({ since_ms, changes, settings }) {
    const key = JSON.stringify([since_ms, settings]);
    const list = by("settings-list");
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    const since = new Date(since_ms);
    const when = `${since.toLocaleDateString("en-CA")} ${since.toLocaleTimeString("en-GB")}`;
    set(by("settings-since"), changes ? `Since ${when}. Changed ${many(changes, "time")}.` : `Since the start, ${when}.`);
    const value = (name, it) => {
      if (it === null) return "none";
      if (typeof it === "boolean") return it ? "yes" : "no";
      if (name.endsWith("_ms")) return time(it);
      if (name.endsWith("_bytes")) return bytes(it);
      return typeof it === "number" ? number(it) : it;
    };
    const items = Object.entries(settings).map(([name, it]) =>
      make("div", {}, make("dt", { text: name.replace(/_ms$/, "").replaceAll("_", " ") }), make("dd", { text: value(name, it) })));
    list.replaceChildren(...items);
  }

  const states = { evicted: "warn", revoked: "bad", init_failed: "bad", init_timeout: "warn", cut_off: "bad", at_capacity: "bad", capacity: "bad", overload: "bad", backend: "bad", quota: "warn" };
  const names = {
    client: "Closed", evicted: "Evicted", idle: "Idle", lifetime: "Lifetime", init_timeout: "No handshake", init_failed: "Failed",
    ended: "Ended", revoked: "Terminated", drained: "Drained", moved: "Moved", quota: "Over quota", capacity: "No room",
    overload: "Overload", backend: "Backend", at_capacity: "Full", draining: "Draining", cut_off: "Cut off",
  };

  function showWhy(list, all, links, none) {
    const key = JSON.stringify([all, links]);
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    const today = new Date().toDateString();
    const items = all.map(({ at_ms, reason, text, fingerprint }) => {
      const at = new Date(at_ms);
      const when = at.toLocaleTimeString("en-GB");
      const full = at.toDateString() === today ? when : `${at.toLocaleDateString("en-CA")} ${when}`;
      return make("li", {},
        make("time", { datetime: at.toISOString(), title: at.toISOString(), text: full }),
        make("span", { class: "tag", "data-state": states[reason], text: names[reason] || reason }),
        make("span", { class: "sentence" }, make("bdi", { text: clean(text) })),
        ...(links && fingerprint ? [make("a", { class: "code", href: `#/session/${fingerprint}`, "aria-label": `Session ${fingerprint}`, text: fingerprint })] : []));
    });
    list.replaceChildren(...(items.length ? items : [make("li", { class: "none", text: none })]));
  }

  // ----------------------------------------------------------------- the list

  const columns = [
    { title: "Session", sort: "fingerprint", kind: "name", show: (s) => make("a", { class: "code", href: `#/session/${s.fingerprint}`, text: s.fingerprint }) },
    { title: "Client", sort: "client", kind: "fact", show: (s) => software(s) },
    { title: "Principal", sort: "principal", kind: "fact", show: (s) => only(s, "principal", s.principal_cut) },
    { title: "Address", sort: "address", kind: "fact", show: (s) => only(s, "address") },
    { title: "Age", sort: "age", kind: "amount", show: (s) => time(s.age_ms) },
    { title: "Idle", sort: "idle", kind: "amount", show: (s) => s.in_flight ? "busy" : time(s.idle_ms) },
    { title: "In flight", sort: "in_flight", kind: "amount", show: (s) => amount(s.in_flight) },
    { title: "Streams", sort: "streams", kind: "amount", show: (s) => amount(s.streams) },
    { title: "Uses", sort: "uses", kind: "amount", show: (s) => amount(s.uses) },
    { title: "Restored", sort: "restores", kind: "amount", show: (s) => amount(s.restores) },
  ];

  const amount = (n) => make("span", { class: n ? undefined : "zero", text: number(n) });
  const unknown = () => make("span", { class: "zero", text: "unknown" });

  function software({ client }) {
    if (!client) return unknown();
    const [name, version] = [clean(client.name), clean(client.version)];
    const text = make("bdi", { title: `${name} ${version}`, text: name || "without a name" });
    text.append(make("span", { class: "zero", text: ` ${version}` }));
    return text;
  }

  /** A link to the sessions that have the same. What is cut names nothing. */
  function only(session, key, cut) {
    const value = session[key];
    if (value === null) return make("span", { class: "zero", text: key === "principal" ? "none" : "unknown" });
    const text = make("bdi", { title: clean(value), text: clean(value) + (cut ? "…" : "") });
    return cut ? text : make("a", { href: addressOf({ ...usual, [key]: value }) }, text);
  }

  function makeHead() {
    const cells = columns.map((column) => {
      const button = make("button", { type: "button", text: column.title, onclick: () => sortBy(column) });
      column.head = make("th", { scope: "col", role: "columnheader", class: column.kind === "amount" ? "amount" : undefined }, button);
      return column.head;
    });
    const act = make("th", { scope: "col", role: "columnheader" }, make("span", { class: "hidden", text: "Actions" }));
    document.querySelector("#list thead tr").append(...cells, act);
    for (const { title, sort, kind } of columns) {
      const orders = kind === "amount" ? [["descending", "most first"], ["ascending", "least first"]] : [["ascending", "A to Z"], ["descending", "Z to A"]];
      by("sort").append(...orders.map(([order, text]) => make("option", { value: `${sort} ${order}`, text: `${title}, ${text}` })));
    }
  }

  function sortBy({ sort, kind, title }) {
    const first = kind === "amount" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = wanted.sort === sort && wanted.order === first ? other : first;
    want({ sort, order });
    say(`Sorted by ${title}, ${order}`);
  }

  function showOrder() {
    for (const { head, sort } of columns) {
      if (sort === wanted.sort) head.setAttribute("aria-sort", wanted.order);
      else head.removeAttribute("aria-sort");
    }
    by("sort").value = `${wanted.sort} ${wanted.order}`;
  }

  const rows = new Map();

  function makeRow(session) {
    const cells = columns.map(({ title, kind }) => make("td", { role: "cell", class: kind, "data-label": title }));
    const act = make("td", { role: "cell", class: "act" });
    const tag = make("span", { class: "tag" });
    return { cells, act, tag, texts: [], root: make("tr", { role: "row" }, ...cells, act) };
  }

  /** Changes only what is another, so that the focus and a selection stay. */
  function fillRow(row, session) {
    columns.forEach(({ show, sort }, i) => {
      const value = show(session);
      const key = typeof value === "string" ? value : new XMLSerializer().serializeToString(value) + (sort === "fingerprint" ? session.phase : "");
      if (row.texts[i] === key) return;
      row.texts[i] = key;
      row.cells[i].replaceChildren(value);
      if (sort === "fingerprint" && session.phase !== "ready") {
        row.cells[i].append(" ", make("span", { class: "tag", "data-state": "warn", text: session.phase }));
      }
    });
    if (actions && !row.act.firstChild) {
      row.act.append(make("button", { type: "button", class: "danger", "aria-label": `Terminate session ${session.fingerprint}`, text: "Terminate…", onclick: () => terminateOne(session) }));
    }
    if (!actions) row.act.replaceChildren();
    if (row.act.firstChild) row.act.firstChild.disabled = session.phase === "closing";
  }

  let asked = "";

  function showList({ live, matching, page, pages, per_page, sessions }) {
    const body = document.querySelector("#list tbody");
    const had = body.contains(document.activeElement);
    const seen = new Set();
    sessions.forEach((session, i) => {
      seen.add(session.session);
      if (!rows.has(session.session)) rows.set(session.session, makeRow(session));
      const row = rows.get(session.session);
      fillRow(row, session);
      if (body.children[i] !== row.root) body.insertBefore(row.root, body.children[i] || null);
    });
    for (const [key, row] of rows) {
      if (seen.has(key)) continue;
      row.root.remove();
      rows.delete(key);
    }
    if (had && !body.contains(document.activeElement)) by("list-title").focus();
    wanted.page = page;
    const filtered = wanted.filter || wanted.which || wanted.principal || wanted.address;
    by("list").hidden = sessions.length === 0;
    by("empty").hidden = sessions.length > 0;
    set(by("empty"), filtered ? "No session is like that." : "No session is live.");
    const text = filtered ? `${number(matching)} of ${number(live)}` : `${number(live)} live`;
    set(by("count"), text);
    const question = JSON.stringify([wanted.filter, wanted.which, wanted.principal, wanted.address]);
    if (filtered && asked !== question) say(`${many(matching, "session")} found`);
    asked = question;
    const first = (page - 1) * per_page;
    set(by("page"), sessions.length ? `${number(first + 1)} to ${number(first + sessions.length)} of ${number(matching)}` : "");
    by("previous").disabled = page <= 1;
    by("next").disabled = page >= pages;
    by("previous").parentElement.hidden = pages === 1;
    showOnly();
  }

  function showOnly() {
    const key = wanted.principal ? "principal" : "address";
    const value = wanted[key];
    const line = by("only");
    line.hidden = !value;
    const mark = `${key} ${value} ${actions}`;
    if (line.dataset.mark === mark) return;
    line.dataset.mark = mark;
    const all = make("button", { type: "button", text: "Show all sessions", onclick: () => want({ principal: "", address: "" }) });
    const end = make("button", { type: "button", class: "danger", text: "Terminate all of them…", onclick: () => terminateAll(key, value) });
    const text = make("span", {}, key === "principal" ? "Sessions of the principal " : "Sessions from the address ", make("strong", {}, make("bdi", { text: clean(value) })));
    line.replaceChildren(text, all, ...(actions ? [end] : []));
  }

  // -------------------------------------------------------------- one session

  function showSession({ fingerprint, live, parked, explanations }) {
    set(by("session-title"), `Session ${fingerprint}`);
    const key = JSON.stringify([live, parked, actions]);
    const body = by("session-body");
    if (body.dataset.key !== key) {
      const had = document.activeElement && document.activeElement.dataset.act;
      body.dataset.key = key;
      const cards = [...live.map((session) => card(session, true)), ...parked.map((session) => card(session, false))];
      const none = "It is neither live nor parked here. What is known of it is below.";
      body.replaceChildren(...(cards.length ? cards.flat() : [make("p", { class: "card empty", text: none })]));
      const again = had && [...body.querySelectorAll("[data-act]")].find((button) => button.dataset.act === had);
      if (again) again.focus();
      else if (had) by("session-title").focus();
    }
    showWhy(by("session-why"), explanations, false, "It has not ended, and nothing of it was rejected lately.");
  }

  function card(session, isLive) {
    const facts = [
      ["State", isLive ? (session.in_flight ? "busy" : session.phase) : "parked: its next request restores it"],
      ["Client", isLive ? software(session) : null],
      ["Principal", only(session, "principal", session.principal_cut)],
      ["Address", only(session, "address")],
      [isLive ? "Age" : "Opened", isLive ? time(session.age_ms) : `${time(session.age_ms)} ago`],
      ["Last used", session.in_flight ? "now" : `${time(session.idle_ms)} ago`],
      ["In flight", isLive ? number(session.in_flight) : null],
      ["Streams", isLive ? { never: "none, never listened", open: number(session.streams), lost: "none, has listened" }[session.listening] : null],
      ["Uses", `${number(session.uses)}, of which ${many(session.calls, "call")}`],
      ["Restored", session.restores ? many(session.restores, "time") : "never"],
    ];
    const list = make("dl", { class: "card facts" }, ...facts.filter(([, value]) => value !== null).map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", {}, value))));
    if (!actions) return [list];
    const button = (act, text, onclick) => make("button", { type: "button", class: "danger", "data-act": act, text, onclick });
    const buttons = [button("one", "Terminate this session…", () => terminateOne(session))];
    if (session.principal !== null && !session.principal_cut) {
      buttons.push(button("principal", `Terminate all of principal ${clean(session.principal)}…`, () => terminateAll("principal", session.principal)));
    }
    if (session.address !== null) {
      buttons.push(button("address", `Terminate all from ${session.address}…`, () => terminateAll("address", session.address)));
    }
    return [list, make("p", { class: "actions" }, ...buttons)];
  }

  // ------------------------------------------------------------------ actions

  /** Changes with each question that is asked or taken back, so that a late answer of the server asks none. */
  let asking = 0;

  /** Opens the dialog. `act` runs when the operator agrees, and keeps the dialog open if it throws. With `again` nobody can
      agree for a second: it stands where another question stood, and has to be read first. */
  function question({ title, text, yes, deadline, act, again }) {
    const dialog = by("ask");
    asking++;
    by("ask-title").textContent = title;
    by("ask-text").textContent = text;
    by("ask-yes").textContent = yes;
    by("ask-error").textContent = again ? "More sessions have come since." : "";
    by("ask-deadline").hidden = !deadline;
    by("deadline").disabled = !deadline;
    for (const id of ["ask-yes", "ask-no"]) by(id).disabled = false;
    question.act = act;
    if (again) {
      by("ask-yes").disabled = true;
      setTimeout(() => { if (question.act === act) by("ask-yes").disabled = false; }, 1000);
    }
    if (!dialog.open) dialog.showModal();
    by("ask-no").focus();
  }

  async function agreed(event) {
    event.preventDefault();
    by("ask-yes").disabled = true;
    const { act } = question;
    try {
      const said = await act();
      if (question.act === act) by("ask").close();
      if (said) say(said);
      refresh();
    } catch (error) {
      if (question.act !== act) return;
      by("ask-error").textContent = `${clean(error.message)}.`;
      // After a conflict it is asked again with the number of now.
      by("ask-yes").disabled = error.status === 409;
    }
  }

  function takeBack() {
    if (by("ask").open) return;
    question.act = null;
    asking++;
  }

  function terminateOne(session) {
    const who = [session.client && clean(session.client.name), session.principal && clean(session.principal)].filter(Boolean).join(", of ");
    question({
      title: `Terminate session ${session.fingerprint}?`,
      text: `${who ? `Its client is ${who}. ` : ""}Requests in flight are answered with an error, and the session cannot be restored.`,
      yes: "Terminate it",
      act: () => end({ session: session.session, at_most: 1 }),
    });
  }

  async function terminateAll(key, value, again = false) {
    const name = key === "principal" ? `of ${clean(value)}` : `from ${clean(value)}`;
    const mine = ++asking;
    let count;
    try {
      count = await ask(`selection?${new URLSearchParams({ [key]: value })}`);
    } catch (error) {
      trouble(error);
      return;
    }
    if (mine !== asking) return;
    const all = count.live + count.parked;
    question({
      again,
      title: `Terminate all sessions ${name}?`,
      text: `This ends ${many(all, "session")}: ${number(count.live)} live and ${number(count.parked)} parked. Requests in flight are answered with an error, and the sessions cannot be restored.`,
      yes: `Terminate ${many(all, "session")}`,
      act: () => end({ [key]: value, at_most: all }).catch((error) => {
        if (error.status === 409) terminateAll(key, value, true);
        throw error;
      }),
    });
  }

  async function end(body) {
    const { ended } = await ask("terminate", { body });
    return ended ? `${many(ended, "session")} terminated` : "There was no such session any more";
  }

  function askDrain() {
    question({
      title: "Drain this server?",
      text: "Newcomers are refused from now on, idle sessions are closed, and calls in flight may finish until the deadline. This cannot be taken back: the process should be stopped after it.",
      yes: "Drain",
      deadline: true,
      act: async () => {
        await ask("drain", { body: { deadline_seconds: Number(by("deadline").value) } });
        return "The drain has begun";
      },
    });
  }

  // ------------------------------------------------------------------- wiring

  let typing = 0;

  function navigate() {
    clearTimeout(typing);
    const before = shown;
    readAddress();
    if (shown !== before) {
      by("session").hidden = by("overview").hidden = true;
      for (const id of ["session-body", "session-why"]) delete by(id).dataset.key;
    }
    refresh().then(() => {
      if (shown && shown !== before) by("session-title").focus();
      else if (before && !shown) by("list-title").focus();
    });
  }

  makeHead();
  by("filter").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => want({ filter: by("filter").value.trim() }), 200);
  });
  by("search").addEventListener("submit", (event) => event.preventDefault());
  by("which").addEventListener("change", () => want({ which: by("which").value }));
  by("sort").addEventListener("change", () => {
    const [sort, order] = by("sort").value.split(" ");
    want({ sort, order });
  });
  by("previous").addEventListener("click", () => want({ page: wanted.page - 1 }));
  by("next").addEventListener("click", () => want({ page: wanted.page + 1 }));
  by("more").addEventListener("click", () => {
    more = !more;
    by("more").setAttribute("aria-expanded", more);
    set(by("more"), more ? "Fewer" : "More");
    refresh();
  });
  by("pause").addEventListener("click", () => {
    paused = !paused;
    by("pause").setAttribute("aria-pressed", paused);
    refresh();
  });
  by("settings").addEventListener("toggle", () => by("settings").open && refresh());
  by("drain").addEventListener("click", askDrain);
  by("ask").querySelector("form").addEventListener("submit", agreed);
  by("ask-no").addEventListener("click", () => by("ask").close());
  by("ask").addEventListener("close", takeBack);
  by("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = by("token").value.trim();
    by("token").value = "";
    // No header can carry another one, so the browser would not send it.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      set(by("sign-in-error"), "This is not the token.");
      return;
    }
    sessionStorage.setItem(TOKEN, token);
    refresh();
  });
  document.addEventListener("visibilitychange", () => document.hidden || paused ? clearTimeout(timer) : refresh());
  addEventListener("hashchange", navigate);
  navigate();
})();
