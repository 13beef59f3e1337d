// Drives the operator's page of the example server in Chromium, with real sessions behind it.
//
//     node drive.mjs SERVER CHROMIUM FOLDER
//
// Fails at the first thing that is not as it should be. FOLDER gets the pictures. `run` calls it.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { Session, start } from "./server.mjs";

const [binary, executablePath, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDE = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const FLAGS = ["--principal-header", "x-user", "--trusted-proxy", "127.0.0.0/8"];
const CLIENTS = [
  { name: "claude-code", version: "2.1.4", user: "alice", address: "10.1.0.1" },
  { name: "cursor-vscode", version: "1.9.0", user: "bob", address: "10.1.0.2" },
  { name: "Visual Studio Code", version: "1.107.0", user: "carol@example.com", address: "10.1.1.3" },
  { name: "<img src=x onerror=alert(1)>", version: "<script>alert(2)</script>", user: "<b>mallory</b>", address: "10.9.9.9" },
  { name: "agent-" + "long".repeat(60), version: "0", user: undefined, address: "2001:db8:1:2:3:4:5:6" },
  { name: "nightly", version: "7", user: "auth0|65f2c1a9e8b7d4c3a2f1e0d9", address: "10.1.2.4" },
];

let browser;
let here; // the host that pages may ask
const wrong = [];
const answers = [];

/** Opens a page of which each complaint of the browser is noted. */
async function open(url, options = {}) {
  const context = await browser.newContext({ ...WIDE, ...options });
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && wrong.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => wrong.push(`error: ${error}`));
  page.on("dialog", (dialog) => wrong.push(`a script of a client ran: ${dialog.message()}`));
  page.on("request", (request) => new URL(request.url()).host === here || wrong.push(`asked ${request.url()}`));
  page.on("response", async (response) => answers.push(await response.text().catch(() => "")));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  here = new URL(url).host;
  await page.goto(url);
  return page;
}

async function audit(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const shown = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join("; ")}`);
  assert.deepEqual(shown, [], what);
}

const picture = (page, name, fullPage = false) => page.screenshot({ path: join(folder, `${name}.png`), fullPage });

function step(name) {
  assert.deepEqual(wrong, [], `before ${name}`);
  console.log(`${(performance.now() / 1000).toFixed(1)} s: ${name}`);
}

const column = (page, label) => page.locator(`#list tbody td[data-label="${label}"]`).allInnerTexts();

async function listed(page) {
  await page.locator("#list tbody tr").first().waitFor();
}

/** Waits until all sessions of the list are of one principal. */
function onlyOf(page, user) {
  const all = (user) => {
    const cells = [...document.querySelectorAll('#list tbody td[data-label="Principal"]')];
    return cells.length > 0 && cells.every((cell) => cell.innerText === user);
  };
  return page.waitForFunction(all, user);
}

/** A server with sessions of many clients, some evicted and some restored. */
async function busyServer(flags, sessions) {
  const server = await start(binary, "--max-sessions", String(sessions), ...FLAGS, ...flags);
  const all = [];
  for (let i = 0; i < sessions + 10; i++) all.push(await Session.open(server.url, CLIENTS[i % CLIENTS.length]));
  for (let i = 0; i < all.length; i += 4) assert.equal((await all[i].call("echo", { text: "here" }))[0], 200);
  await all.at(-1).listen();
  return [server, all];
}

async function overview() {
  step("the overview shows what there is");
  const [server, all] = await busyServer(["--admin-actions"], 60);
  const page = await open(server.admin);
  await listed(page);
  assert.deepEqual(await page.locator(".tile h3").allInnerTexts(), ["Live", "Busy", "Opening", "Parked", "Held streams", "Last ten minutes"]);
  const live = page.locator(".tile").first();
  assert.match(await live.innerText(), /Live\s+60\s+of 60/);
  assert.match(await live.locator(".chart").getAttribute("aria-label"), /^Live: between \d+ and 60 in the last ten minutes$/);
  assert.equal(await page.locator("#state").innerText(), "Serving");
  assert.equal(await page.locator("#why li").count(), 5);
  assert.match(await page.locator("#why li").first().innerText(), /^\d\d:\d\d:\d\d\s+Evicted\s+evicted/);
  await page.click("#more");
  assert.ok(await page.locator("#why li").nth(9).isVisible());
  await page.click("#more");
  assert.match(await page.locator("#count").innerText(), /^60 live$/);
  assert.match(await page.locator("#page").innerText(), /^1 to 25 of 60$/);
  assert.equal(await page.locator("#list tbody").locator("img, script, b").count(), 0, "names are text");
  await audit(page, "the overview");
  await picture(page, "overview-light");

  step("the settings in force");
  await page.click("#settings summary");
  await page.locator("#settings-since", { hasText: "Since the start" }).waitFor();
  assert.match(await page.locator("#settings-list").innerText(), /max sessions\s+60\s/);
  await audit(page, "the settings");
  await picture(page, "settings-light");
  await page.click("#settings summary");

  step("filter, sort and page");
  await page.click("#next");
  await page.locator("#page", { hasText: "26 to 50" }).waitFor();
  await page.click('th button:text-is("Uses")');
  await page.locator('th[aria-sort="descending"]:has-text("Uses")').waitFor();
  await page.locator("#page", { hasText: "1 to 25" }).waitFor();
  const most = (await column(page, "Uses")).map(Number);
  assert.ok(most[0] > 0 && most.every((uses, i) => i === 0 || uses <= most[i - 1]), String(most));
  await page.click('th button:text-is("Uses")');
  await page.locator('th[aria-sort="ascending"]:has-text("Uses")').waitFor();
  await page.waitForFunction(() => document.querySelector('#list td[data-label="Uses"]').innerText === "0");
  await page.fill("#filter", "CAROL");
  await onlyOf(page, "carol@example.com");
  assert.match(await page.locator("#count").innerText(), /^\d+ of 60$/);
  await page.locator("#said", { hasText: "found" }).waitFor({ state: "attached" });
  await page.reload();
  await listed(page);
  assert.equal(await page.inputValue("#filter"), "CAROL", "the address keeps what was asked for");
  await page.fill("#filter", "nothing has this");
  await page.locator("#empty", { hasText: "No session is like that." }).waitFor();
  await page.fill("#filter", "");
  await listed(page);

  step("a session with its history");
  // One that was evicted and has come back.
  const back = all[1];
  assert.equal((await back.call("echo", { text: "back" }))[0], 200);
  await page.goto(server.admin);
  await page.selectOption("#which", "ready");
  await page.click('th button:text-is("Restored")');
  await page.locator('#list td[data-label="Restored"]', { hasText: /^[1-9]/ }).first().waitFor();
  await page.locator("#list tbody tr").first().locator("a").first().click();
  await page.locator("#session-title").waitFor();
  await page.locator("#session-why li", { hasText: "evicted" }).first().waitFor();
  assert.match(await page.locator("#session-body").innerText(), /Restored\s+1 time/);
  assert.ok(await page.locator("#session-title").evaluate((title) => title === document.activeElement), "the focus is on the new title");
  await audit(page, "a session");
  await picture(page, "session-light");
  await page.click("#back");
  await listed(page);
  await page.context().close();
  return [server, all];
}

async function ends(server, all) {
  step("a session is terminated, after a question");
  const page = await open(server.admin);
  await listed(page);
  await page.fill("#filter", "alice");
  await onlyOf(page, "alice");
  const alive = async (sessions) => {
    const statuses = await Promise.all(sessions.map(async (session) => (await session.call("echo", { text: "here" }))[0]));
    return statuses.filter((status) => status === 200).length;
  };
  const of = (user) => all.filter((session) => session.headers["x-user"] === user);
  const count = async () => (await (await fetch(`${server.admin}api/selection?principal=alice`)).json());
  const before = await count();
  const row = page.locator("#list tbody tr").first();
  const print = await row.locator("a").first().innerText();
  await row.locator("button").click();
  assert.match(await page.locator("#ask").innerText(), new RegExp(`Terminate session ${print}\\?`));
  assert.ok(await page.locator("#ask-no").evaluate((button) => button === document.activeElement), "the safe answer has the focus");
  await audit(page, "a question");
  await picture(page, "question-light");
  await page.click("#ask-no");
  assert.deepEqual(await count(), before, "nothing has ended");
  await row.locator("button").click();
  await page.click("#ask-yes");
  await page.locator("#said", { hasText: "1 session terminated" }).waitFor({ state: "attached" });
  assert.equal((await count()).live, before.live - 1);
  await page.locator("#why li", { hasText: "terminated by an operator" }).first().waitFor();

  step("all of a principal are terminated, with their number");
  await page.fill("#filter", "mallory");
  await onlyOf(page, "<b>mallory</b>");
  await page.click('#list td[data-label="Principal"] a');
  await page.locator("#only", { hasText: "Sessions of the principal <b>mallory</b>" }).waitFor();
  await page.click("#only button.danger");
  await page.locator("#ask[open]").waitFor();
  const text = await page.locator("#ask-text").innerText();
  const [, sum, live, parked] = /^This ends (\d+) sessions?: (\d+) live and (\d+) parked\./.exec(text).map(Number);
  assert.ok(sum === live + parked && sum === of("<b>mallory</b>").length, text);
  const others = (await (await fetch(`${server.admin}api/overview`)).json()).now;
  await page.click("#ask-yes");
  await page.locator("#said", { hasText: `${sum} sessions terminated` }).waitFor({ state: "attached" });
  await page.locator("#empty").waitFor();
  const now = (await (await fetch(`${server.admin}api/overview`)).json()).now;
  assert.deepEqual([others.live - now.live, others.parked - now.parked], [live, parked], "no other has ended");
  assert.equal(await alive(of("<b>mallory</b>")), 0);
  assert.equal(await alive(of("bob")), of("bob").length);

  step("what more would end than was confirmed is asked again");
  await page.goto(`${server.admin}#/?principal=bob`);
  await page.click("#only button.danger");
  await page.locator("#ask[open]").waitFor();
  const first = await page.locator("#ask-yes").innerText();
  all.push(await Session.open(server.url, CLIENTS[1]));
  await page.click("#ask-yes");
  await page.locator("#ask-yes", { hasText: String(Number(/\d+/.exec(first)[0]) + 1) }).waitFor();
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => !document.querySelector("dialog").open);
  assert.equal(await alive(of("bob")), of("bob").length);
  wrong.splice(0, wrong.length, ...wrong.filter((text) => !text.includes("409")));
  await page.context().close();
}

async function keyboard(server) {
  step("with the keyboard alone");
  const page = await open(server.admin);
  await listed(page);
  const focus = () => page.evaluate(() => {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    return { text: element.getAttribute("aria-label") || element.innerText || element.id, id: element.id, ring: style.outlineStyle !== "none" && style.outlineWidth !== "0px" };
  });
  /** Goes on until the focus is on this. */
  const to = async (wanted) => {
    for (let i = 0; i < 300; i++) {
      await page.keyboard.press("Tab");
      const { text, id, ring } = await focus();
      assert.ok(ring || text === "" || id === "main", `the focus on ${text} is seen`);
      if (wanted.test(text) || wanted.test(id)) return;
    }
    assert.fail(`no way to ${wanted}`);
  };
  await page.keyboard.press("Tab");
  assert.equal((await focus()).text, "Skip to the content");
  await to(/^filter$/);
  await page.keyboard.type("nightly");
  await page.waitForFunction(() => [...document.querySelectorAll('#list td[data-label="Client"]')].every((cell) => cell.innerText.startsWith("nightly")));
  await to(/^Idle$/);
  await page.keyboard.press("Enter");
  await page.locator('th[aria-sort="descending"]:has-text("Idle")').waitFor();
  const live = async () => (await (await fetch(`${server.admin}api/overview`)).json()).now.live;
  const before = await live();
  await to(/^Terminate session /);
  // Rounds go on meanwhile, and leave the focus where it is.
  const { text } = await focus();
  await page.waitForResponse((response) => response.url().includes("api/sessions"));
  await page.waitForTimeout(200);
  assert.equal((await focus()).text, text);
  await page.keyboard.press("Enter");
  assert.equal((await focus()).id, "ask-no");
  await page.keyboard.press("Tab");
  assert.equal((await focus()).id, "ask-yes");
  await page.keyboard.press("Enter");
  await page.locator("#said", { hasText: "1 session terminated" }).waitFor({ state: "attached" });
  assert.equal(await live(), before - 1);
  await page.waitForFunction(() => document.activeElement !== document.body);
  await page.context().close();
}

async function looks(server) {
  step("dark, and on a phone");
  for (const [name, options] of [["dark", { colorScheme: "dark" }], ["phone-light", PHONE], ["phone-dark", { ...PHONE, colorScheme: "dark" }]]) {
    const page = await open(server.admin, options);
    await listed(page);
    await audit(page, name);
    await picture(page, `overview-${name}`, name !== "dark");
    const [needed, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.equal(needed, width, `${name}: nothing is beside the screen`);
    await page.locator("#list tbody tr").first().locator("a").first().click();
    await page.locator("#session-title").waitFor();
    await audit(page, `${name}, a session`);
    await picture(page, `session-${name}`);
    await page.locator('[data-act="one"]').click();
    await audit(page, `${name}, a question`);
    await picture(page, `question-${name}`);
    await page.context().close();
  }
}

async function drain(server, all) {
  step("a drain is begun, and shows how far it is");
  const page = await open(server.admin);
  await listed(page);
  await page.click("#drain");
  await audit(page, "the question before a drain");
  await page.fill("#deadline", "20");
  const call = all.at(-1).call("sleep", { millis: 8_000 });
  await page.waitForResponse((response) => response.url().includes("api/overview"));
  await page.click("#ask-yes");
  await page.locator("#progress", { hasText: /1 session of \d+ left/ }).waitFor();
  assert.equal(await page.locator("#state").innerText(), "Draining");
  await picture(page, "drain-light");
  await audit(page, "a drain");
  await assert.rejects(Session.open(server.url), /503/);
  await page.locator("#progress", { hasText: /finished, 0 cut off, 0 stuck/ }).waitFor();
  assert.deepEqual([await page.locator("#state").innerText(), (await call)[0]], ["Drained", 200]);
  assert.ok(!(await page.locator("#drain").isVisible()));
  await audit(page, "after a drain");
  await page.context().close();
}

async function readOnly() {
  step("without --admin-actions nothing acts");
  const [server] = await busyServer([], 12);
  const page = await open(server.admin);
  await listed(page);
  assert.equal(await page.locator("button.danger:visible").count(), 0);
  const print = await page.locator("#list tbody a").first().innerText();
  await page.goto(`${server.admin}#/session/${print}`);
  await page.locator("#session-body .facts").waitFor();
  assert.equal(await page.locator("button.danger:visible").count(), 0);
  await page.context().close();
  await server.stop();
}

async function token() {
  step("a token is asked for");
  const file = join(tmpdir(), `operator-page-${process.pid}`);
  writeFileSync(file, "correct horse battery staple".replaceAll(" ", "-"));
  const [server] = await busyServer(["--admin-token-file", file], 6);
  assert.equal((await fetch(`${server.admin}metrics`)).status, 401);
  const page = await open(server.admin);
  await page.locator("#token").waitFor();
  await audit(page, "the question for the token");
  await picture(page, "token-light");
  await page.fill("#token", "a-token-that-is-wrong");
  await page.keyboard.press("Enter");
  await page.locator("#sign-in-error", { hasText: "This is not the token." }).waitFor();
  await page.fill("#token", "correct-horse-battery-staple");
  await page.keyboard.press("Enter");
  await listed(page);
  assert.ok(!page.url().includes("horse") && !(await page.content()).includes("horse"));
  // The browser says of each refusal that it was one.
  wrong.splice(0, wrong.length, ...wrong.filter((text) => !text.includes("401")));
  await page.context().close();
  await server.stop();
}

async function attacks() {
  step("other sites cannot read and cannot act");
  const [server, all] = await busyServer(["--admin-actions"], 6);
  const rebound = new URL(server.admin);
  rebound.hostname = "evil.example"; // which the browser resolves to this machine
  const page = await open(String(rebound)).catch((error) => assert.fail(error));
  assert.match(await page.locator("body").innerText(), /this host is not served here/);
  await page.context().close();

  const html = `<form method="post" enctype="text/plain" action="${server.admin}api/drain"><input name='{"deadline_seconds":1,"a":"' value='"}'></form>
    <script>
      const send = (headers, mode) => fetch("${server.admin}api/drain", { method: "POST", mode, headers, body: '{"deadline_seconds":1}' }).then((a) => a.type, () => "refused");
      const read = () => fetch("${server.admin}api/overview").then(() => "read", () => "refused");
      globalThis.tries = (async () => [await send({ "content-type": "application/json", "x-admin-action": "1" }, "cors"), await send({ "content-type": "text/plain" }, "no-cors"), await read()])();
    </script>
    <iframe src="${server.admin}"></iframe>`;
  const other = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(html));
  await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
  const site = await browser.newPage();
  await site.goto(`http://127.0.0.1:${other.address().port}/`);
  const [cors, blind, read] = await site.evaluate(() => globalThis.tries);
  assert.deepEqual([cors, blind, read], ["refused", "refused", "refused"]);
  assert.ok(site.frames().every((frame) => !frame.url().startsWith(server.admin)), "it is shown in no frame");
  await Promise.all([site.waitForNavigation(), site.evaluate(() => document.forms[0].submit())]);
  assert.match(await site.locator("body").innerText(), /another site/);
  const { now } = await (await fetch(`${server.admin}api/overview`)).json();
  assert.deepEqual([now.draining, now.live], [false, 6]);
  assert.equal((await all.at(-1).call("echo", { text: "here" }))[0], 200);
  await site.close();
  other.close();
  wrong.splice(0, wrong.length, ...wrong.filter((text) => !text.includes("421")));
  await server.stop();
}

async function scan() {
  step("1,000 sessions are used, and no id is seen");
  const server = await start(binary, "--max-sessions", "900", ...FLAGS, "--admin-actions");
  const all = [];
  for (let i = 0; i < 1_000; i += 50) {
    all.push(...(await Promise.all(Array.from({ length: 50 }, (_, k) => Session.open(server.url, CLIENTS[(i + k) % 6])))));
  }
  answers.length = 0;
  let using = true;
  const use = (async () => {
    for (let i = 0; using; i += 20) await Promise.all(Array.from({ length: 20 }, (_, k) => all[(i + k) % 1_000].call("count")));
  })();
  const page = await open(server.admin);
  await listed(page);
  const paint = await page.evaluate(() => Object.fromEntries(performance.getEntriesByType("paint").map(({ name, startTime }) => [name, Math.round(startTime)])));
  console.log(`      first paint after ${paint["first-paint"]} ms, of content after ${paint["first-contentful-paint"]} ms`);
  const seen = [];
  for (const sort of ["Age", "Idle", "Uses", "Restored"]) {
    await page.click(`th button:text-is("${sort}")`);
    await page.waitForResponse((response) => response.url().includes("api/sessions"));
    seen.push(await page.content());
  }
  await page.locator("#list tbody a").first().click();
  await page.locator("#session-body .facts, #session-body .empty").first().waitFor();
  seen.push(await page.content());
  using = false;
  await use;
  for (const path of ["metrics", "api/explanations", "api/sessions?sort=uses"]) seen.push(await (await fetch(server.admin + path)).text());
  await page.context().close();
  seen.push(...answers, await server.stop());
  const text = seen.join("\n");
  assert.ok(text.length > 100_000 && answers.length > 10, "there is something to scan");
  const ids = all.map(({ id }) => id).filter((id) => text.includes(id));
  assert.equal(ids.length, 0, "ids are seen");
}

browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"] });
try {
  const [server, all] = await overview();
  await ends(server, all);
  await keyboard(server);
  await looks(server);
  await drain(server, all);
  await server.stop();
  await readOnly();
  await token();
  await attacks();
  await scan();
  step("done");
} finally {
  await browser.close();
}
// Clients of servers that were killed may wait yet.
process.exit(0);
