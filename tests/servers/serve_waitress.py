"""waitress has no command-line option for a socket that is open already, but its API has: the descriptor is the argument."""

import socket
import sys

import waitress

import wsgi

waitress.serve(wsgi.application, sockets=[socket.socket(fileno=int(sys.argv[1]))])
