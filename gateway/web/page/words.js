// What codes mean, in the words of this page.

const ERRORS = {
  bad_frame: "The frame could not be read, or has members that no command has.",
  unknown_action: "No action of this name is registered.",
  invalid_data: "The channel or the data is not of the shape that this action takes.",
  permission_denied: "The policy does not allow this to your roles. The server's log names the rule.",
  signature_required: "The rule that allows this asks for a signed connection. Switch “Signed frames” on.",
  rate_limited: "Faster than allowed. The answer says when to try again.",
  channel_limit: "This connection has as many subscriptions as it may have.",
  upstream_unavailable: "The backend behind this action cannot be reached.",
  upstream_error: "The backend behind this action failed.",
  timeout: "No answer in time.",
  unavailable: "The gateway cannot do this just now. Try again.",
  internal: "The gateway failed; its log says why.",
  not_connected: "There is no connection to send this on.",
  disconnected: "The connection ended before an answer came. It may or may not have been done.",
  no_answer: "No answer came in time. It may or may not have been done.",
  invalid_grant: "Wrong user or password, or the account is disabled.",
  invalid_client: "This client is unknown to the gateway.",
  invalid_scope: "More roles were asked for than the account has.",
  unsupported_grant_type: "Password logins are switched off on this gateway.",
  slow_down: "Too many failed logins. Wait a little and try again.",
  temporarily_unavailable: "The gateway is busy. Try again in a moment.",
  unreachable: "The gateway cannot be reached.",
  login_required: "The token has ended. Log in again.",
  no_webcrypto: "Signing needs WebCrypto, which browsers offer only to https pages and to localhost.",
};

/** Says what an error code means, or gives the message that came with it. */
export function meaningOf(error) {
  return ERRORS[error.code] ?? error.message;
}

const STATES = {
  idle: "Not connected",
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Reconnecting…",
  closed: "Disconnected",
};

export const stateName = (state) => STATES[state] ?? state;

/** The built-in actions, for the command form; the server knows more. */
export const ACTIONS = {
  ping: "",
  "session.describe": "",
  "session.permissions": "",
  "channel.subscribe": "",
  "channel.unsubscribe": "",
  "channel.publish": '{"text": "hi"}',
  "channel.history": '{"limit": 20}',
  "channel.presence": "",
  "user.send": '{"to": "bob", "data": {"text": "psst"}}',
  broadcast: '{"text": "to all of the tenant"}',
};

/** Actions that need no permission. */
export const FREE = new Set(["ping", "session.describe", "session.permissions", "session.refresh", "channel.unsubscribe"]);

export function clock(seconds) {
  const time = new Date(seconds * 1000);
  return time.toLocaleTimeString(undefined, { hour12: false });
}

/** "4 min 10 s": how long is left, in as few words as are true. */
export function span(seconds) {
  const left = Math.max(0, Math.round(seconds));
  if (left >= 3600) return `${Math.floor(left / 3600)} h ${Math.floor((left % 3600) / 60)} min`;
  if (left >= 60) return `${Math.floor(left / 60)} min ${left % 60} s`;
  return `${left} s`;
}
