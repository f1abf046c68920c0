// Listens with the platform's JavaScript client until it is killed: node events.js URL TOKEN
//
// Writes the callbacks of the client as JSON lines: ["connect", null], ["message", OBJECT], ["error", TEXT] and
// ["disconnect", CODE]. Also writes ["auth", VALUE], read from the socket, because the client has no callback for it.

const { createNeuroioWsApi } = require("@neuroio/websocket");

const [endpoint, token] = process.argv.slice(2);
const api = createNeuroioWsApi({ version: 1, token, endpoint });

function write(kind, value) {
  process.stdout.write(`${JSON.stringify([kind, value])}\n`);
}

api.on("connect", () => {
  write("connect", null);
  api.socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string" && data.startsWith(`{"auth"`)) write("auth", JSON.parse(data).auth);
  });
});
api.on("message", (message) => write("message", message));
api.on("error", (error) => write("error", String(error)));
api.on("disconnect", ({ code }) => {
  write("disconnect", code);
  // The client does not reconnect by itself.
  api.connect();
});
api.connect();
