// Says which process answers: at once, or at /slow?ms=N after so many milliseconds. The descriptor is the argument, or
// where systemd's convention says it is.
"use strict";
const http = require("node:http");

function descriptor() {
  if (process.argv[2]) return Number(process.argv[2]);
  if (Number(process.env.LISTEN_PID) !== process.pid) throw new Error("LISTEN_PID is another process");
  return 3;
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const ms = url.pathname === "/slow" ? Number(url.searchParams.get("ms")) : 0;
  setTimeout(() => response.end(`${process.pid}\n`), ms);
});
server.listen({ fd: descriptor() });
// Node by itself dies of a SIGTERM with its requests unanswered.
process.on("SIGTERM", () => server.close());
