// The list of everything that went over the wire, newest first.
import { byId, colouredJson, el } from "./dom.js";

const MAX_ENTRIES = 500;

export class Wire {
  #list = byId("wire");
  #counts = { in: 0, out: 0 };
  #asked = new Map(); // id → {action, at}

  constructor() {
    byId("wire-filter").addEventListener("input", () => this.#filter());
    byId("wire-kind").addEventListener("change", () => this.#filter());
    byId("wire-clear").addEventListener("click", () => this.clear());
  }

  clear() {
    this.#list.replaceChildren();
    this.#filter();
  }

  /** Shows one data frame; of a batch, each of its parts. */
  frame({ direction, content, size, signed }) {
    this.#counts[direction] += 1;
    byId(`count-${direction}`).textContent = this.#counts[direction];
    const parts = Array.isArray(content) ? content : [content];
    for (const part of parts) {
      const { kind, title, about } = direction === "out" ? this.#command(part) : this.#answer(part);
      const marks = [signed && "signed", parts.length > 1 && `batch of ${parts.length}`, `${size} B`].filter(Boolean);
      this.#add({ direction, kind, title, about, marks, body: part });
    }
  }

  /** Shows what happened to the connection itself. */
  note(title, about, tone = "") {
    this.#add({ direction: "note", kind: "connection", title, about, marks: [], tone });
  }

  #command({ id, action, channel }) {
    this.#asked.set(id, { action, at: performance.now() });
    return { kind: "command", title: action, about: channel ?? "" };
  }

  #answer(frame) {
    if (frame.type !== "reply" && frame.type !== "error") {
      return { kind: "push", title: frame.type, about: frame.channel ?? frame.sender ?? "" };
    }
    const asked = this.#asked.get(frame.id);
    this.#asked.delete(frame.id);
    const about = asked ? `${asked.action}, ${(performance.now() - asked.at).toFixed(1)} ms` : "";
    return { kind: frame.type, title: frame.type === "error" ? frame.error.code : "reply", about };
  }

  #add({ direction, kind, title, about, marks, body, tone }) {
    const arrow = { in: "↓", out: "↑", note: "•" }[direction];
    const spoken = { in: "received", out: "sent", note: "connection" }[direction];
    const now = new Date();
    const time = `${now.toLocaleTimeString(undefined, { hour12: false })}.${String(now.getMilliseconds()).padStart(3, "0")}`;
    const line = [
      el("span", { class: "arrow", "aria-hidden": "true" }, arrow),
      el("span", { class: "unseen" }, `${spoken}: `),
      el("strong", {}, title),
      el("span", { class: "about" }, about),
      el("time", {}, time),
    ];
    const entry = el("li", { "data-kind": kind, "data-direction": direction, "data-tone": tone });
    if (body === undefined) {
      entry.append(el("div", { class: "line" }, ...line));
    } else {
      const details = el("details", {}, el("summary", { class: "line" }, ...line));
      details.addEventListener("toggle", () => this.#open(details, body, marks), { once: true });
      entry.append(details);
    }
    entry.haystack = `${title} ${about} ${JSON.stringify(body) ?? ""}`.toLowerCase();
    entry.hidden = !this.#fits(entry);
    this.#list.prepend(entry);
    if (this.#list.childElementCount > MAX_ENTRIES) this.#list.lastElementChild.remove();
    this.#tellEmpty();
  }

  /** Colours are put on when an entry is opened: most never are. */
  #open(details, body, marks) {
    const copy = el("button", { type: "button", class: "quiet small" }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(JSON.stringify(body));
      copy.textContent = "Copied";
    });
    details.append(colouredJson(body), el("p", { class: "marks" }, ...marks.map((mark) => el("span", {}, mark)), copy));
  }

  #fits(entry) {
    const kind = byId("wire-kind").value;
    const text = byId("wire-filter").value.trim().toLowerCase();
    return (!kind || entry.dataset.kind === kind) && (!text || entry.haystack.includes(text));
  }

  #filter() {
    for (const entry of this.#list.children) entry.hidden = !this.#fits(entry);
    this.#tellEmpty();
  }

  #tellEmpty() {
    byId("wire-empty").hidden = [...this.#list.children].some((entry) => !entry.hidden);
  }
}
