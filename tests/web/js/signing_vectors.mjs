// Recomputes every value of docs/vectors/signing.json with WebCrypto alone: what a browser has, nothing of ours.
// Usage: node signing_vectors.mjs <signing.json>; prints how many checks passed, exits 1 at the first difference.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const { subtle } = globalThis.crypto;
const vectors = JSON.parse(await readFile(process.argv[2], "utf8"));
const utf8 = new TextEncoder();
let checks = 0;

const unhex = (digits) => Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
const hex = (octets) => Array.from(new Uint8Array(octets), (octet) => octet.toString(16).padStart(2, "0")).join("");
const unbase64url = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const base64url = (octets) =>
  btoa(String.fromCharCode(...octets)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

function check(actual, expected, what) {
  assert.deepEqual(actual, expected, what);
  checks += 1;
}

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function hkdf(key, salt, info) {
  const material = await subtle.importKey("raw", key, "HKDF", false, ["deriveBits"]);
  return new Uint8Array(
    await subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info: utf8.encode(info) }, material, 256),
  );
}

const hmacKey = (octets) =>
  subtle.importKey("raw", octets, { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);

function macInput(n, body, binary) {
  if (!binary) return join(utf8.encode(`${n}.`), body);
  const counter = new Uint8Array(8);
  new DataView(counter.buffer).setBigUint64(0, BigInt(n));
  return join(counter, body);
}

/** What a receiver says of a payload: "valid", or why not. */
async function verdict(payload, n, key, binary) {
  let signature;
  let body;
  if (binary) {
    if (payload[0] !== 0x01) return "missing";
    if (payload.length < 33) return "malformed";
    [signature, body] = [payload.subarray(1, 33), payload.subarray(33)];
  } else {
    const head = String.fromCharCode(...payload.subarray(0, 68));
    if (!head.startsWith("s1.")) return "missing";
    const parts = /^s1\.([0-9a-f]{64})\.$/.exec(head);
    if (!parts) return "malformed";
    [signature, body] = [unhex(parts[1]), payload.subarray(68)];
  }
  return (await subtle.verify("HMAC", key, signature, macInput(n, body, binary))) ? "valid" : "mismatch";
}

for (const { hex: digits, text } of vectors.base64url) {
  check(base64url(unhex(digits)), text, "base64url encoding");
  check(hex(unbase64url(text)), digits, "base64url decoding");
}
for (const ticket of vectors.tickets) {
  check(ticket.token_signing_key, base64url(unhex(ticket.token_signing_key_hex)), "token key");
  const key = await hkdf(unbase64url(ticket.token_signing_key), utf8.encode(ticket.ticket), ticket.info);
  check(hex(key), ticket.signing_key_hex, `ticket ${ticket.ticket}`);
  check(base64url(key), ticket.signing_key, `ticket ${ticket.ticket}`);
}
const keys = new Map();
for (const connection of vectors.connections) {
  const binary = connection.subprotocol.includes("msgpack");
  const salt = join(unbase64url(connection.client_nonce), unbase64url(connection.server_nonce));
  check(hex(salt), connection.salt_hex, `${connection.name}: salt`);
  const signingKey = unbase64url(connection.signing_key);
  for (const side of ["client", "server"]) {
    const key = await hkdf(signingKey, salt, connection[`${side}_info`]);
    check(hex(key), connection[`${side}_key_hex`], `${connection.name}: ${side} key`);
    keys.set(`${connection.name}/${side}`, { key: await hmacKey(key), binary });
  }
  for (const frame of connection.frames) {
    const { key } = keys.get(`${connection.name}/${frame.direction}`);
    const what = `${connection.name}: ${frame.name}`;
    const body = unhex(frame.body_hex);
    if (!binary) check(hex(utf8.encode(frame.body)), frame.body_hex, what);
    const signed = macInput(frame.n, body, binary);
    check(hex(signed), frame.mac_input_hex, what);
    const mac = new Uint8Array(await subtle.sign("HMAC", key, signed));
    check(hex(mac), frame.mac_hex, what);
    const payload = binary ? join(Uint8Array.of(1), mac, body) : join(utf8.encode(`s1.${hex(mac)}.`), body);
    check(hex(payload), frame.payload_hex, what);
    check(await verdict(payload, frame.n, key, binary), "valid", what);
  }
}
for (const refused of vectors.refused) {
  const { key, binary } = keys.get(`${refused.connection}/${refused.direction}`);
  const found = await verdict(unhex(refused.payload_hex), refused.expected_n, key, binary);
  check(found, refused.failure, `${refused.connection}: ${refused.name}`);
  check(found === "missing" ? "signature_required" : "signature_invalid", refused.close, refused.name);
}
console.log(`${checks} checks passed`);
