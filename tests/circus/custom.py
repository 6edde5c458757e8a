"""A plugin as people write them: with each new process of one watcher it asks about it and casts a command, and it says
good-bye."""
from circus.plugins import CircusPlugin


class Custom(CircusPlugin):
    name = "custom"

    def __init__(self, *args, **config):
        super().__init__(*args, **config)
        self.journal = config["journal"]

    def say(self, *words):
        with open(self.journal, "a") as journal:
            print(*words, file=journal)

    def handle_init(self):
        self.say("init", self.config["motto"])

    def handle_recv(self, data):
        watcher, action, body = self.split_data(data)
        if action == "updated":
            self.say("hears")
        if (watcher, action) != ("web", "spawn"):
            return
        pid = self.load_message(body)["process_pid"]
        pids = self.call("list", name=watcher)["pids"]
        self.say("spawn", pid in pids, self.call("numprocesses", name=watcher)["numprocesses"])
        # Nothing may answer a cast: the next call takes the next answer for its own.
        self.cast("incr", name="other", nb=1)
        self.cast("frob")
        self.say("status", self.call("status", name=watcher)["status"])

    def handle_stop(self):
        self.say("stop")
