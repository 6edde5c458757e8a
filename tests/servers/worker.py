"""A worker of servers that have no program here: it finds its sockets by the rules of their client libraries.

`worker.py einhorn path` and `worker.py einhorn fd`: einhorn's, which acknowledges over its socket's path or descriptor;
`worker.py server-starter`: Server::Starter's; `worker.py circus`: the agent's own variables.
"""

import json
import os
import socket
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import wsgi


def einhorn(discovery):
    """As in einhorn/worker.rb."""
    if int(os.environ["EINHORN_MASTER_PID"]) != os.getppid():
        raise SystemExit("einhorn's master is not the parent")
    count = int(os.environ["EINHORN_FD_COUNT"])
    descriptors = [int(os.environ[f"EINHORN_FD_{index}"]) for index in range(count)]
    if discovery == "fd":
        master = socket.socket(fileno=int(os.environ["EINHORN_SOCK_FD"]))
    else:
        master = socket.socket(socket.AF_UNIX)
        master.connect(os.environ["EINHORN_SOCK_PATH"])
    with master:
        acknowledgement = json.dumps({"command": "worker:ack", "pid": os.getpid()})
        # Line by line, with its two special characters escaped.
        line = acknowledgement.replace("%", "%25").replace("\n", "%0A") + "\n"
        master.sendall(line.encode())
    return descriptors


def server_starter():
    """As in Server::Starter's server_ports: `HOST:PORT=FD;PATH=FD`."""
    pairs = os.environ["SERVER_STARTER_PORT"].split(";")
    return [int(pair.rsplit("=", 1)[1]) for pair in pairs]


def circus():
    """Names in order, and a descriptor by each."""
    names = os.environ["CIRCUS_SOCKETS"].split(":")
    return [int(os.environ[f"CIRCUS_SOCKET_{''.join(c if c.isalnum() else '_' for c in name).upper()}_FD"]) for name in names]


class Server(WSGIServer):
    """wsgiref's, on a socket that is open already."""

    def __init__(self, descriptor):
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=descriptor)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self.set_app(wsgi.application)

    def get_request(self):
        connection, address = super().get_request()
        # A client of a Unix socket has no address; wsgiref wants to name one.
        return connection, address or ("unix", 0)


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    convention, *options = sys.argv[1:]
    find = {"einhorn": einhorn, "server-starter": server_starter, "circus": circus}[convention]
    Server(find(*options)[0]).serve_forever()
