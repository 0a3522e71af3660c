// The page at `/`: wires the client (portcullis.js) to what is on the screen. Tokens stay in the client's memory.
import { breakable, byId, el } from "./dom.js";
import { Portcullis, describeClose } from "./portcullis.js";
import { Rooms } from "./rooms.js";
import { Wire } from "./wire.js";
import { ACTIONS, FREE, meaningOf, span, stateName } from "./words.js";

const MAX_NOTICES = 2;

/** Closes after which nothing but a new login helps. */
const LOGIN_AGAIN = new Set(["login_required", "invalid_grant", "expired_token", "revoked_token", "session_revoked"]);

const wire = new Wire();
const rooms = new Rooms(notify, showPermissions);
let gate = null;
let permissions = new Map(); // of actions without a channel: action → conditional
let clockSkew_s = 0;
let comesBackAt = null; // performance.now() of the next attempt
let loginAgain = false;

// ------------------------------------------------------------------------------------------------ logging in and out

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [username, password] = [byId("username"), byId("password")];
  for (const input of [username, password]) input.setAttribute("aria-invalid", String(!input.value));
  const missing = [username, password].find((input) => !input.value);
  if (missing) {
    byId("login-error").textContent = "A user and a password are needed.";
    missing.focus();
    return;
  }
  await busy(byId("enter"), () => enter(username.value, password.value));
});

async function enter(username, password) {
  byId("login-error").textContent = "";
  gate = makeGate(byId("login-signed").checked);
  try {
    await gate.login(username, password);
    await gate.connect();
  } catch (error) {
    const { code, reason } = error.close ?? {};
    const about = code ? `${code} ${reason}: ${describeClose(code, reason).meaning}.` : meaningOf(error);
    byId("login-error").textContent = error.retryAfterS ? `${about} (${span(error.retryAfterS)})` : about;
    byId("banner").hidden = true;
    byId("password").focus();
    return;
  }
  byId("password").value = "";
  await gateRises();
  byId("hero").hidden = true;
  byId("workspace").hidden = false;
  byId("channel").value = suggestedChannel();
  askBeforeSubscribing();
  byId("channel").focus();
}

/** Lets the gate be seen rising, for those who like things to move. */
async function gateRises() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!still) await new Promise((resolve) => setTimeout(resolve, 750));
}

const suggestedChannel = () => `room:${gate.session.tenant || "open"}:lobby`;

byId("reveal").addEventListener("click", () => {
  const shown = byId("password").type === "text";
  byId("password").type = shown ? "password" : "text";
  byId("reveal").textContent = shown ? "Show" : "Hide";
  byId("reveal").setAttribute("aria-pressed", String(!shown));
});

byId("logout").addEventListener("click", leave);

async function leave() {
  await gate.logout();
  byId("workspace").hidden = true;
  byId("banner").hidden = true;
  byId("hero").hidden = false;
  byId("notices").replaceChildren();
  wire.clear();
  showStateName("idle");
  byId("username").focus();
}

function makeGate(signed) {
  const made = new Portcullis({ signed, url: new URL(".", location.href) });
  made.on("state", showState);
  made.on("welcome", welcomed);
  made.on("close", closed);
  made.on("frame", (frame) => wire.frame(frame));
  made.on("message", (frame) => rooms.message(frame));
  made.on("presence", (frame) => rooms.presence(frame));
  made.on("resubscribed", (event) => rooms.resubscribed(event));
  made.on("unsubscribed", (event) => rooms.ended(event));
  made.on("direct", (frame) => notify(null, `A word from ${frame.sender}`, JSON.stringify(frame.data)));
  made.on("broadcast", (frame) => notify(null, `To everybody, from ${frame.sender}`, JSON.stringify(frame.data)));
  made.on("notification", (frame) => notify(null, frame.title, JSON.stringify(frame.data)));
  made.on("renewed", () => refreshPermissions());
  made.on("draining", ({ reconnect_after_s: wait }) => wire.note("draining", `come back in ${wait} s`, "warn"));
  made.on("error", (error) => notify(error, "be understood"));
  rooms.use(made);
  return made;
}

// ------------------------------------------------------------------------------------------------ the connection

function showState({ state, delay_s: delay }) {
  showStateName(state);
  document.documentElement.dataset.gate = state === "open" ? "open" : "closed";
  byId("toggle").textContent = state === "closed" ? "Connect" : "Disconnect";
  byId("signed").checked = gate.signed;
  comesBackAt = state === "waiting" ? performance.now() + delay * 1000 : null;
  if (state === "connecting") wire.note("connecting", gate.signed ? "signed" : "unsigned");
  if (state === "open") byId("banner").hidden = true;
  if (state !== "open") rooms.refresh(false);
  byId("drop").disabled = state !== "open";
  byId("renew").disabled = state !== "open";
  tick();
}

function showStateName(state) {
  byId("state").dataset.state = state;
  byId("state-name").textContent = stateName(state);
  if (state === "open" && gate.signed) byId("state-name").append(el("span", { class: "wide" }, ", signed"));
}

function welcomed(welcome) {
  clockSkew_s = welcome.server_time - Date.now() / 1000;
  byId("initial").textContent = welcome.subject.slice(0, 1).toUpperCase();
  byId("subject").textContent = welcome.subject;
  byId("tenant").textContent = welcome.tenant ? `of ${welcome.tenant}` : "of no tenant";
  byId("roles").replaceChildren(...welcome.roles.map((role) => el("li", {}, role)));
  byId("session-id").textContent = welcome.session;
  byId("protocol").replaceChildren(...breakable(gate.signed ? "gateway.v1.json.signed" : "gateway.v1.json"));
  byId("heartbeat").textContent = `every ${welcome.heartbeat_s} s`;
  const { frame_bytes: bytes, commands_per_s: rate, channels } = welcome.limits;
  byId("limits").textContent = `${rate} commands/s, ${channels} channels, frames to ${Math.round(bytes / 1024)} KiB`;
  wire.note("welcome", gate.signed ? "the server's signature holds" : "unsigned", "good");
  refreshPermissions();
}

function closed({ code, reason, local, next, meaning, delay_s: delay }) {
  const title = [code, reason].filter(Boolean).join(" ");
  const after = next === "stop" ? "It does not come back by itself." : `Comes back in ${delay.toFixed(1)} s.`;
  const why = code === 1006 && local ? "this page let go of the line" : code ? describeClose(code, reason).meaning : meaning;
  const asked = meaning === "closed from here";
  wire.note(title || "closed", asked ? meaning : `${why}. ${after}`, asked ? "" : next === "stop" ? "bad" : "warn");
  byId("banner").dataset.tone = asked ? "" : next === "stop" ? "bad" : "warn";
  byId("banner-title").textContent = asked ? "Disconnected." : code ? `Closed with ${title}.` : "No connection.";
  byId("banner-text").dataset.meaning = asked ? "" : `${capital(why)}.`;
  byId("banner-stop").hidden = next === "stop";
  loginAgain = next === "stop" && LOGIN_AGAIN.has(reason);
  byId("banner-retry").textContent = loginAgain ? "Log in again" : next === "stop" ? "Connect again" : "Reconnect now";
  byId("banner").hidden = next === "stop" && byId("workspace").hidden;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

byId("toggle").addEventListener("click", () => (gate.state === "closed" ? connect() : gate.close()));
byId("banner-retry").addEventListener("click", () => {
  if (loginAgain) leave();
  else if (gate.state === "closed") connect();
  else gate.retryNow();
});
byId("banner-stop").addEventListener("click", () => gate.close());
byId("drop").addEventListener("click", () => gate.drop());
byId("renew").addEventListener("click", () => busy(byId("renew"), () => gate.renew(), "renew the token"));
byId("signed").addEventListener("change", async () => {
  const signed = byId("signed").checked;
  await gate.close();
  gate.signed = signed;
  await connect();
});
globalThis.addEventListener("online", () => gate?.retryNow());

async function connect() {
  try {
    await gate.connect();
  } catch (error) {
    if (error.code !== "closed") notify(error, "connect");
  }
}

/** Shows what goes by itself: how long the token lasts, how long until the next attempt. */
function tick() {
  if (!gate?.session) return;
  byId("expires").textContent = `in ${span(gate.session.expires_at - clockSkew_s - Date.now() / 1000)}`;
  const left = comesBackAt === null ? null : (comesBackAt - performance.now()) / 1000;
  const wait = left === null ? "" : ` Next attempt ${left < 1 ? "in a moment" : `in ${span(left)}`}.`;
  byId("banner-text").textContent = (byId("banner-text").dataset.meaning ?? "") + wait;
}
setInterval(tick, 1000);

// ------------------------------------------------------------------------------------------------ what one may do

async function refreshPermissions() {
  try {
    const { actions } = await gate.permissions();
    permissions = new Map(actions.map(({ action, conditional }) => [action, conditional]));
    await rooms.refresh(true);
    await askBeforeSubscribing();
  } catch (error) {
    if (error.code !== "disconnected") notify(error, "ask what is permitted");
  }
  showPermissions();
}

function showPermissions() {
  const room = rooms.active;
  const all = new Map([...permissions, ...rooms.permissionsOfActive]);
  const named = [...all].filter(([action]) => !FREE.has(action)).sort();
  const chips = named.map(([action, conditional]) =>
    el("li", { class: conditional ? "mono conditional" : "mono", title: conditional ? "depends on a condition" : "" }, action),
  );
  byId("permissions").replaceChildren(...chips);
  byId("permissions-scope").textContent = room ? `With those on ${room}.` : "Those on channels show once one is chosen.";
  const known = new Set([...Object.keys(ACTIONS), ...all.keys()]);
  byId("actions").replaceChildren(...[...known].sort().map((action) => el("option", { value: action })));
}

// ------------------------------------------------------------------------------------------------ subscribing

let asking = 0;

/** Tells beforehand whether a subscription will be allowed; the server decides all the same. */
async function askBeforeSubscribing() {
  const mine = ++asking;
  const channel = byId("channel").value.trim();
  byId("subscribe-why").textContent = "";
  if (!channel || gate?.state !== "open") return;
  await new Promise((resolve) => setTimeout(resolve, 250));
  if (mine !== asking) return;
  const answer = await gate.permissions(channel).catch((error) => error);
  if (mine !== asking) return;
  byId("subscribe-why").textContent = subscribeWhy(channel, answer);
}

function subscribeWhy(channel, answer) {
  if (answer instanceof Error) return answer.code === "invalid_data" ? "This is no channel's name: words joined by colons." : "";
  const may = answer.actions.find(({ action }) => action === "channel.subscribe");
  if (!may) return `The policy does not let you subscribe to ${channel}. Try, and see the refusal.`;
  return may.conditional ? "A condition of the policy decides." : "";
}

byId("channel").addEventListener("input", askBeforeSubscribing);
byId("subscribe").addEventListener("submit", async (event) => {
  event.preventDefault();
  const channel = byId("channel").value.trim();
  if (channel) await busy(byId("subscribe-button"), () => rooms.subscribe(channel));
});

// ------------------------------------------------------------------------------------------------ any command

byId("command-action").addEventListener("change", () => {
  const action = byId("command-action").value;
  byId("command-data").value = ACTIONS[action] ?? byId("command-data").value;
  if (action.startsWith("channel.") && !byId("command-channel").value) {
    byId("command-channel").value = rooms.active ?? suggestedChannel();
  } else if (action in ACTIONS && !action.startsWith("channel.")) {
    byId("command-channel").value = "";
  }
});

byId("command").addEventListener("submit", async (event) => {
  event.preventDefault();
  const action = byId("command-action").value.trim();
  const channel = byId("command-channel").value.trim() || undefined;
  const text = byId("command-data").value.trim();
  let data;
  try {
    data = text ? JSON.parse(text) : undefined;
    byId("command-why").textContent = "";
  } catch (error) {
    byId("command-why").textContent = `The data is no JSON: ${error.message}`;
    return;
  }
  try {
    await gate.request(action, { channel, data });
  } catch (error) {
    notify(error, action);
  }
});

// ------------------------------------------------------------------------------------------------ notices, views, theme

/** Shows a refusal (an error), or with `error` null something to know. */
function notify(error, what, text) {
  const title = error ? `${error.code}` : what;
  const body = error ? meaningOf(error) : text;
  const wait = error?.retryAfterS ? ` Again in ${span(error.retryAfterS)}.` : "";
  const dismiss = el("button", { type: "button", class: "quiet small", "aria-label": `Dismiss: ${title}` }, "×");
  const notice = el(
    "div",
    { class: "notice", "data-tone": error ? "bad" : "" },
    el("p", {}, el("strong", { class: error ? "mono" : undefined }, title), error ? el("span", { class: "soft" }, ` (${what})`) : ""),
    el("p", { class: "grow" }, body + wait),
    dismiss,
  );
  dismiss.addEventListener("click", () => notice.remove());
  byId("notices").append(notice);
  while (byId("notices").childElementCount > MAX_NOTICES) byId("notices").firstElementChild.remove();
}

async function busy(button, work, what) {
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    notify(error, what ?? button.textContent);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => {
    byId("workspace").dataset.view = button.dataset.view;
    for (const each of document.querySelectorAll("button[data-view]")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
  });
}

const THEMES = { "": "as the system has it", light: "light", dark: "dark" };

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const root = document.documentElement;
  const next = names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length];
  root.dataset.theme = next;
  byId("theme").setAttribute("aria-label", `Theme: ${THEMES[next]}`);
});
