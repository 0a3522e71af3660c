// The subscribed channels: a tab for each, with its messages, who is present, and a line to publish.
import { byId, el, permit, permitted } from "./dom.js";
import { clock } from "./words.js";

const MAX_MESSAGES = 500;
const HISTORY = 50;

/** Payloads as people read them: the text where there is nothing else, JSON otherwise. */
function readable(data) {
  if (typeof data === "string") return { text: data };
  const only = data && typeof data === "object" && Object.keys(data).length === 1;
  if (only && typeof data.text === "string") return { text: data.text };
  return { json: JSON.stringify(data) };
}

class Room {
  unread = 0;
  permissions = new Map();
  #members = new Map();
  #own;
  #atEnd = true;

  constructor(channel, own, { onPublish, onLeave, onSelect }) {
    this.channel = channel;
    this.#own = own;
    const id = `room-${crypto.randomUUID()}`;
    this.count = el("span", { class: "unread", hidden: true });
    this.tab = el(
      "button",
      { type: "button", role: "tab", id: `${id}-tab`, "aria-controls": id, "aria-selected": "false", tabindex: "-1", on: { click: onSelect } },
      el("span", { class: "mono" }, channel),
      this.count,
    );
    this.people = el("ul", { class: "chips people", "aria-label": "Present" });
    this.position = el("p", { class: "soft position" });
    this.log = el("ol", { class: "messages", role: "log", "aria-label": `Messages in ${channel}`, tabindex: "0" });
    this.log.addEventListener("scroll", () => {
      this.#atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    });
    new ResizeObserver(() => this.keepAtEnd()).observe(this.log);
    this.why = el("p", { class: "why", id: `${id}-why` });
    this.input = el("input", { id: `${id}-text`, autocomplete: "off", placeholder: "Say something, or JSON" });
    this.button = el("button", { type: "submit", class: "primary", "aria-describedby": `${id}-why` }, "Publish");
    const form = el(
      "form",
      { class: "inline composer", novalidate: true },
      el("div", { class: "field grow" }, el("label", { for: `${id}-text`, class: "unseen" }, `Message to ${channel}`), this.input),
      this.button,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (permitted(this.button) && this.input.value.trim()) onPublish(this, this.input.value);
    });
    const leave = el("button", { type: "button", class: "quiet", on: { click: onLeave } }, "Unsubscribe");
    this.panel = el(
      "section",
      { class: "room", role: "tabpanel", id, "aria-labelledby": `${id}-tab`, hidden: true },
      el("div", { class: "head" }, el("div", { class: "grow" }, this.people, this.position), leave),
      this.log,
      form,
      this.why,
    );
  }

  message({ sender, data, offset, at, recovered }, { older = false } = {}) {
    const { text, json } = readable(data);
    const own = sender === this.#own;
    const entry = el(
      "li",
      { class: `message${own ? " own" : ""}` },
      el(
        "p",
        { class: "meta" },
        el("strong", {}, sender ?? "unknown"),
        el("time", {}, at ? clock(at) : ""),
        offset ? el("span", { class: "soft" }, `#${offset}`) : undefined,
        recovered ? el("span", { class: "tag" }, "recovered") : undefined,
      ),
      json === undefined ? el("p", { class: "text" }, text) : el("p", { class: "text mono" }, json),
    );
    this.#append(entry, older);
  }

  /** A line between messages: what happened to the subscription. */
  note(text, tone = "") {
    this.#append(el("li", { class: "note", "data-tone": tone }, text));
  }

  #append(entry, older = false) {
    const { log } = this;
    if (older) log.prepend(entry);
    else log.append(entry);
    if (log.childElementCount > MAX_MESSAGES) log.firstElementChild.remove();
    this.keepAtEnd();
  }

  /** Who reads the newest message goes on reading the newest, also when a banner takes room; who has scrolled up stays. */
  keepAtEnd() {
    if (this.#atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  at(epoch, offset) {
    this.position.textContent = epoch === undefined ? "keeps no history" : `offset ${offset}, epoch ${epoch}`;
    this.epoch = epoch;
  }

  setMembers(members) {
    this.#members = new Map(members.map(({ subject, connections }) => [subject, connections]));
    this.#showMembers();
  }

  presence({ event, subject }) {
    if (event === "join") this.#members.set(subject, this.#members.get(subject) ?? 1);
    else this.#members.delete(subject);
    this.note(`${subject} ${event === "join" ? "came in" : "left"}`);
    this.#showMembers();
  }

  #showMembers() {
    const chips = [...this.#members].map(([subject, connections]) =>
      el("li", { class: subject === this.#own ? "own" : undefined }, subject, connections > 1 ? ` ×${connections}` : ""),
    );
    this.people.replaceChildren(...chips);
  }

  allow(connected) {
    const may = this.permissions.get("channel.publish");
    const why = !connected
      ? "There is no connection now."
      : may === undefined
        ? `The policy does not let you publish to ${this.channel}.`
        : undefined;
    permit(this.button, why);
    this.why.textContent = why ?? (may ? "A condition of the policy looks at each message." : "");
  }
}

export class Rooms {
  #rooms = new Map();
  #gate;
  #notify;
  #active = null;

  /** @param notify (error, what) shows a refusal */
  constructor(notify, onActive) {
    this.#notify = notify;
    this.onActive = onActive;
    byId("tabs").addEventListener("keydown", (event) => this.#moveByKey(event));
  }

  use(gate) {
    this.#gate = gate;
    this.#rooms.clear();
    this.#active = null;
    byId("tabs").replaceChildren();
    byId("rooms").replaceChildren();
    this.#tellEmpty();
  }

  get active() {
    return this.#active?.channel;
  }

  get permissionsOfActive() {
    return this.#active?.permissions ?? new Map();
  }

  async subscribe(channel) {
    const known = this.#rooms.get(channel);
    if (known) {
      this.#select(known);
      return;
    }
    // The room stands before the answer: a push may be the very next frame.
    const room = this.#open(channel);
    try {
      const { epoch, offset } = await this.#gate.subscribe(channel);
      room.at(epoch, offset);
      await this.#furnish(room, { before: offset === undefined ? undefined : offset + 1 });
      room.input.focus();
    } catch (error) {
      this.#remove(room);
      this.#notify(error, `subscribe to ${channel}`);
    }
  }

  message(frame) {
    const room = this.#rooms.get(frame.channel);
    if (!room) return;
    room.message(frame);
    if (frame.offset !== undefined) room.at(frame.epoch, frame.offset);
    if (room !== this.#active) {
      room.unread += 1;
      room.count.hidden = false;
      room.count.textContent = room.unread;
    }
  }

  presence(frame) {
    this.#rooms.get(frame.channel)?.presence(frame);
  }

  resubscribed({ channel, recovered, messages, epoch, offset }) {
    const room = this.#rooms.get(channel);
    if (!room) return;
    if (epoch !== room.epoch) room.at(epoch, offset); // within an epoch the messages have told it
    if (recovered) room.note(messages ? `back again, ${messages} missed and recovered` : "back again, nothing missed", "good");
    else room.note("back again; messages may be missing", "warn");
    this.#showPresence(room).catch((error) => this.#notify(error, `see who is in ${channel}`));
  }

  ended({ channel, reason }) {
    const room = this.#rooms.get(channel);
    if (!room) return;
    this.#remove(room);
    this.#notify({ code: reason, message: `The subscription to ${channel} has ended.` }, `stay in ${channel}`);
  }

  /** Asks anew what may be done, after anything that may have changed it. */
  async refresh(connected) {
    for (const room of this.#rooms.values()) {
      if (connected) await this.#askPermissions(room);
      room.allow(connected);
    }
  }

  #open(channel) {
    const room = new Room(channel, this.#gate.session?.subject, {
      onPublish: (from, text) => this.#publish(from, text),
      onLeave: () => this.#leave(room),
      onSelect: () => this.#select(room),
    });
    this.#rooms.set(channel, room);
    byId("tabs").append(room.tab);
    byId("rooms").append(room.panel);
    room.allow(false);
    this.#select(room);
    return room;
  }

  /** Fills a room with what its subscriber may see. */
  async #furnish(room, { before }) {
    try {
      await this.#askPermissions(room);
      room.allow(true);
      this.onActive();
      if (before !== undefined && room.permissions.has("channel.history")) {
        // Only what was there before the subscription: what came after it is pushed.
        const { messages } = await this.#gate.history(room.channel, { limit: HISTORY, before });
        for (const message of messages.reverse()) room.message(message, { older: true });
      }
      await this.#showPresence(room);
    } catch (error) {
      this.#notify(error, `look into ${room.channel}`);
    }
  }

  async #showPresence(room) {
    if (!room.permissions.has("channel.presence")) return;
    const { members } = await this.#gate.presence(room.channel);
    room.setMembers(members);
  }

  async #askPermissions(room) {
    const { actions } = await this.#gate.permissions(room.channel);
    room.permissions = new Map(actions.map(({ action, conditional }) => [action, conditional]));
  }

  async #publish(room, text) {
    let data = { text };
    if (/^\s*[[{]/.test(text)) {
      try {
        data = JSON.parse(text);
      } catch {
        room.why.textContent = "This begins like JSON and is none; it was not sent.";
        return;
      }
    }
    try {
      await this.#gate.publish(room.channel, data);
      room.input.value = "";
    } catch (error) {
      this.#notify(error, `publish to ${room.channel}`);
      await this.refresh(this.#gate.state === "open").catch(() => {});
    }
  }

  async #leave(room) {
    this.#remove(room);
    try {
      await this.#gate.unsubscribe(room.channel);
    } catch (error) {
      this.#notify(error, `unsubscribe from ${room.channel}`);
    }
  }

  #remove(room) {
    this.#rooms.delete(room.channel);
    room.tab.remove();
    room.panel.remove();
    if (this.#active === room) {
      this.#active = null;
      const next = [...this.#rooms.values()].at(-1);
      if (next) this.#select(next);
    }
    this.#tellEmpty();
    this.onActive();
  }

  #select(room) {
    this.#active = room;
    room.unread = 0;
    room.count.hidden = true;
    for (const each of this.#rooms.values()) {
      const selected = each === room;
      each.tab.setAttribute("aria-selected", String(selected));
      each.tab.tabIndex = selected ? 0 : -1;
      each.panel.hidden = !selected;
    }
    room.keepAtEnd();
    this.#tellEmpty();
    this.onActive();
  }

  #moveByKey(event) {
    const rooms = [...this.#rooms.values()];
    const at = rooms.indexOf(this.#active);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: rooms.length - 1 }[event.key];
    if (to === undefined || rooms.length === 0) return;
    event.preventDefault();
    const room = rooms[(to + rooms.length) % rooms.length];
    this.#select(room);
    room.tab.focus();
  }

  #tellEmpty() {
    byId("no-rooms").hidden = this.#rooms.size > 0;
    byId("tabs").hidden = this.#rooms.size === 0;
  }
}
