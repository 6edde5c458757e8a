"""Python runs this before Celery's first line: each beat bears witness from its very beginning."""

import atexit
import os
import sys
import threading

if "beat" in sys.orig_argv and "WITNESS" in os.environ:
    import witness

    def tick_for_ever():
        while True:
            witness.tick()

    witness.begin(os.environ["WITNESS"])
    threading.Thread(target=tick_for_ever, daemon=True).start()
    atexit.register(witness.say, "EXIT")
