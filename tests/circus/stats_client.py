"""Circus's own StatsClient: a line of JSON for each message, with the order of its fields, until it is killed."""

import json
import sys

from circus.stats.client import StatsClient

for watcher, subtopic, stat in StatsClient(sys.argv[1]):
    print(json.dumps([watcher, subtopic, stat]), flush=True)
