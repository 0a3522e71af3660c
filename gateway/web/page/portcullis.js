// A client for Portcullis in one file, without dependencies, for browsers and for Node 22 or later. Copy it and keep it.
//
//   import { Portcullis } from "./portcullis.js";
//
//   const gate = new Portcullis({ url: "https://gate.example" });
//   await gate.login("alice", password);
//   await gate.connect();
//   gate.on("message", ({ channel, sender, data }) => console.log(channel, sender, data));
//   await gate.subscribe("room:acme:1");
//   await gate.publish("room:acme:1", { text: "hi" });
//
// It logs in, takes a single-use ticket, connects (signed unless told otherwise), answers commands as promises, renews its
// token, and after a broken connection comes back, subscribes again and recovers what it missed. Tokens stay in memory.
// Licensed under the Apache License, Version 2.0.

const CLIENT_INFO = "gateway.v1 client";
const SERVER_INFO = "gateway.v1 server";
const TICKET_INFO = "gateway.v1 ticket";
const SERVER_NONCE_BYTES = 32;
const UNHURRIED_S = 30; // a token with more than this left is renewed at once when the server says `expiring`

/** Anything that goes wrong, told apart by `code`: an error frame's, an OAuth error's, or one of this file's own. */
export class PortcullisError extends Error {
  /**
   * @param {string} code `permission_denied`, `invalid_grant`, `not_connected`, `disconnected`, `no_answer`, …
   * @param {string} message what happened, for people
   * @param {{status?: number, retryAfterS?: number, close?: object}} [more]
   */
  constructor(code, message, more = {}) {
    super(message);
    this.name = "PortcullisError";
    this.code = code;
    Object.assign(this, more);
  }
}

// ------------------------------------------------------------------------------------------------ what a close means

/**
 * What to do after a close: `told` waits as long as the server said, `backoff` waits ever longer, `renew` comes back at
 * once with a new token or ticket, `stop` means that coming back in the same way would end in the same way.
 */
const CLOSES = {
  1000: ["stop", "closed normally"],
  1001: ["told", "the server is going away and said when to come back"],
  1002: ["stop", "the WebSocket protocol was violated"],
  1003: ["stop", "a binary message on a JSON connection, or the reverse"],
  1006: ["backoff", "the connection broke, or was refused before it stood: nobody said why"],
  1007: ["stop", "a text message that is not UTF-8"],
  1008: ["stop", "refused"],
  1009: ["stop", "a frame larger than the server takes"],
  1011: ["backoff", "the server failed"],
  1013: ["backoff", "the server has no room now"],
  "1008 missing_credentials": ["stop", "no token and no ticket came with the request"],
  "1008 invalid_token": ["stop", "the token is not one of this gateway's"],
  "1008 expired_token": ["renew", "the token has ended; a new one is needed"],
  "1008 revoked_token": ["stop", "the token was revoked; log in again"],
  "1008 session_revoked": ["stop", "an operator ended this session or account"],
  "1008 invalid_ticket": ["renew", "the ticket was used already, has ended, or was taken for another origin"],
  "1008 ambiguous_credentials": ["stop", "two different credentials on one request"],
  "1008 origin_not_allowed": ["stop", "this page's origin is not on the gateway's list"],
  "1008 unsupported_subprotocol": ["stop", "none of the offered subprotocols is spoken here"],
  "1008 no_signing_key": ["stop", "the token has no signing key; connect with a ticket instead"],
  "1008 invalid_nonce": ["stop", "the nonce for signing is missing or malformed"],
  "1008 signature_invalid": ["stop", "a frame whose signature does not hold: something stands between"],
  "1008 signature_required": ["stop", "an unsigned frame on a signed connection"],
  "1008 protocol_abuse": ["stop", "too many malformed frames in ten seconds"],
  "1008 rate_limited": ["backoff", "far more commands than allowed"],
  "1011 ping_timeout": ["backoff", "the server heard nothing from here for too long"],
  "1013 connection_limit": ["backoff", "too many connections: of the server, this user or this address"],
  "1013 slow_consumer": ["backoff", "messages came faster than they were read here"],
};

/** The close code that this client uses where the server breaks the protocol; browsers allow it to send no 1008. */
export const LOCAL_CLOSE = 4000;

/**
 * Says what a close code and reason mean and what a client does next.
 * @returns {{next: "told"|"backoff"|"renew"|"stop", meaning: string}}
 */
export function describeClose(code, reason = "") {
  const unknown = code === LOCAL_CLOSE ? "this client ended it: the server broke the protocol" : "an unusual close code";
  const [next, meaning] = CLOSES[`${code} ${reason}`] ?? CLOSES[code] ?? ["stop", unknown];
  return { next, meaning };
}

// ------------------------------------------------------------------------------------------------ bytes and signatures

const utf8 = new TextEncoder();

function toBase64url(octets) {
  return btoa(String.fromCharCode(...octets)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function fromBase64url(text) {
  if (typeof text !== "string" || !/^[A-Za-z0-9_-]*$/.test(text)) throw new TypeError("not base64url");
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
}

const toHex = (octets) => Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
const fromHex = (digits) => Uint8Array.from(digits.match(/../g), (pair) => Number.parseInt(pair, 16));

/** HKDF-SHA-256 (RFC 5869) to 32 bytes. */
async function hkdf(key, salt, info) {
  const { subtle } = globalThis.crypto;
  const material = await subtle.importKey("raw", key, "HKDF", false, ["deriveBits"]);
  const parameters = { name: "HKDF", hash: "SHA-256", salt, info: utf8.encode(info) };
  return new Uint8Array(await subtle.deriveBits(parameters, material, 256));
}

/** The signing key of a ticket, from the signing key of the token that took it. */
export const ticketSigningKey = (tokenKey, ticket) => hkdf(tokenKey, utf8.encode(ticket), TICKET_INFO);

/**
 * One direction of a signed connection: a key and the count of frames so far.
 *
 * A signed text frame is `s1.<64 hex digits>.<JSON>`, the digits being HMAC-SHA-256 over `<n>.<JSON>`.
 */
export class Seal {
  #key;
  #count = 0;

  constructor(key) {
    this.#key = key;
  }

  static async derive(signingKey, clientNonce, serverNonce, info) {
    const salt = new Uint8Array([...clientNonce, ...serverNonce]);
    const key = await hkdf(signingKey, salt, info);
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    return new Seal(await globalThis.crypto.subtle.importKey("raw", key, algorithm, false, ["sign", "verify"]));
  }

  /** Signs a text; calls must not overlap, for the count goes by their order. */
  async sign(json) {
    const mac = await globalThis.crypto.subtle.sign("HMAC", this.#key, utf8.encode(`${this.#count++}.${json}`));
    return `s1.${toHex(new Uint8Array(mac))}.${json}`;
  }

  /** Takes the signature off, or throws; `verify` of WebCrypto compares in constant time. */
  async verify(text) {
    const { digits, json } = splitSigned(text);
    const signed = utf8.encode(`${this.#count++}.${json}`);
    if (!(await globalThis.crypto.subtle.verify("HMAC", this.#key, fromHex(digits), signed))) {
      throw new PortcullisError("signature_invalid", "a frame of the server does not carry the right signature");
    }
    return json;
  }
}

function splitSigned(text) {
  if (!text.startsWith("s1.")) {
    throw new PortcullisError("signature_required", "the server sent an unsigned frame on a signed connection");
  }
  const parts = /^s1\.([0-9a-f]{64})\.([^]*)$/.exec(text);
  if (!parts) throw new PortcullisError("signature_invalid", "the server sent a malformed signature");
  return { digits: parts[1], json: parts[2] };
}

// ------------------------------------------------------------------------------------------------ one WebSocket

/**
 * One WebSocket from its opening to its close: subprotocol, welcome, signatures. It parses frames and knows nothing of what
 * they mean. WebCrypto is asynchronous, so both directions are queues: a frame waits for the one before it.
 */
class Link {
  #socket;
  #subprotocol;
  #signing; // null on an unsigned connection, else {key, nonce}
  #signer = null;
  #verifier = null;
  #welcomed = false;
  #ended = false;
  #inbox = Promise.resolve();
  #outbox = Promise.resolve();
  #listener;

  /** @param listener {onWelcome, onFrame, onTraffic, onClose}: called in the order in which things happened */
  constructor(WebSocket, url, protocols, signing, listener) {
    this.#subprotocol = protocols[0];
    this.#signing = signing;
    this.#listener = listener;
    this.#socket = new WebSocket(url, protocols);
    this.#socket.onopen = () => this.#checkSubprotocol();
    this.#socket.onmessage = ({ data }) => {
      this.#inbox = this.#inbox.then(() => this.#receive(data)).catch((error) => this.#giveUp(error));
    };
    this.#socket.onclose = ({ code, reason }) => {
      this.#inbox = this.#inbox.then(() => this.#end({ code, reason, local: false }));
    };
  }

  send(frame) {
    this.#outbox = this.#outbox.then(async () => {
      const json = JSON.stringify(frame);
      const text = this.#signer ? await this.#signer.sign(json) : json;
      if (this.#ended) return;
      this.#socket.send(text);
      this.#listener.onTraffic("out", frame, text.length);
    });
  }

  close() {
    // What was asked for before the close still goes out.
    this.#outbox = this.#outbox.then(() => this.#socket.close(1000));
  }

  /** Ends it without waiting for the peer, which may be gone: a close handshake with nobody takes minutes. */
  abandon(code, reason) {
    if (this.#ended) return;
    this.#socket.close(LOCAL_CLOSE, reason);
    this.#end({ code, reason, local: true });
  }

  #checkSubprotocol() {
    if (this.#socket.protocol !== this.#subprotocol) {
      this.#giveUp(new PortcullisError("wrong_subprotocol", `the server speaks \`${this.#socket.protocol}\``));
    }
  }

  async #receive(text) {
    if (this.#ended) return;
    if (typeof text !== "string") throw new PortcullisError("bad_frame", "the server sent a binary message");
    const json = this.#signing ? await this.#verified(text) : text;
    const content = JSON.parse(json);
    if (this.#ended) return;
    this.#listener.onTraffic("in", content, text.length);
    for (const frame of Array.isArray(content) ? content : [content]) this.#deliver(frame);
  }

  async #verified(text) {
    if (!this.#verifier) {
      // The one frame that is read before it is verified: nothing but the nonce is taken from it.
      const nonce = fromBase64url(JSON.parse(splitSigned(text).json)?.signing?.nonce);
      if (nonce.length !== SERVER_NONCE_BYTES) throw new PortcullisError("bad_frame", "the server's nonce is malformed");
      const { key, nonce: own } = this.#signing;
      this.#verifier = await Seal.derive(key, own, nonce, SERVER_INFO);
      this.#signer = await Seal.derive(key, own, nonce, CLIENT_INFO);
    }
    return this.#verifier.verify(text);
  }

  #deliver(frame) {
    if (this.#welcomed) {
      this.#listener.onFrame(frame);
    } else if (frame?.type === "welcome") {
      this.#welcomed = true;
      this.#listener.onWelcome(frame);
    } else {
      throw new PortcullisError("bad_frame", "the server's first frame is no welcome");
    }
  }

  #giveUp(error) {
    const reason = error instanceof PortcullisError ? error.code : "bad_frame";
    this.abandon(LOCAL_CLOSE, reason);
  }

  #end(close) {
    if (this.#ended) return;
    this.#ended = true;
    this.#listener.onClose(close);
  }
}

// ------------------------------------------------------------------------------------------------ tokens and tickets

/** Talks to `/token` and `/ws/ticket` and holds what they answer, in memory only. */
class Credentials {
  #base;
  #fetch;
  #clientId;
  #getToken;
  #timeoutMs;
  #token = null;
  #renewal = null;

  constructor(base, fetch, { clientId, getToken, openTimeoutMs }) {
    this.#base = base;
    this.#fetch = fetch;
    this.#clientId = clientId;
    this.#getToken = getToken;
    this.#timeoutMs = openTimeoutMs;
  }

  get known() {
    return this.#token !== null || this.#getToken !== undefined;
  }

  get renewable() {
    return this.#getToken !== undefined || Boolean(this.#token?.refresh_token);
  }

  get ended() {
    return this.#token === null || this.#token.ends <= performance.now();
  }

  forget() {
    this.#token = null;
  }

  /** Ends the token in our own eyes, after the server has said that it is no longer good. */
  expire() {
    if (this.#token) this.#token.ends = 0;
  }

  async grant(form) {
    const fields = this.#clientId ? { ...form, client_id: this.#clientId } : form;
    this.#keep(await this.#post("token", { body: new URLSearchParams(fields) }));
  }

  /** Gets a new token by refresh token or `getToken`; callers at the same time share one attempt, for each works once. */
  renew() {
    this.#renewal ??= this.#renewOnce().finally(() => {
      this.#renewal = null;
    });
    return this.#renewal;
  }

  async current() {
    if (this.ended) await this.renew();
    const { access_token: token, signing_key: key } = this.#token;
    return { token, key: key ? fromBase64url(key) : null };
  }

  async ticket() {
    const { token, key } = await this.current();
    const origin = globalThis.location?.origin;
    const bound = origin?.startsWith("http") // a stolen ticket is worth nothing on another site
      ? { body: JSON.stringify({ origin }), type: "application/json" }
      : {};
    const { ticket, signing_key: fresh } = await this.#post("ws/ticket", { token, ...bound });
    // A token of another issuer has no signing key: then the ticket brings one.
    const ticketKey = fresh ? fromBase64url(fresh) : key && (await ticketSigningKey(key, ticket));
    return { ticket, key: ticketKey };
  }

  async #renewOnce() {
    const refreshToken = this.#token?.refresh_token;
    if (refreshToken) {
      await this.grant({ grant_type: "refresh_token", refresh_token: refreshToken });
    } else if (this.#getToken) {
      this.#keep(await this.#getToken().catch(passing));
    } else {
      throw new PortcullisError("login_required", "the token has ended and nothing is held to get a new one with");
    }
  }

  #keep(answer) {
    // The monotonic clock: a client's wall clock may be hours off.
    this.#token = { ...answer, ends: performance.now() + (answer.expires_in ?? 60) * 1000 };
  }

  async #post(path, { body, token, type }) {
    const headers = { accept: "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    if (type) headers["content-type"] = type;
    let response;
    let answer;
    try {
      response = await this.#fetch(new URL(path, this.#base), {
        method: "POST",
        body,
        headers,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(this.#timeoutMs),
      });
      answer = await response.json().catch(rejectTimeouts);
    } catch {
      throw new PortcullisError("unreachable", "the gateway cannot be reached");
    }
    if (response.ok) return answer;
    const code = answer.error ?? (response.status === 401 ? "invalid_token" : "http_error");
    const text = answer.error_description ?? answer.detail ?? `the gateway answered ${response.status}`;
    const wait = Number(response.headers.get("retry-after"));
    throw new PortcullisError(code, text, { status: response.status, retryAfterS: wait > 0 ? wait : undefined });
  }
}

// ------------------------------------------------------------------------------------------------ the client

const DEFAULTS = {
  signed: true,
  credential: "ticket", // or "subprotocol": the token itself, for where no ticket can be taken
  clientId: undefined,
  getToken: undefined, // async () => what /token answers; for tokens that come from elsewhere
  reconnect: true,
  backoffFirstMs: 500,
  backoffMaxMs: 30_000,
  stableAfterMs: 5_000, // a connection that lived as long makes the back-off start anew
  openTimeoutMs: 15_000, // for each HTTP request, and for the welcome
  commandTimeoutMs: 30_000,
  livenessGraceMs: 10_000,
};

/** An answer without a body is an empty one; an answer that does not end is none. */
function rejectTimeouts(error) {
  if (error.name === "TimeoutError") throw error;
  return {};
}

/** What `getToken` throws is taken for a passing failure, unless it says otherwise by a code. */
function passing(error) {
  throw error instanceof PortcullisError ? error : new PortcullisError("unreachable", `no token to be had: ${error}`);
}

/** Errors after which the same subscription may well succeed a little later. */
const PASSING = new Set(["rate_limited", "timeout", "unavailable", "internal", "no_answer"]);

/**
 * A client that keeps one connection.
 *
 * Events, by `on(type, listener)`: `state`, `welcome`, `message`, `presence`, `direct`, `broadcast`, `notification`,
 * `resubscribed` (a reconnect: `recovered` says whether nothing is missing), `unsubscribed`, `expiring`, `renewed`,
 * `draining`, `close` (code, reason, meaning, next), `error` (an error frame without id, a renewal that failed) and
 * `frame` (all traffic, for looking at it).
 */
export class Portcullis {
  #options;
  #base;
  #credentials;
  #listeners = new Map();
  #subscriptions = new Map(); // channel → {channel, epoch, offset, confirmed, held}
  #commands = new Map(); // id → {settle, fail, timer}
  #nextId = 1;
  #link = null;
  #wanted = false;
  #running = Promise.resolve();
  #opening = null; // {resolve, reject} of connect() until the first welcome
  #failures = 0;
  #reconnectAfterS = null;
  #wake = null;
  #liveness = null;
  #renewal = null;
  #impatience = null;
  #clockSkew_s = 0; // what the server's clock is ahead of ours
  #lastHeard = 0;
  #openedAt = undefined;

  /** "idle", "connecting", "open", "waiting" (to come back) or "closed". */
  state = "idle";
  /** The last welcome, its `expires_at` kept up to date; null before the first. */
  session = null;

  constructor(options = {}) {
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, random: Math.random, ...options };
    const url = String(options.url ?? globalThis.location?.origin);
    this.#base = new URL(url.endsWith("/") ? url : `${url}/`);
    const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.#credentials = new Credentials(this.#base, fetch, this.#options);
  }

  get signed() {
    return this.#options.signed;
  }

  /** Holds from the next `connect()` on. */
  set signed(signed) {
    this.#options.signed = signed;
  }

  /** The channels that are subscribed, or will be after the next reconnect. */
  get channels() {
    return [...this.#subscriptions.keys()];
  }

  /** Calls `listener` for every event of that type; returns a function that ends it. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  // ---- identity

  /** Logs in by name and password; `roles` narrows what the token may do. */
  async login(username, password, roles = undefined) {
    const scope = roles ? { scope: roles.join(" ") } : {};
    await this.#credentials.grant({ grant_type: "password", username, password, ...scope });
  }

  /** Gets a new token, and where connected, carries on with it. */
  async renew() {
    await this.#credentials.renew();
    if (this.state !== "open") return;
    const { token } = await this.#credentials.current();
    const { expires_at: expiresAt } = await this.request("session.refresh", { data: { token } });
    this.session = { ...this.session, expires_at: expiresAt };
    this.#emit("renewed", { expires_at: expiresAt });
  }

  /** Closes, and forgets tokens and subscriptions. */
  async logout() {
    await this.close();
    this.#credentials.forget();
    this.#subscriptions.clear();
  }

  // ---- connection

  /**
   * Connects, and from then on comes back by the rules of the protocol until `close()`.
   * Resolves with the welcome; rejects where coming back is of no use (or with `reconnect: false` at the first failure).
   */
  connect() {
    if (this.#wanted) return Promise.reject(new PortcullisError("already_connected", "close the connection first"));
    if (this.signed && !globalThis.crypto?.subtle) {
      const message = "signing needs WebCrypto, which browsers offer only to https pages and to localhost";
      return Promise.reject(new PortcullisError("no_webcrypto", message));
    }
    this.#wanted = true;
    this.#failures = 0;
    const opened = new Promise((resolve, reject) => {
      this.#opening = { resolve, reject };
    });
    this.#running = this.#keepConnected();
    return opened;
  }

  /** Closes for good; resolves when the connection has ended. */
  async close() {
    this.#wanted = false;
    this.#wake?.();
    const link = this.#link;
    if (link) {
      link.close();
      const impatience = setTimeout(() => link.abandon(1000, ""), 2_000);
      await this.#running;
      clearTimeout(impatience);
    }
    await this.#running;
  }

  /** Ends a wait between two attempts at once, for instance when the network is back. */
  retryNow() {
    this.#wake?.();
  }

  /** Breaks the connection as a lost network would, to see how everything comes back. */
  drop() {
    this.#link?.abandon(1006, "dropped from here");
  }

  // ---- commands

  /** Sends one command; resolves with the reply's data, rejects with a `PortcullisError` that has the error frame's code. */
  request(action, { channel, data } = {}) {
    return this.batch([{ action, channel, data }])[0];
  }

  /** Sends commands (at most 64) as one frame; returns a promise for each. */
  batch(commands) {
    const prepared = commands.map((command) => this.#prepare(command));
    const frames = prepared.map(({ frame }) => frame).filter(Boolean);
    if (frames.length > 0) this.#link.send(commands.length === 1 ? frames[0] : frames);
    return prepared.map(({ answer }) => answer);
  }

  /**
   * Subscribes to a channel, and again after every reconnect. `recover` ({epoch, offset}) starts from a position that was
   * kept elsewhere. What was missed comes as `message` events, marked `recovered`, before the promise resolves.
   */
  async subscribe(channel, { recover } = {}) {
    const known = this.#subscriptions.get(channel);
    if (known) return this.#subscribe(known);
    const subscription = { channel, epoch: recover?.epoch, offset: recover?.offset, confirmed: false, held: null };
    this.#subscriptions.set(channel, subscription);
    try {
      return await this.#subscribe(subscription);
    } finally {
      if (!subscription.confirmed) this.#subscriptions.delete(channel);
    }
  }

  unsubscribe(channel) {
    this.#subscriptions.delete(channel);
    return this.request("channel.unsubscribe", { channel });
  }

  publish(channel, data) {
    return this.request("channel.publish", { channel, data });
  }

  history(channel, bounds = undefined) {
    return this.request("channel.history", { channel, data: bounds });
  }

  presence(channel) {
    return this.request("channel.presence", { channel });
  }

  permissions(channel = undefined) {
    return this.request("session.permissions", { channel });
  }

  describe() {
    return this.request("session.describe");
  }

  ping() {
    return this.request("ping");
  }

  send(to, data) {
    return this.request("user.send", { data: { to, data } });
  }

  broadcast(data) {
    return this.request("broadcast", { data });
  }

  // ---- inside: staying connected

  async #keepConnected() {
    while (this.#wanted) {
      this.#become("connecting");
      const close = await this.#connectOnce().catch((error) => ({ code: null, reason: String(error.code), error }));
      const plan = this.#plan(close);
      this.#emit("close", { ...close, ...plan });
      if (plan.next === "stop") {
        this.#wanted = false;
        const why = `${close.code ?? close.reason} ${close.code ? close.reason : ""}`.trim();
        const error = close.error ?? new PortcullisError(close.reason || "closed", `closed with ${why}: ${plan.meaning}`);
        this.#opening?.reject(Object.assign(error, { close }));
        break;
      }
      this.#failures += 1;
      this.#become("waiting", { delay_s: plan.delay_s, attempt: this.#failures });
      await this.#sleep(plan.delay_s * 1000);
    }
    this.#opening?.reject(new PortcullisError("closed", "closed before a connection stood"));
    this.#opening = null;
    this.#become("closed");
  }

  /** Makes one connection and lives through it; resolves with its close. */
  async #connectOnce() {
    this.#reconnectAfterS = null;
    const { url, protocols, signing } = await this.#address();
    if (!this.#wanted) return { code: 1000, reason: "", local: true };
    const close = await new Promise((resolve) => {
      this.#link = new Link(this.#options.WebSocket, url, protocols, signing, {
        onWelcome: (welcome) => this.#welcomed(welcome),
        onFrame: (frame) => this.#received(frame),
        onTraffic: (direction, content, size) => this.#traffic(direction, content, size),
        onClose: resolve,
      });
      const link = this.#link;
      this.#impatience = setTimeout(() => link.abandon(1006, "no welcome in time"), this.#options.openTimeoutMs);
    });
    clearTimeout(this.#impatience);
    this.#link = null;
    this.#disconnected();
    return close;
  }

  async #address() {
    const { signed, credential } = this.#options;
    const protocols = [signed ? "gateway.v1.json.signed" : "gateway.v1.json"];
    const url = new URL("ws", this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    let key;
    if (credential === "ticket") {
      const { ticket, key: ticketKey } = await this.#ticket();
      url.searchParams.set("ticket", ticket);
      key = ticketKey;
    } else {
      const { token, key: tokenKey } = await this.#credentials.current();
      protocols.push(`bearer.${token}`);
      key = tokenKey;
    }
    if (!signed) return { url, protocols, signing: null };
    if (!key) throw new PortcullisError("no_signing_key", "this credential has no signing key");
    const nonce = globalThis.crypto.getRandomValues(new Uint8Array(32));
    url.searchParams.set("nonce", toBase64url(nonce));
    return { url, protocols, signing: { key, nonce } };
  }

  async #ticket() {
    try {
      return await this.#credentials.ticket();
    } catch (error) {
      if (error.status !== 401 || !this.#credentials.renewable) throw error;
      this.#credentials.expire(); // our clock thought it good, the server did not
      return this.#credentials.ticket();
    }
  }

  /** Decides what follows a close: whether to come back, and after how long. */
  #plan(close) {
    if (!this.#wanted) return { next: "stop", meaning: "closed from here" };
    const { next, meaning } = close.error ? this.#planOfError(close.error) : describeClose(close.code, close.reason);
    if (next === "stop" || !this.#options.reconnect) return { next: "stop", meaning };
    const { backoffFirstMs, backoffMaxMs, random } = this.#options;
    const ceiling_s = Math.min(backoffMaxMs, backoffFirstMs * 2 ** this.#failures) / 1000;
    const backoff_s = ceiling_s * (0.5 + random() / 2); // jitter, so that a thousand clients do not come at once
    if (next === "told") return { next, meaning, delay_s: this.#reconnectAfterS ?? backoff_s };
    if (next === "renew") {
      if (close.reason === "expired_token") {
        this.#credentials.expire();
        if (!this.#credentials.renewable) return { next: "stop", meaning };
      }
      return { next, meaning, delay_s: this.#failures === 0 ? 0 : backoff_s };
    }
    return { next, meaning, delay_s: Math.max(backoff_s, close.error?.retryAfterS ?? 0) };
  }

  #planOfError(error) {
    const passing = error.code === "unreachable" || error.status === 429 || error.status >= 500;
    return { next: passing ? "backoff" : "stop", meaning: error.message };
  }

  #sleep(delayMs) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      if (!this.#wanted) this.#wake();
    }).finally(() => {
      this.#wake = null;
    });
  }

  #welcomed(welcome) {
    clearTimeout(this.#impatience);
    this.session = welcome;
    this.#clockSkew_s = welcome.server_time - Date.now() / 1000;
    this.#openedAt = performance.now();
    this.#heard();
    this.#become("open");
    this.#emit("welcome", welcome);
    this.#opening?.resolve(welcome);
    this.#opening = null;
    for (const subscription of this.#subscriptions.values()) this.#resubscribe(subscription);
  }

  #disconnected() {
    clearTimeout(this.#liveness);
    clearTimeout(this.#renewal);
    if (this.#openedAt !== undefined && performance.now() - this.#openedAt >= this.#options.stableAfterMs) {
      this.#failures = 0;
    }
    this.#openedAt = undefined;
    const commands = [...this.#commands.values()];
    this.#commands.clear();
    for (const { fail } of commands) {
      fail(new PortcullisError("disconnected", "the connection ended before an answer came; it may or may not be done"));
    }
  }

  /**
   * `expiring` comes a minute before the end, and where tokens live for less than that, at once: then the new token would be
   * announced to be expiring as soon as it is there, so half of what is left is waited for.
   */
  #renewSoon(expiresAt) {
    clearTimeout(this.#renewal);
    const left_s = expiresAt - this.#clockSkew_s - Date.now() / 1000;
    const renew = () => this.renew().catch((error) => this.#emit("error", error));
    this.#renewal = setTimeout(renew, left_s > UNHURRIED_S ? 0 : (Math.max(0, left_s) / 2) * 1000);
  }

  /** A browser sees no WebSocket pings, so silence is broken by a `ping` of our own; without an answer the peer is gone. */
  #heard() {
    this.#lastHeard = performance.now();
    clearTimeout(this.#liveness);
    const quietMs = this.session.heartbeat_s * 1000 + this.#options.livenessGraceMs;
    const link = this.#link;
    this.#liveness = setTimeout(() => {
      const askedAt = performance.now();
      this.request("ping").catch(() => {});
      this.#liveness = setTimeout(() => {
        if (this.#lastHeard < askedAt) link.abandon(1006, "no answer to a ping");
      }, this.#options.livenessGraceMs);
    }, quietMs);
  }

  // ---- inside: frames

  #traffic(direction, content, size) {
    if (direction === "in" && this.session && this.#openedAt !== undefined) this.#heard();
    this.#emit("frame", { direction, content: withoutToken(content), size, signed: this.signed });
  }

  #received(frame) {
    switch (frame?.type) {
      case "reply":
        this.#answered(frame.id)?.settle(frame.data);
        break;
      case "error":
        this.#refused(frame);
        break;
      case "message":
        this.#message(frame);
        break;
      case "unsubscribed":
        this.#unsubscribed(frame);
        break;
      case "expiring":
        this.#emit("expiring", frame);
        if (this.#credentials.renewable) this.#renewSoon(frame.expires_at);
        break;
      case "draining":
        this.#reconnectAfterS = frame.reconnect_after_s;
        this.#emit("draining", frame);
        break;
      case "presence":
      case "direct":
      case "broadcast":
      case "notification":
        this.#emit(frame.type, frame);
        break;
      default: // a newer server may say more than we know
    }
  }

  #refused({ id, error }) {
    const refusal = new PortcullisError(error.code, error.message, { retryAfterS: error.retry_after_s });
    const command = this.#answered(id);
    if (command) command.fail(refusal);
    else this.#emit("error", refusal);
  }

  #answered(id) {
    const command = this.#commands.get(id);
    this.#commands.delete(id);
    clearTimeout(command?.timer);
    return command;
  }

  #prepare({ action, channel, data, onReply }) {
    if (this.state !== "open") {
      return { answer: Promise.reject(new PortcullisError("not_connected", "there is no connection")) };
    }
    const id = this.#nextId++;
    const answer = new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#answered(id)?.fail(new PortcullisError("no_answer", `no answer to \`${action}\``));
      }, this.#options.commandTimeoutMs);
      const settle = (reply) => {
        onReply?.(reply);
        resolve(reply);
      };
      const fail = (error) => {
        clearTimeout(timer);
        reject(error);
      };
      this.#commands.set(id, { settle, fail, timer });
    });
    return { answer, frame: { id, action, channel, data } }; // JSON leaves out what is undefined
  }

  // ---- inside: subscriptions

  async #subscribe(subscription) {
    const { channel, epoch, offset } = subscription;
    const data = epoch === undefined ? undefined : { recover: { epoch, offset } };
    subscription.held ??= [];
    // At the moment of the reply, not a turn of the event loop later: the next frame may be a push about this channel.
    const onReply = (reply) => this.#subscribed(subscription, reply);
    try {
      return await this.batch([{ action: "channel.subscribe", channel, data, onReply }])[0];
    } finally {
      this.#release(subscription);
    }
  }

  #subscribed(subscription, reply) {
    subscription.confirmed = true;
    const { channel } = subscription;
    for (const message of reply.messages ?? []) {
      this.#deliver(subscription, { type: "message", channel, epoch: reply.epoch, ...message, recovered: true });
    }
    const ahead = subscription.epoch === reply.epoch && subscription.offset > reply.offset;
    if (!ahead) Object.assign(subscription, { epoch: reply.epoch, offset: reply.offset });
    this.#release(subscription);
  }

  #release(subscription) {
    const held = subscription.held ?? [];
    subscription.held = null;
    for (const message of held) this.#deliver(subscription, message);
  }

  async #resubscribe(subscription, attempt = 0) {
    const link = this.#link;
    const { channel } = subscription;
    try {
      const { recovered, messages, epoch, offset } = await this.#subscribe(subscription);
      this.#emit("resubscribed", { channel, recovered: Boolean(recovered), messages: messages?.length ?? 0, epoch, offset });
    } catch (error) {
      if (error.code === "disconnected" || error.code === "not_connected") return; // the next welcome tries again
      if (!PASSING.has(error.code)) {
        this.#unsubscribed({ channel, reason: error.code });
        return;
      }
      const wait_s = (error.retryAfterS ?? 2 ** Math.min(attempt, 5)) * (1 + this.#options.random() / 2);
      await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
      const current = this.#subscriptions.get(channel) === subscription && this.#link === link;
      if (current) await this.#resubscribe(subscription, attempt + 1);
    }
  }

  #unsubscribed(frame) {
    const subscription = this.#subscriptions.get(frame.channel);
    if (frame.reason === "position_lost" && subscription) {
      this.#resubscribe(subscription);
      return;
    }
    this.#subscriptions.delete(frame.channel);
    this.#emit("unsubscribed", frame);
  }

  #message(frame) {
    const subscription = this.#subscriptions.get(frame.channel);
    if (subscription?.held) subscription.held.push(frame);
    else this.#deliver(subscription, frame);
  }

  #deliver(subscription, frame) {
    if (subscription && frame.offset !== undefined) {
      if (frame.epoch === subscription.epoch && frame.offset <= subscription.offset) return; // had it already
      Object.assign(subscription, { epoch: frame.epoch, offset: frame.offset });
    }
    this.#emit("message", frame);
  }

  // ---- inside: events

  #become(state, details = {}) {
    this.state = state;
    this.#emit("state", { state, ...details });
  }

  #emit(type, event) {
    for (const listener of this.#listeners.get(type) ?? []) {
      try {
        listener(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error; // a listener's fault is its own: it is reported, and the client goes on
        });
      }
    }
  }
}

/** Traffic as it may be shown: what `session.refresh` carries is a secret. */
function withoutToken(content) {
  if (Array.isArray(content)) return content.map(withoutToken);
  return content?.action === "session.refresh" ? { ...content, data: { token: "…" } } : content;
}
