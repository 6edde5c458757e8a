"""Calls hooks and output streams written in Python, for circus-agent.

    python -c SCRIPT hooks                 a call per line of JSON on stdin, its answer as a line of JSON on stdout
    python -c SCRIPT stream CLASS OPTIONS  chunks of output on stdin: a line of JSON, then as many bytes as it says

Needs Python 3.7 and nothing else. What user code prints goes to stderr, which the agent logs.
"""

import importlib
import json
import os
import pwd
import shlex
import signal
import site
import sys
import time
import traceback
import types

GONE = "No such process (stopped?)"


class Proxy:
    """What a hook may know of something that lives in the agent: a copy, as it was when the hook was called."""

    def __init__(self, **facts):
        vars(self).update(facts)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        there_is = sorted(name for name in dir(self) if not name.startswith("__"))
        raise AttributeError("a hook's %s has no %r; it has %s" % (type(self).__name__, name, ", ".join(there_is)))

    def __setattr__(self, name, value):
        raise AttributeError("a hook's %s is a copy: setting %r would change nothing (circusctl set would)"
                             % (type(self).__name__, name))

    def __repr__(self):
        return "<%s %s>" % (type(self).__name__, vars(self).get("name", vars(self).get("pid", "")))


class Watcher(Proxy):
    """Circus's watcher, as far as hooks have been seen to use it."""

    def __init__(self, about):
        settings = about["settings"]
        processes = [Process(pid=each["pid"], wid=each["wid"], started=time.time() - each["age"])
                     for each in about["processes"] if each["pid"] is not None]
        super().__init__(
            name=about["name"],
            res_name=about["name"].lower().replace(" ", "_"),
            numprocesses=about["numprocesses"],
            cmd=settings.get("cmd", " ".join(map(shlex.quote, about["words"]))),
            args=settings.get("args"),
            env=dict(ENVIRONMENT),
            working_dir=about["working_dir"] or os.getcwd(),
            uid=about["uid"],
            gid=about["gid"],
            stop_signal=signal_number(settings.get("stop_signal", "TERM")),
            graceful_timeout=seconds(settings.get("graceful_timeout", "30")),
            priority=int(settings.get("priority", "0")),
            singleton=settings.get("singleton", "").lower() in ("1", "true", "yes", "on"),
            processes={process.pid: process for process in processes},
            pids=[process.pid for process in processes],
            _options=settings,
            _status=about["status"],
        )

    def status(self):
        return self._status

    def is_active(self):
        return self._status == "active"

    def is_stopping(self):
        return self._status == "stopping"

    def is_stopped(self):
        return self._status == "stopped"

    def get_active_processes(self):
        return [process for process in self.processes.values() if process.is_alive()]

    def info(self):
        return {pid: process.info() for pid, process in self.processes.items()}

    def send_signal(self, pid, signum):
        if pid not in self.processes:
            raise ValueError("%s has no process %r; it has %s" % (self.name, pid, self.pids))
        self.processes[pid].send_signal(signum)


class Process(Proxy):
    """One process of a watcher."""

    def age(self):
        return time.time() - self.started

    def is_alive(self):
        return self._stat() is not None

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def info(self):
        """Circus's keys; `cpu` is 0.0, as it is in Circus when first asked for."""
        stat = self._stat()
        if stat is None:
            return GONE
        try:
            with open("/proc/%d/cmdline" % self.pid, "rb") as file:
                program = os.path.basename(file.read().split(b"\0")[0]).decode(errors="replace")
            uid = os.stat("/proc/%d" % self.pid).st_uid
        except OSError:
            return GONE
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        resident, used = int(stat[21]) * page, (int(stat[11]) + int(stat[12])) / ticks
        memory = os.sysconf("SC_PHYS_PAGES") * page
        return {
            "pid": self.pid, "wid": self.wid, "cmdline": program, "username": user_name(uid), "nice": int(stat[16]),
            "mem_info1": size(resident), "mem_info2": size(int(stat[20])), "mem": round(resident * 100 / memory, 3),
            "cpu": 0.0, "ctime": "%d:%05.2f" % divmod(used, 60), "create_time": self.started,
            "started": self.started, "age": self.age(), "children": [],
        }

    def _stat(self):
        """The fields of /proc/PID/stat behind the command; None for a process that has ended."""
        try:
            with open("/proc/%d/stat" % self.pid, "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else fields


class Arbiter(Proxy):
    """Circus's arbiter, which here knows of nothing but the hook's own watcher."""

    def __init__(self, watcher):
        super().__init__(pid=os.getppid(), watchers=[watcher], endpoint=None, pubsub_endpoint=None,
                         stats_endpoint=None)

    def get_watcher(self, name):
        if name.lower() != self.watchers[0].name.lower():
            raise KeyError("a hook's arbiter knows %r only, not %r" % (self.watchers[0].name, name))
        return self.watchers[0]

    def numprocesses(self):
        return self.watchers[0].numprocesses

    def numwatchers(self):
        return 1

    def statuses(self):
        return {self.watchers[0].name: self.watchers[0].status()}


def serve_hooks(calls, answers):
    """Answers each call with `{"truth", "output"}` or `{"error"}`."""
    me = os.getpid()
    for line in calls:
        answer = call_hook(json.loads(line.decode()))
        if os.getpid() != me:
            os._exit(0)  # A child that the hook forked and let come back: the answer is its parent's to give.
        say(answers, answer)


def call_hook(call):
    try:
        hook = resolve(call["callable"])
    except BaseException as error:
        return refusal("cannot import %s with %s: " % (call["callable"], sys.executable), error)
    try:
        watcher = Watcher(call["watcher"])
        arguments = call["arguments"]
        truth = bool(hook(watcher, Arbiter(watcher), call["hook"], **arguments))
        stats = json.dumps(arguments.get("stats", {}), default=str, skipkeys=True, allow_nan=False)
        return {"truth": truth, "output": stats}
    except BaseException as error:  # SystemExit too: a hook may fail, but not end the helper.
        return refusal("", error)


def serve_stream(chunks, answers, dotted, options):
    """Says `{}` once the class is there, or `{"error"}`, then passes on what comes until it ends."""
    try:
        stream = resolve(dotted)(**json.loads(options))
    except BaseException as error:
        say(answers, refusal("cannot set up %s with %s: " % (dotted, sys.executable), error))
        sys.exit(1)
    say(answers, {})
    for line in iter(chunks.readline, b""):
        head = json.loads(line.decode())
        data = chunks.read(head["len"])
        if len(data) < head["len"]:
            break
        try:
            stream({"data": data, "pid": head["pid"], "name": head["name"]})
        except Exception:
            traceback.print_exc()
    close = getattr(stream, "close", None)
    if callable(close):
        close()


def resolve(dotted):
    """What `package.module.name`, `package.module:name` or `package.module.Class.method` stands for."""
    parts = dotted.replace(":", ".").split(".")
    found = importlib.import_module(parts[0])
    for end in range(1, len(parts)):
        name, path = parts[end], ".".join(parts[:end])
        try:
            found = getattr(found, name)
        except AttributeError:
            nothing = AttributeError("%s has no %r" % (path, name))
            if not isinstance(found, types.ModuleType):
                raise nothing from None
            try:
                found = importlib.import_module(path + "." + name)
            except ModuleNotFoundError as error:
                if error.name != path + "." + name:
                    raise  # It is there, and itself imports something that is not.
                raise nothing from None
    return found


def refusal(what, error):
    traceback.print_exc()
    text = "%s%s: %s" % (what, type(error).__name__, error)
    return {"error": text if str(error) else text[:-2]}


def say(answers, answer):
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def signal_number(text):
    """`TERM`, `SIGTERM`, `15` or `SIGRTMIN+1` as a number."""
    name, _, distance = text.strip().upper().partition("+")
    if name.isdigit():
        return int(name)
    name = name if name.startswith("SIG") else "SIG" + name
    return int(getattr(signal, name)) + int(distance or 0)


def seconds(text):
    """`30`, `500 ms`, `2m` in seconds."""
    digits = text.rstrip("hmins ")
    return float(digits) * {"ms": 0.001, "m": 60, "min": 60, "h": 3600}.get(text[len(digits):].strip(), 1)


def size(number):
    """Bytes as Circus writes them: `123B`, `8.47M`."""
    for unit in ("B", "K", "M", "G", "T"):
        if number < 1024 or unit == "T":
            return "%d%s" % (number, unit) if unit == "B" else "%.2f%s" % (number, unit)
        number /= 1024


def user_name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def take_pipes():
    """Keeps stdin and stdout for ourselves, under numbers that no child inherits, and gives user code others."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    return pipes


def main(mode, *arguments):
    global ENVIRONMENT
    pipes = take_pipes()
    ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "CIRCUS_PROCESS"}
    # As Circus does, so that the .pth files there count too.
    for directory in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        site.addsitedir(directory)
    {"hooks": serve_hooks, "stream": serve_stream}[mode](*pipes, *arguments)


main(*sys.argv[1:])
