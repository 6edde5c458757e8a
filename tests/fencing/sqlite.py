"""psql, as far as a test uses it, for SQLite: a statement a line, answered with what it did.

    sqlite.py FILE NAME=VALUE...
"""

import sqlite3
import sys

values = dict(word.split("=", 1) for word in sys.argv[2:])
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    if line.startswith("\\echo "):
        print(line.removeprefix("\\echo ").strip(), flush=True)
        continue
    rows = database.execute(line, values)
    for row in rows.fetchall():
        print(*row, sep="|", flush=True)
    verb = line.split()[0].strip(";")
    print(verb if rows.rowcount < 0 else f"{verb} {rows.rowcount}", flush=True)
