// Puts a `Portcullis` client on standard input and output, one JSON object a line, so that a Python test can hold both ends.
// In:  {"id": 1, "method": "subscribe", "args": ["room:acme:1"]}      (the first line has the options of the constructor)
// Out: {"id": 1, "value": …} or {"id": 1, "error": {"code": …}}, and {"event": "message", "data": …} for every event.
import { createInterface } from "node:readline";

import { Portcullis } from "../../../gateway/web/page/portcullis.js";

const EVENTS = [
  "state", "welcome", "message", "presence", "direct", "broadcast", "notification", "resubscribed",
  "unsubscribed", "expiring", "renewed", "draining", "close", "error", "frame",
];
const plain = (error) => ({
  code: error.code, message: error.message, status: error.status, retry_after_s: error.retryAfterS,
});
const write = (line) => process.stdout.write(`${JSON.stringify(line, (_, value) => (value instanceof Error ? plain(value) : value))}\n`);

const lines = createInterface({ input: process.stdin });
let gate = null;

for await (const line of lines) {
  const { id, method, args = [] } = JSON.parse(line);
  if (method === "options") {
    const [{ tokens, random, ...options }] = args;
    // Tokens that come from elsewhere: each call takes the next of the list, the last for ever.
    if (tokens) options.getToken = async () => (tokens.length > 1 ? tokens.shift() : tokens[0]);
    gate = new Portcullis({ ...options, ...(random === undefined ? {} : { random: () => random }) });
    for (const type of EVENTS) gate.on(type, (data) => write({ event: type, data }));
    write({ id, value: null });
  } else if (method === "get") {
    write({ id, value: gate[args[0]] ?? null });
  } else {
    const result = method === "batch"
      ? Promise.all(gate.batch(...args).map((answer) => answer.catch((error) => ({ error: plain(error) }))))
      : Promise.resolve(gate[method](...args));
    result.then((value) => write({ id, value: value ?? null }), (error) => write({ id, error: plain(error) }));
  }
}
process.exit(0);
