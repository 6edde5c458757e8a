//! Every key there is: its type, its default, whether it works, and a line that explains it.
//!
//! Reading, "did you mean", the variables of the agent's environment and the reference part of
//! `beatcop.ini.example` all follow this one table: a new key is a new row.

use super::plugin::Native;
use super::value::{Kind, RLIMITS, Value};

/// The sections whose keys are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Circus,
    Redis,
    Watcher,
    Socket,
    /// Members who choose a lord, and what is done about it.
    Legion,
    /// circusd-cluster's own section.
    CircusCluster,
    /// A node of it.
    Node,
    /// One of these plugins; none: any of them.
    Plugin(&'static [Native]),
    /// A plugin in Python, which knows its own options.
    PythonPlugin,
}

impl Section {
    /// The type of a section by its head, nothing where its keys are free or unknown.
    pub(super) fn of(head: &str) -> Option<Section> {
        match head {
            "circus" => Some(Section::Circus),
            "redis" => Some(Section::Redis),
            "circus-cluster" => Some(Section::CircusCluster),
            _ if head.starts_with("watcher:") => Some(Section::Watcher),
            _ if head.starts_with("socket:") => Some(Section::Socket),
            _ if head.starts_with("legion:") => Some(Section::Legion),
            _ if head.starts_with("node:") => Some(Section::Node),
            _ if head.starts_with("plugin:") => Some(Section::Plugin(&[])),
            _ => None,
        }
    }
}

/// The keys of a watcher that a legion has as well. The others say what runs, when and how often, which a legion knows itself.
const SHARED: &[&str] = &[
    "after",
    "autostart",
    "close_child_stderr",
    "close_child_stdin",
    "close_child_stdout",
    "gid",
    "hook_timeout",
    "hooks.*",
    "priority",
    "rlimit_*",
    "uid",
    "umask",
    "working_dir",
];

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It is carried out.
    Works,
    /// It is checked, and there is nothing to carry out.
    Idle,
    /// It does nothing, for this reason; a warning unless it has its default.
    Dead(&'static str),
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: Section,
    /// The key, or its beginning and a `*`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What holds when the key is not there; empty: nothing does.
    pub(super) default: &'static str,
    /// A value to show where there is no default.
    pub(super) example: &'static str,
    pub(super) status: Status,
    /// What it is for, in a line.
    pub(super) doc: &'static str,
}

const fn key(
    section: Section,
    name: &'static str,
    kind: Kind,
    (default, example): (&'static str, &'static str),
    status: Status,
    doc: &'static str,
) -> Key {
    Key { section, name, kind, default, example, status, doc }
}

/// A default.
const fn is(default: &'static str) -> (&'static str, &'static str) {
    (default, default)
}

/// No default, but an example.
const fn eg(example: &'static str) -> (&'static str, &'static str) {
    ("", example)
}

use Kind::{
    Action, Actions, Amount, Bool, Class, Cluster, Colour, Command, Count, Cron, Endpoint, Family, From, Group, Health,
    Hook, Host, HttpUrl, Interface, Labels, Level, Limit, LogOutput, Memory, MulticastGroup, Names, Node, Number,
    Octal, OnFailure, Owner, Path, Port, Positive, Protocol, Quorum, Ready, Regex, Retries, Rollover, Seconds, Sibling,
    Signal, Size, SocketEnv, SocketPath, SocketType, Sockets, StopPreset, Syslog, Text, TimeZone, Times, Url, Use,
    User, Valor,
};
use Native::{CommandReloader, Flapping, FullStats, HttpObserver, RedisObserver, ResourceWatcher, WatchDog};
use Section::{Circus, CircusCluster, Legion, Plugin, PythonPlugin, Redis, Socket, Watcher};
use Status::{Dead, Idle, Works};

const INTERNAL: Status = Dead("there are no internal watchers here; see loglevel");
const NO_MASTER: Status = Dead("not needed: nodes register by themselves, in the Redis of `[redis] url`");
const NEVER: Status = Dead("Circus never read it from a file either");
const NO_HTTP: Status = Dead("this version has no HTTP door; use circusctl");

const STATSD: &[Native] = &[Native::StatsdEmitter, FullStats, ResourceWatcher, HttpObserver, RedisObserver];

#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key(Circus, "node", Node, eg("web-1"), Works, "this node's name; default: the host name"),
    key(Circus, "cluster", Cluster, is("default"), Works,
        "agents with the same Redis and cluster name are one cluster"),
    key(Circus, "labels", Labels, eg("zone=a,role=web"), Works, "what this node is called besides its name, for circusctl -l"),
    key(Circus, "control_socket", Path, eg("/run/circus/web-1.sock"), Works, "where circusctl finds this agent"),
    key(Circus, "state_dir", Path, eg("/var/lib/circus"), Works, "where the agent keeps what outlives it"),
    key(Circus, "pidfile", Path, eg("/run/circus/circus.pid"), Works, "where the agent writes its pid"),
    key(Circus, "allow_drills", Bool, is("False"), Works,
        "lets circusctl drill kill, freeze or cut off this agent"),
    key(Circus, "umask", Octal, eg("022"), Works, "file mode mask, octal; its children inherit it"),
    key(Circus, "loglevel", Level, is("info"), Works, "critical, error, warning, info or debug"),
    key(Circus, "logoutput", LogOutput, is("-"), Works, "-: stderr; a path, or syslog://HOST:PORT?FACILITY"),
    key(Circus, "python", Path, eg("/usr/bin/python3"), Works,
        "runs hooks, streams and plugins in Python; default: $VIRTUAL_ENV's, or python3 of the agent's PATH"),
    key(Circus, "warmup_delay", Seconds, is("0"), Works, "pause between the starts of two watchers"),
    key(Circus, "include", Text, eg("conf.d/*.ini"), Works, "more files, relative to this one, which wins"),
    key(Circus, "include_dir", Text, eg("conf.d"), Works, "directories whose *.ini files are included"),
    key(Circus, "check_delay", Seconds, is("5.0"), Idle, "Circus's polling interval; nothing is polled here"),
    key(Circus, "endpoint", Endpoint, eg("tcp://127.0.0.1:5555"), Works,
        "takes commands of Circus's own clients, over ZeroMQ; default: nowhere"),
    key(Circus, "pubsub_endpoint", Endpoint, eg("tcp://127.0.0.1:5556"), Works,
        "publishes events to them; default: nowhere"),
    key(Circus, "stats_endpoint", Endpoint, eg("tcp://127.0.0.1:5557"), Works,
        "publishes statistics to them; default: nowhere"),
    key(Circus, "multicast_endpoint", MulticastGroup, eg("udp://237.219.251.97:12027"), Works,
        "tells whoever asks there over UDP where `endpoint` is; default: nobody"),
    key(Circus, "endpoint_owner", User, eg("root"), Works, "whose the files of ipc:// endpoints are; default: the agent's"),
    key(Circus, "endpoint_public", Bool, is("False"), Works,
        "lets endpoints be reached from other machines: whoever reaches them commands the agent"),
    key(Circus, "statsd", Bool, is("False"), Works,
        "publishes statistics at tcp://127.0.0.1:5557 where there is no stats_endpoint"),
    key(Circus, "httpd", Bool, is("False"), NO_HTTP, "no effect: no HTTP door yet"),
    key(Circus, "httpd_host", Text, is("localhost"), NO_HTTP, "no effect: no HTTP door yet"),
    key(Circus, "httpd_port", Port, is("8080"), NO_HTTP, "no effect: no HTTP door yet"),
    key(Circus, "loggerconfig", Text, is("default"),
        Dead("files for Python's logging are not read; loglevel and logoutput are"),
        "no effect: there is no Python here; see loglevel and logoutput"),
    key(Circus, "debug", Bool, is("False"), INTERNAL, "no effect: there are no internal watchers here; see loglevel"),
    key(Circus, "debug_gc", Bool, is("False"), Dead("it debugs Python's memory, and there is no Python here"),
        "no effect: there is no Python here"),
    key(Circus, "fqdn_prefix", Text, eg("web"), Dead("Circus never used it either; see node"),
        "no effect, as in Circus; see node"),
    key(Circus, "stream_backend", Text, eg("thread"), NEVER, "no effect, as in Circus"),
    key(Circus, "statsd_close_outputs", Bool, is("False"), NEVER, "no effect, as in Circus"),
    key(Circus, "httpd_close_outputs", Bool, is("False"), NEVER, "no effect, as in Circus"),
    key(Circus, "papa_endpoint", Text, eg("tcp://127.0.0.1:5557"), Dead("Circus dropped papa in 0.18"),
        "no effect: Circus dropped papa in 0.18"),
    key(Circus, "secret_file", Path, eg("/etc/circus/secret"), Works,
        "seals every message through Redis; the same on all nodes. A line made by openssl rand -hex 32"),
    key(Circus, "master", Endpoint, eg("tcp://127.0.0.1:5558"), NO_MASTER,
        "no effect: there is no master; nodes register by themselves"),

    key(Redis, "url", Url, eg("redis://localhost:6379/0"), Works, "redis://:PASSWORD@HOST:PORT/DB, rediss:// for TLS, redis+sentinel://HOST,HOST/MASTER, redis+cluster://HOST,HOST, redis+majority://HOST,HOST,HOST, or unix:///PATH"),
    key(Redis, "username", Text, eg("circus"), Works, "the ACL user, where the URL names none"),
    key(Redis, "password_file", Path, eg("/etc/circus/redis-password"), Works,
        "holds the password; read again at each connection"),
    key(Redis, "tls_ca", Path, eg("/etc/circus/redis-ca.pem"), Works,
        "certificates that rediss:// trusts; default: the machine's"),
    key(Redis, "tls_cert", Path, eg("/etc/circus/redis.pem"), Works, "the agent's own certificate, where rediss:// wants one"),
    key(Redis, "tls_key", Path, eg("/etc/circus/redis.key"), Works, "its private key"),
    key(Redis, "sentinel_username", Text, eg("circus"), Works, "the ACL user at the sentinels"),
    key(Redis, "sentinel_password_file", Path, eg("/etc/circus/sentinel-password"), Works,
        "holds the password for the sentinels"),
    key(Redis, "lease_ttl", Seconds, is("15"), Works, "how long a lease lasts when its holder falls silent"),
    key(Redis, "refresh_interval", Seconds, eg("5"), Works, "pause between refreshes; default lease_ttl / 3"),
    key(Redis, "refresh_timeout", Seconds, eg("5"), Works,
        "unconfirmed by then, it failed; default lease_ttl / 3"),
    key(Redis, "require_replica_ack", Count, is("0"), Works,
        "how many replicas must have a lease before it counts (WAIT)"),

    // Before those of [watcher:…]: where both have a key, a plugin's own row is found first.
    key(Plugin(Native::ALL), "use", Use, eg("circus.plugins.flapping.Flapping"), Works, "which plugin"),
    key(Plugin(Native::ALL), "priority", Number, is("1"), Works, "plugins start before the watchers of priority 0"),
    key(Plugin(Native::ALL), "copy_env", Bool, is("True"), Works, "gives it the agent's environment too"),
    key(Plugin(Native::ALL), "close_child_stdout", Bool, is("True"), Works,
        "stdout is /dev/null, unless it has a stream"),
    key(PythonPlugin, "stop_signal", Signal, is("INT"), Works, "asks it to stop, so that its `handle_stop` runs"),
    key(Plugin(&[Flapping]), "active", Bool, is("True"), Works, "whether it does anything"),
    key(Plugin(&[Flapping]), "attempts", Times, is("2"), Works, "so many ends of processes …"),
    key(Plugin(&[Flapping]), "window", Seconds, is("1"), Works, "… within this time are flapping: the watcher stops"),
    key(Plugin(&[Flapping]), "retry_in", Seconds, is("7"), Works, "and is started again after this time"),
    // As in Circus, it counts for the plugin's own process as well.
    key(Plugin(&[Flapping]), "max_retry", Retries, is("5"), Works, "up to so many times; -1: for ever"),
    key(Plugin(&[ResourceWatcher]), "watcher", Sibling, eg("web"), Works, "which watcher it looks after; required"),
    key(Plugin(&[ResourceWatcher]), "service", Sibling, eg("web"), Works, "the old name of `watcher`"),
    key(Plugin(&[ResourceWatcher]), "max_cpu", Amount, is("90"), Works, "per cent of one core; above, it counts"),
    key(Plugin(&[ResourceWatcher]), "min_cpu", Amount, eg("1"), Works, "per cent of one core; below, it counts"),
    key(Plugin(&[ResourceWatcher]), "max_mem", Memory, is("90"), Works,
        "per cent of the machine's memory, or bytes (250M); above, it counts"),
    key(Plugin(&[ResourceWatcher]), "min_mem", Memory, eg("10M"), Works, "the same; below, it counts"),
    key(Plugin(&[ResourceWatcher]), "health_threshold", Amount, is("75"), Works,
        "mean of both per cents; above, it counts; 0: never"),
    key(Plugin(&[ResourceWatcher]), "max_count", Count, is("3"), Works,
        "more than so many in a row: the watcher is restarted"),
    key(Plugin(&[ResourceWatcher]), "process_children", Bool, is("False"), Works,
        "looks at children of the processes instead, and signals them"),
    key(Plugin(&[ResourceWatcher]), "whole_cluster", Bool, is("False"), Works,
        "judges the sum of all nodes' processes"),
    key(Plugin(&[ResourceWatcher]), "child_signal", Signal, is("TERM"), Works, "with this signal"),
    key(Plugin(&[HttpObserver]), "check_url", HttpUrl, is("http://localhost/"), Works, "is asked for"),
    key(Plugin(&[HttpObserver]), "timeout", Positive, is("10"), Works, "how long an answer may take"),
    key(Plugin(&[HttpObserver]), "restart_on_error", Sibling, eg("web"), Works, "the watcher to restart when it fails"),
    key(Plugin(&[RedisObserver]), "redis_url", Url, is("redis://localhost:6379/0"), Works, "the Redis it observes"),
    key(Plugin(&[RedisObserver]), "timeout", Positive, is("5"), Works, "how long an answer may take"),
    key(Plugin(&[RedisObserver]), "restart_on_timeout", Sibling, eg("redis"), Works,
        "the watcher to restart when it fails"),
    key(Plugin(&[CommandReloader]), "name", Sibling, eg("web"), Works, "the only watcher it looks after; default: all"),
    key(Plugin(&[CommandReloader]), "loop_rate", Positive, is("1"), Works, "pause between two looks at the programs"),
    key(Plugin(&[WatchDog]), "watchers_regex", Regex, is(".*"), Works, "which watchers' processes report"),
    key(Plugin(&[WatchDog]), "msg_regex", Regex, is("^(?P<pid>.*);(?P<timestamp>.*)$"), Works, "what they send, over UDP"),
    key(Plugin(&[WatchDog]), "ip", Text, is("127.0.0.1"), Works, "to this address"),
    key(Plugin(&[WatchDog]), "port", Port, is("1664"), Works, "and this port"),
    key(Plugin(&[WatchDog]), "max_count", Times, is("3"), Works, "silent for so many rounds: it is replaced"),
    key(Plugin(&[WatchDog]), "watchers_stop_signal", Signal, eg("QUIT"), Works, "with this signal; default: its watcher's"),
    key(Plugin(&[WatchDog]), "watchers_graceful_timeout", Seconds, eg("5"), Works, "and time; default: its watcher's"),
    key(Plugin(&[FullStats, ResourceWatcher, HttpObserver, RedisObserver, WatchDog]), "loop_rate", Positive, is("60"),
        Works, "pause between two rounds"),
    key(Plugin(STATSD), "host", Text, is("localhost"), Works, "statsd's host"),
    key(Plugin(STATSD), "port", Port, is("8125"), Works, "statsd's port"),
    key(Plugin(STATSD), "sample_rate", Amount, is("1.0"), Works, "the share of counters that is sent"),
    key(Plugin(STATSD), "application_name", Text, is("app"), Works, "part of every name: circus.APP.…"),

    key(Legion, "valor", Valor, is("1"), Works,
        "the highest that lives is lord, of equals the first node name; 0: an arbiter, which only counts"),
    key(Legion, "quorum", Quorum, is("1"), Works,
        "so many members must live for a lord to be and to stay; majority: more than half of expected"),
    key(Legion, "expected", Times, eg("3"), Works, "how many members there should be"),
    key(Legion, "tolerance", Seconds, is("15"), Works, "a member or lord that is silent for so long is gone"),
    key(Legion, "freq", Seconds, eg("5"), Works, "pause between two signs of life; default tolerance / 3"),
    key(Legion, "preempt", Bool, is("True"), Works, "a higher valor takes over, in an orderly move"),
    key(Legion, "preempt_delay", Seconds, is("0"), Works, "once it has been there for so long"),
    key(Legion, "scroll", Text, eg("role=web"), Works, "what this node tells the others of itself"),
    key(Legion, "death_on_lord_error", Seconds, is("0"), Works,
        "a failed on_lord gives the lordship up, and stands back so long; 0: it is lord nevertheless"),
    key(Legion, "action_timeout", Positive, eg("30"), Works, "how long an action may take; default: hook_timeout"),
    key(Legion, "on_setup", Actions, eg("cmd:ip addr del 192.168.173.111/24 dev eth0"), Works,
        "when the agent starts; each on_… may stand several times: cmd:LINE log:TEXT signal:WATCHER:SIG http:URL publish:TOPIC"),
    key(Legion, "on_join", Actions, eg("log:there is a quorum"), Works, "when there is a quorum for the first time"),
    key(Legion, "on_lord", Actions, eg("cmd:ip addr add 192.168.173.111/24 dev eth0"), Works,
        "when this node becomes lord, before the watchers of the legion start"),
    key(Legion, "on_unlord", Actions, eg("cmd:ip addr del 192.168.173.111/24 dev eth0"), Works,
        "when it is lord no more, before another node is"),
    key(Legion, "on_death", Actions, eg("log:leaving"), Works, "when the agent ends"),
    key(Legion, "on_node_joined", Actions, eg("publish:members"), Works, "when another member appears"),
    key(Legion, "on_node_left", Actions, eg("publish:members"), Works, "when one leaves or falls silent"),
    key(Legion, "on_lord_changed", Actions, eg("signal:web:HUP"), Works, "when another node leads, or none"),
    key(Legion, "copy_env", Bool, is("True"), Works, "gives actions the agent's environment too"),

    key(Watcher, "cmd", Command, eg("celery -A proj worker"), Works, "the program and its arguments"),
    key(Watcher, "args", Command, eg("--loglevel info"), Works, "more arguments, after those of cmd"),
    key(Watcher, "executable", Path, eg("/bin/sh"), Works, "is executed in place of cmd's first word"),
    key(Watcher, "shell", Bool, is("False"), Works, "runs the command line with /bin/sh -c"),
    key(Watcher, "shell_args", Command, eg("name first second"), Works, "with shell: $0, $1, … of the command line"),
    key(Watcher, "numprocesses", Count, is("1"), Works, "how many processes"),
    key(Watcher, "max_per_node", Times, eg("4"), Works, "never more processes than this on a node, as circusctl --any respects"),
    key(Watcher, "warmup_delay", Seconds, is("0"), Works, "pause after each process's start"),
    key(Watcher, "working_dir", Path, eg("/srv/app"), Works, "where it runs; default: where the agent does"),
    key(Watcher, "uid", User, eg("root"), Works, "as which user, by name or number"),
    key(Watcher, "gid", Group, eg("root"), Works, "as which group; default: the user's own"),
    key(Watcher, "umask", Octal, eg("027"), Works, "file mode mask, octal; default: the agent's"),
    key(Watcher, "copy_env", Bool, is("False"), Works, "gives it the agent's environment too, not only [env]"),
    key(Watcher, "copy_path", Bool, is("False"), Works, "PYTHONPATH is the module path of the agent's `python`"),
    key(Watcher, "virtualenv", Path, eg("/srv/app/venv"), Works, "a Python virtual environment to run in"),
    key(Watcher, "virtualenv_py_ver", Text, eg("3.12"), Works, "its Python version, where it has several"),
    key(Watcher, "rlimit_*", Limit, eg("1024"), Works,
        "any limit of setrlimit(2); empty: infinite"),
    key(Watcher, "stop_signal", Signal, is("TERM"), Works, "asks a process to stop: TERM, SIGINT, 2, SIGRTMIN+1"),
    key(Watcher, "stop_preset", StopPreset, eg("gunicorn"), Works,
        "the stop signal at which this server finishes its requests: gunicorn, uvicorn, nginx, …"),
    key(Watcher, "stop_children", Bool, is("False"), Works,
        "sends the stop signal to the children of the process too"),
    key(Watcher, "graceful_timeout", Seconds, is("30"), Works, "how long it may take to stop before SIGKILL"),
    key(Watcher, "send_hup", Bool, is("False"), Works, "reload sends SIGHUP instead of replacing the processes"),
    key(Watcher, "max_age", Seconds, is("0"), Works, "replaces a process of this age; 0: never"),
    key(Watcher, "max_age_variance", Seconds, is("30"), Works, "and up to so much later, drawn for each"),
    key(Watcher, "autostart", Bool, is("True"), Works, "starts with the agent"),
    key(Watcher, "respawn", Bool, is("True"), Works, "replaces a process that ends"),
    key(Watcher, "max_retry", Retries, is("5"), Works, "failed starts in a row before it gives up; -1: it never does"),
    key(Watcher, "priority", Number, is("0"), Works, "higher starts first and stops last"),
    key(Watcher, "after", Names, eg("db, cache"), Works, "starts when these watchers are ready, and stops before them"),
    key(Watcher, "ready", Ready, eg("tcp 8000"), Works,
        "timer TIME, notify, ack, log REGEX, tcp [HOST:]PORT, http URL or PORT/PATH, cmd …; default: it runs"),
    key(Watcher, "ready_timeout", Positive, is("60"), Works, "not ready by then, a process is replaced"),
    key(Watcher, "health", Health, eg("http 8000/health"), Works, "the same ways but timer and ack; default: it runs"),
    key(Watcher, "health_interval", Positive, is("10"), Works, "from one check to the next"),
    key(Watcher, "health_timeout", Positive, is("5"), Works, "how long a check may take"),
    key(Watcher, "health_retries", Times, is("3"), Works, "so many failures in a row, and something is done"),
    key(Watcher, "health_action", Action, is("restart"), Works, "restart, signal NAME or report"),
    key(Watcher, "hooks.*", Hook, eg("/path/to/hook arg,true"), Works,
        "runs at this point of its life: a command, or module.function in Python; true: its errors do not count"),
    key(Watcher, "hook_timeout", Positive, is("30"), Works, "how long a hook may take"),
    key(Watcher, "close_child_stdin", Bool, is("True"), Works, "stdin is /dev/null, not the agent's"),
    key(Watcher, "close_child_stdout", Bool, is("False"), Works, "stdout is /dev/null"),
    key(Watcher, "close_child_stderr", Bool, is("False"), Works, "stderr is /dev/null"),
    key(Watcher, "stdout_stream.class", Class, is("FileStream"), Works,
        "what becomes of stdout; without any of these, it goes where the agent's goes"),
    key(Watcher, "stdout_stream.filename", Path, eg("/var/log/app.log"), Works, "the file it is appended to"),
    key(Watcher, "stdout_stream.max_bytes", Size, is("0"), Works, "FileStream: begins a new file at this size; 0: never"),
    key(Watcher, "stdout_stream.backup_count", Count, is("0"), Works,
        "how many old files are kept: .1, .2, …; by time 0: all"),
    key(Watcher, "stdout_stream.rotate_when", Rollover, eg("midnight"), Works,
        "TimedRotatingFileStream: S, M, H, D, midnight or W0 (Monday) to W6"),
    key(Watcher, "stdout_stream.rotate_interval", Times, is("1"), Works, "every so many of them"),
    key(Watcher, "stdout_stream.utc", Bool, is("False"), Works, "and in UTC"),
    key(Watcher, "stdout_stream.time_format", Text, eg("%Y-%m-%d %H:%M:%S"), Works,
        "strftime(3): each line begins with the time and pid"),
    key(Watcher, "stdout_stream.color", Colour, eg("green"), Works,
        "FancyStdoutStream: red, green, yellow, blue, magenta, cyan or white"),
    key(Watcher, "stdout_stream.address", Syslog, is("syslog:///dev/log?user"), Works,
        "SyslogStream: syslog://HOST:PORT?FACILITY or syslog:///PATH?FACILITY"),
    key(Watcher, "stdout_stream.ident", Text, eg("app"), Works,
        "SyslogStream, JournalStream: what names the lines; default: the watcher"),
    key(Watcher, "stdout_stream.refresh_time", Text, eg("0.3"), Dead("Circus ignores it too"), "no effect, as in Circus"),
    key(Watcher, "stdout_stream.*", Text, eg("value"), Works, "whatever a class in Python wants"),
    key(Watcher, "stderr_stream.class", Class, is("FileStream"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.filename", Path, eg("/var/log/app.log"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.max_bytes", Size, is("0"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.backup_count", Count, is("0"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.rotate_when", Rollover, eg("midnight"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.rotate_interval", Times, is("1"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.utc", Bool, is("False"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.time_format", Text, eg("%Y-%m-%d %H:%M:%S"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.color", Colour, eg("green"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.address", Syslog, is("syslog:///dev/log?user"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.ident", Text, eg("app"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.refresh_time", Text, eg("0.3"), Dead("Circus ignores it too"), "no effect, as in Circus"),
    key(Watcher, "stderr_stream.*", Text, eg("value"), Works, "the same for stderr"),
    key(Watcher, "sockets", Sockets, eg("web, admin"), Works, "gets these sockets as descriptors 3, 4, … in this order"),
    key(Watcher, "use_sockets", Bool, is("False"), Works, "gets all sockets, by name"),
    key(Watcher, "stdin_socket", Kind::Socket, eg("web"), Works, "the socket that is its stdin"),
    key(Watcher, "socket_env", SocketEnv, is("auto"), Works,
        "how its environment names them: none, or some of circus listen einhorn nginx server-starter unicorn puma"),
    key(Watcher, "on_demand", Bool, is("False"), Works, "starts at the first connection to one of its sockets"),
    key(Watcher, "idle_timeout", Positive, eg("5m"), Works, "on_demand: stops when nobody wanted anything for so long"),
    key(Watcher, "singleton", Bool, is("False"), Works, "one process in the whole cluster, under a lease"),
    key(Watcher, "lease_ttl", Seconds, eg("15"), Works, "this singleton's own; default: that of [redis]"),
    key(Watcher, "refresh_interval", Seconds, eg("5"), Works, "this singleton's own"),
    key(Watcher, "refresh_timeout", Seconds, eg("5"), Works, "this singleton's own"),
    key(Watcher, "lease_key", Text, eg("beatcop:beat"), Works,
        "the key of the lease where others take it, too: BeatCop's lockname"),
    key(Watcher, "flapping.active", Bool, is("True"), Idle, "this watcher's own, for the flapping plugin"),
    key(Watcher, "flapping.attempts", Times, is("2"), Idle, "the same"),
    key(Watcher, "flapping.window", Seconds, is("1"), Idle, "the same"),
    key(Watcher, "flapping.retry_in", Seconds, is("7"), Idle, "the same"),
    key(Watcher, "flapping.max_retry", Retries, is("5"), Idle, "the same"),
    key(Watcher, "check_flapping", Bool, is("True"), Dead("Circus has ignored it since flapping became a plugin"),
        "no effect, as in Circus"),
    key(Watcher, "use_papa", Bool, is("False"), Dead("Circus dropped papa in 0.18"),
        "no effect: Circus dropped papa in 0.18"),
    key(Watcher, "env", Text, eg("A=1"), Dead("Circus ignores it too; write a section [env:NAME]"),
        "no effect, as in Circus; write a section [env:NAME]"),
    key(Watcher, "valor", Valor, is("1"), Works,
        "the singleton is run by the highest that lives, of equals by the first node name; 0: never, it only counts"),
    key(Watcher, "quorum", Quorum, is("1"), Works,
        "so many nodes that have this singleton must live; majority: more than half of expected"),
    key(Watcher, "expected", Times, eg("3"), Works, "how many nodes should have it"),
    key(Watcher, "preempt", Bool, is("True"), Works, "a higher valor takes over, in an orderly move"),
    key(Watcher, "preempt_delay", Seconds, is("0"), Works, "once it has been there for so long"),
    key(Watcher, "scroll", Text, eg("role=web"), Works, "what this node tells the others of itself"),
    key(Watcher, "legion", Sibling, eg("clusterip"), Works, "runs on this legion's lord only"),
    key(Watcher, "cron", Cron, eg("*/5 * * * *"), Works, "runs once at each of these times: minute hour day month weekday, or @daily, …"),
    key(Watcher, "cron_timezone", TimeZone, is("local"), Works, "the time zone of cron: local, UTC, Europe/Paris"),
    key(Watcher, "misfire_grace", Seconds, is("1m"), Works, "how late a run of cron may begin"),
    key(Watcher, "cron_on_failure", OnFailure, is("report"), Works,
        "report, or stand_back TIME: a failed run gives the lease up, for another node to have it"),

    key(Socket, "host", Host, is("localhost"), Works, "the address or host it listens at; empty or *: all addresses"),
    key(Socket, "port", Port, is("8080"), Works, "and the port; 0: one that is free"),
    key(Socket, "path", SocketPath, eg("/run/circus/web.sock"), Works, "makes it a Unix socket, at this path"),
    key(Socket, "family", Family, is("AF_INET"), Works,
        "AF_INET, AF_INET6 or AF_UNIX; an IPv6 address or a path says so, too"),
    key(Socket, "type", SocketType, is("SOCK_STREAM"), Works,
        "SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET (Unix) or SOCK_RAW (IP)"),
    key(Socket, "proto", Protocol, eg("tcp"), Works, "tcp, udp, sctp, mptcp, …; default: the usual one of its type"),
    key(Socket, "interface", Interface, eg("eth0"), Works, "takes only what comes in through it"),
    key(Socket, "backlog", Count, is("2048"), Works, "how many connections may wait; the system's somaxconn caps it"),
    key(Socket, "blocking", Bool, is("False"), Works, "whether accept(2) waits; all that share the socket share this"),
    key(Socket, "so_reuseport", Bool, is("False"), Works, "each process has a listener of its own at this address"),
    key(Socket, "umask", Octal, is("0"), Works, "Unix: bits that its file does not get, octal; 0: all may connect"),
    key(Socket, "owner", Owner, eg("root:root"), Works, "Unix: whose the file is; default: the agent's"),
    key(Socket, "replace", Bool, is("False"), Works, "Unix: takes the place of a socket that somebody listens on"),
    key(Socket, "watchers", Names, eg("web, db"), Works, "the only watchers that may have it; default: any"),
    key(Socket, "from", From, is("bind"), Works,
        "systemd: is not opened, but handed over by the service manager under this name"),
    key(Socket, "use_papa", Bool, is("False"), Dead("Circus dropped papa in 0.18"),
        "no effect: Circus dropped papa in 0.18"),

    key(CircusCluster, "endpoint", Endpoint, eg("tcp://127.0.0.1:5558"), Works,
        "takes commands for all nodes over ZeroMQ, as any `[circus] endpoint` does; default: nowhere"),
    key(CircusCluster, "stats_endpoint", Endpoint, eg("tcp://127.0.0.1:5559"), Works,
        "publishes statistics of all nodes; default: nowhere"),
    key(CircusCluster, "ssh_server", Text, eg("admin@host"), Idle, "not needed: no node is reached over SSH"),

    key(Section::Node, "endpoint", Endpoint, eg("tcp://127.0.0.1:5555"), Idle, "not needed: a node registers by itself"),
    key(Section::Node, "pubsub_endpoint", Endpoint, eg("tcp://127.0.0.1:5556"), Idle, "the same"),
    key(Section::Node, "stats_endpoint", Endpoint, eg("tcp://127.0.0.1:5557"), Idle, "the same"),
];

/// The row of a section's key.
pub(super) fn find(section: Section, name: &str) -> Option<&'static Key> {
    let rows = || KEYS.iter().filter(|key| key.serves(section));
    rows().find(|key| key.name == name).or_else(|| rows().find(|key| key.family(name).is_some()))
}

/// Whether the section with this head knows this key by its exact name.
pub(super) fn knows(head: &str, name: &str) -> bool {
    let serves = |key: &Key| Section::of(head).is_some_and(|section| key.serves(section));
    KEYS.iter().any(|key| key.name == name && serves(key))
}

/// Whether a key of the section with this head may stand several times, each a line of its value.
pub(super) fn is_list(head: &str, name: &str) -> bool {
    Section::of(head).and_then(|section| find(section, name)).is_some_and(|key| key.kind == Actions)
}

impl Key {
    /// Whether this row holds for `section`. A plugin is a watcher, and a legion has some of one.
    fn serves(&self, section: Section) -> bool {
        match (self.section, section) {
            (Plugin(those), Plugin(asked)) => asked.iter().all(|native| those.contains(native)),
            (Plugin(those), PythonPlugin) => those == Native::ALL,
            (Watcher, Plugin(_) | PythonPlugin) => true,
            (Watcher, Legion) => SHARED.contains(&self.name) || self.name.contains("_stream."),
            (own, asked) => own == asked,
        }
    }

    /// What stands for the `*` of this row in `name`.
    pub(super) fn family<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.name.strip_suffix('*')?).filter(|rest| !rest.is_empty())
    }

    /// The variable of the agent's environment that sets this key; watchers have none.
    pub(super) fn variable(&self) -> Option<String> {
        match self.section {
            Circus => Some(format!("CIRCUS_{}", self.name.to_uppercase())),
            Redis => Some(format!("CIRCUS_REDIS_{}", self.name.to_uppercase())),
            Watcher | Socket | Legion | CircusCluster | Section::Node | Plugin(_) | PythonPlugin => None,
        }
    }

    /// Whether a value says what holds anyway.
    pub(super) fn is_default(&self, value: &Value) -> bool {
        match self.default {
            "" => *value == Value::Unset,
            default => self.kind.parse(default).as_ref() == Ok(value),
        }
    }

    /// Whether nodes of one cluster differ in it on purpose, so that it says nothing about drift.
    pub(super) fn is_per_node(&self) -> bool {
        matches!(
            (self.section, self.name),
            (
                Circus,
                "node"
                    | "master"
                    | "labels"
                    | "control_socket"
                    | "state_dir"
                    | "pidfile"
                    | "python"
                    | "endpoint"
                    | "pubsub_endpoint"
                    | "stats_endpoint"
            ) | (CircusCluster | Section::Node, _)
                | (Legion | Watcher, "valor" | "scroll")
                | (Redis, "url" | "password_file" | "sentinel_password_file" | "tls_ca" | "tls_cert" | "tls_key")
        )
    }
}

/// The words that other supervisors use, and ours.
const ELSEWHERE: &[(&str, &str)] = &[
    ("autorestart", "respawn"),
    ("command", "cmd"),
    ("cwd", "working_dir"),
    ("directory", "working_dir"),
    ("depends_on", "after"),
    ("environment", "[env:NAME]"),
    ("group", "gid"),
    ("nprocs", "numprocesses"),
    ("healthcheck", "health"),
    ("numprocs", "numprocesses"),
    ("requires", "after"),
    ("startretries", "max_retry"),
    ("stdout_logfile", "stdout_stream.filename"),
    ("stderr_logfile", "stderr_stream.filename"),
    ("stopsignal", "stop_signal"),
    ("stopwaitsecs", "graceful_timeout"),
    ("user", "uid"),
];

/// What `word` was probably meant to be: the nearest of `known`, if near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let reach = match word.chars().count() {
        0..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    let near = known.into_iter().map(|known| (strsim::osa_distance(&word, &plain(known)), known));
    near.filter(|(distance, _)| *distance <= reach).min().map(|(_, known)| known.to_owned())
}

/// The key that a misspelt one meant.
pub(super) fn meant(section: Section, name: &str) -> Option<String> {
    let rows = KEYS.iter().filter(|key| key.serves(section) && !key.name.ends_with('*'));
    let limits =
        RLIMITS.iter().filter(|_| find(section, "rlimit_core").is_some()).map(|(limit, _)| format!("rlimit_{limit}"));
    let known: Vec<String> = rows.map(|key| key.name.to_owned()).chain(limits).collect();
    nearest(name, known.iter().map(String::as_str))
}

/// Our word for another supervisor's.
pub(super) fn elsewhere(name: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

/// The heads under which keys are listed, with the sections whose rows stand there.
fn groups() -> Vec<(String, Vec<&'static Key>)> {
    let rows = |holds: &dyn Fn(Section) -> bool| KEYS.iter().filter(|key| holds(key.section)).collect::<Vec<_>>();
    let mut groups = vec![
        ("[circus]".to_owned(), rows(&|section| section == Circus)),
        ("[redis]".to_owned(), rows(&|section| section == Redis)),
        ("[watcher:NAME]".to_owned(), rows(&|section| section == Watcher)),
        ("[legion:NAME]".to_owned(), rows(&|section| section == Legion)),
        ("[socket:NAME]".to_owned(), rows(&|section| section == Socket)),
        ("[plugin:NAME]".to_owned(), rows(&|section| section == Plugin(Native::ALL))),
        ("[plugin:NAME] with a class of your own, in Python".to_owned(), rows(&|section| section == PythonPlugin)),
        ("[circus-cluster]".to_owned(), rows(&|section| section == CircusCluster)),
        ("[node:NAME]".to_owned(), rows(&|section| section == Section::Node)),
    ];
    for native in Native::ALL {
        let own = |section| matches!(section, Plugin(those) if those != Native::ALL && those.contains(native));
        groups.push((format!("[plugin:NAME] with use = {}", native.class()), rows(&own)));
    }
    groups
}

/// Every key as a comment that becomes valid by taking the leading `; ` away, grouped by section:
/// `; key = default  ; what it is for`. The end of `beatcop.ini.example` is this text.
pub fn reference() -> String {
    let mut text = String::new();
    for (head, keys) in groups() {
        let rows: Vec<String> = keys.iter().map(|key| key.line()).collect();
        text.push_str(&format!("\n;;; {head}\n;;;\n{}", rows.concat()));
    }
    text
}

/// Every key as tables in Markdown: `docs/configuration.md` ends with this text.
pub fn reference_tables() -> String {
    let mut text = String::new();
    type Wanted = fn(Status) -> bool;
    let titles: [(&str, Wanted); 2] = [
        ("", |status| matches!(status, Works | Idle)),
        (": accepted, without effect", |status| matches!(status, Dead(_))),
    ];
    for (head, keys) in groups() {
        for (title, wanted) in titles {
            let rows: Vec<String> = keys.iter().filter(|key| wanted(key.status)).map(|key| key.row()).collect();
            if !rows.is_empty() {
                let rows = rows.concat();
                text.push_str(&format!(
                    "\n### `{head}`{title}\n\n| key | type | default | |\n|---|---|---|---|\n{rows}"
                ));
            }
        }
    }
    text
}

impl Key {
    /// This key's row of [`reference_tables()`].
    fn row(&self) -> String {
        let default = match (self.default, self.example) {
            ("", example) => format!("none (e.g. `{example}`)"),
            (default, _) => format!("`{default}`"),
        };
        format!("| `{}` | {} | {default} | {} |\n", self.name, self.kind.word(), self.doc.replace('|', "\\|"))
    }

    /// This key's line of [`reference()`].
    fn line(&self) -> String {
        let name = match self.name {
            "rlimit_*" => "rlimit_nofile".to_owned(),
            "hooks.*" => "hooks.before_start".to_owned(),
            name => name.replace('*', "option"),
        };
        let setting = format!("{name} = {}", self.example);
        let example = if self.default.is_empty() { " (example)" } else { "" };
        let doc = self.doc;
        format!("; {setting:<48} ; {doc}{example}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_and_example_is_of_its_keys_own_type() {
        for key in KEYS {
            for text in [key.default, key.example].iter().filter(|text| !text.is_empty()) {
                assert!(key.kind.parse(text).is_ok(), "{} = {text}: {:?}", key.name, key.kind.parse(text));
            }
            assert!(!key.example.is_empty() && !key.doc.is_empty(), "{}", key.name);
        }
    }

    #[test]
    fn no_key_stands_twice() {
        for (at, key) in KEYS.iter().enumerate() {
            let plugins = |key: &Key| match key.section {
                Plugin(those) => those.to_vec(),
                Circus | Redis | Watcher | Socket | Legion | CircusCluster | Section::Node | PythonPlugin => Vec::new(),
            };
            let same = |other: &&Key| match (other.section, key.section) {
                (Plugin(_), Plugin(_)) => plugins(other).iter().any(|native| plugins(key).contains(native)),
                (section, own) => section == own,
            };
            let twice = KEYS[..at].iter().filter(|other| other.name == key.name).find(same);
            assert!(twice.is_none(), "{}", key.name);
        }
    }

    #[test]
    fn misspelt_keys_find_what_they_meant() {
        let table = [
            ("numproceses", Some("numprocesses")),
            ("Cmd", Some("cmd")),
            ("gracefull-timeout", Some("graceful_timeout")),
            ("rlimit_nofiles", Some("rlimit_nofile")),
            ("stats_base_port", None),
            ("port", None),
        ];
        for (word, key) in table {
            assert_eq!(meant(Watcher, word).as_deref(), key, "{word}");
        }
        assert_eq!(meant(Redis, "lease_tll").as_deref(), Some("lease_ttl"));
        assert_eq!(elsewhere("user"), Some("uid"));
    }

    #[test]
    fn a_family_takes_any_name_but_the_empty_one() {
        assert_eq!(find(Watcher, "rlimit_nofile").map(|key| key.name), Some("rlimit_*"));
        assert_eq!(find(Watcher, "stdout_stream.filename").map(|key| key.name), Some("stdout_stream.filename"));
        assert!(find(Watcher, "rlimit_").is_none());
        assert!(find(Circus, "rlimit_nofile").is_none());
    }
}
