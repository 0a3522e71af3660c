// The Node peer: `node echo.js PORT echo|fan-out`. As the README of `ws` shows it; compression, which no client here asks for, is off.
"use strict";

const { WebSocketServer } = require("ws");

const [port, mode] = process.argv.slice(2);
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: false });
const subscribers = new Set();

server.on("connection", (socket) => {
  socket.on("close", () => subscribers.delete(socket));
  socket.on("message", (data, binary) => {
    if (mode === "echo") {
      socket.send(data, { binary });
    } else if (data.toString() === '"subscribe"') {
      subscribers.add(socket);
      socket.send('"subscribed"');
    } else {
      for (const subscriber of subscribers) subscriber.send(data, { binary });
    }
  });
  socket.send('"welcome"');
});
