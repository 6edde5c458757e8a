//! The configuration reader against files: each bug report about a file becomes a file here.
//!
//! `tests/config/good/*.ini` must be accepted and `tests/config/bad/*.ini` refused, each with what the `.txt`
//! beside it says; `UPDATE_GOLDEN=1` writes those anew. A line `; env: NAME=VALUE` in a file adds to the
//! environment it is read in. `tests/config/convert` has files of other supervisors, and what becomes of them.

#[path = "config/convert.rs"]
mod convert;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use circus_agent::config::{self, Config, Problem, Severity, Surroundings, code};
use circus_agent::model::event::{AmendBase, Changes, SocketBase};
use circus_agent::model::names::WatcherName;
use circus_agent::model::spec::{
    AgentSpec, LegionAction, LegionEvent, LegionSpec, LogOutput, Place, ProgramSpec, SocketSpec, SocketUse, WatcherSpec,
};

fn around(text: &str) -> Surroundings {
    let base = [("PATH", "/usr/bin:/bin"), ("HOME", "/home/ops"), ("LANG", "C.UTF-8")];
    let mut env: BTreeMap<String, String> = base.map(|(name, value)| (name.into(), value.into())).into();
    let added = text.lines().filter_map(|line| line.strip_prefix("; env: ")?.split_once('='));
    env.extend(added.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Surroundings { env, hostname: "testhost".into() }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("tests/config").join(folder)).expect("the folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ini"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read(path: &Path) -> Result<Config, Vec<Problem>> {
    config::read(path, &around(&String::from_utf8_lossy(&fs::read(path).expect("the file"))))
}

fn compare(path: &Path, found: &str) {
    let golden = path.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).expect("the golden file");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(found == expected, "{} is not as in {}:\n{found}", path.display(), golden.display());
}

/// All facts of a configuration, a line for each watcher and for each thing that is not as usual.
fn describe(config: &Config) -> String {
    let AgentSpec {
        node,
        cluster,
        labels,
        control_socket,
        zmq,
        state_dir,
        allow_drills,
        pidfile,
        umask,
        log_level,
        log_output,
        // The machine's own, unless a file names one.
        python: _,
        global_options,
        lease_settings: _,
        hash: _,
        redis,
        warmup_delay,
        sockets,
        watchers,
    } = &config.spec;
    let mut out = format!("node {node}, cluster {cluster}\n");
    let mut fact = |text: String| writeln!(out, "{text}").expect("a line");
    labels.iter().for_each(|(key, value)| fact(format!("label {key}={value}")));
    for (name, path) in [("control_socket", control_socket), ("state_dir", state_dir), ("pidfile", pidfile)] {
        path.iter().for_each(|path| fact(format!("{name} {}", path.display())));
    }
    zmq.all().for_each(|(key, address)| fact(format!("{key} {address}")));
    zmq.discovery.iter().for_each(|group| fact(format!("[circus] multicast_endpoint {group}")));
    zmq.owner.iter().for_each(|owner| fact(format!("endpoint_owner {owner}")));
    zmq.public.then(|| fact("endpoints are public".into()));
    allow_drills.then(|| fact("drills are allowed".into()));
    umask.iter().for_each(|umask| fact(format!("umask {umask:03o}")));
    log_level.iter().for_each(|level| fact(format!("loglevel {level:?}")));
    if *log_output != LogOutput::Stderr {
        fact(format!("logoutput {log_output:?}"));
    }
    redis.iter().for_each(|redis| fact(format!("redis {}", redis.url.reveal())));
    redis.iter().filter(|redis| redis.require_replica_ack > 0).for_each(|redis| {
        fact(format!("require_replica_ack {}", redis.require_replica_ack));
    });
    if !warmup_delay.is_zero() {
        fact(format!("warmup_delay {warmup_delay:?}"));
    }
    let usual = [
        ("check_delay", "5.0"),
        ("endpoint", "tcp://127.0.0.1:5555"),
        ("multicast_endpoint", "udp://237.219.251.97:12027"),
        ("pubsub_endpoint", "tcp://127.0.0.1:5556"),
        ("stats_endpoint", "tcp://127.0.0.1:5557"),
    ];
    assert_eq!(global_options.len(), usual.len());
    for (name, value) in global_options.iter().filter(|(name, value)| !usual.contains(&(name, value))) {
        fact(format!("global option {name} {value:?}"));
    }
    for socket in sockets {
        describe_socket(socket, &mut fact);
    }
    for watcher in watchers {
        describe_watcher(watcher, &mut fact);
    }
    out
}

fn describe_socket(socket: &SocketSpec, fact: &mut impl FnMut(String)) {
    let SocketSpec {
        name,
        place,
        kind,
        protocol,
        backlog,
        blocking,
        reuse_port,
        replace,
        umask,
        owner,
        interface,
        watchers,
        settings: _,
    } = socket;
    fact(format!("\nsocket {name}: {} at {place:?}", kind.word()));
    fact(format!("  backlog {backlog}, blocking {blocking}, reuse_port {reuse_port}"));
    if matches!(place, Place::Unix(_)) {
        fact(format!("  umask {umask:03o}, owner {owner:?}, replace {replace}"));
    }
    protocol.iter().for_each(|protocol| fact(format!("  protocol {protocol}")));
    interface.iter().for_each(|interface| fact(format!("  interface {interface}")));
    if !watchers.is_empty() {
        fact(format!("  only for {}", listed(watchers)));
    }
}

fn listed(names: &[WatcherName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn describe_watcher(watcher: &WatcherSpec, fact: &mut impl FnMut(String)) {
    let WatcherSpec { name, program, numprocesses, warmup_delay, priority, autostart, respawn, max_retry, .. } =
        watcher;
    let ProgramSpec {
        words,
        executable,
        env,
        copy_env,
        working_dir,
        user,
        gid,
        umask,
        rlimits,
        close_stdin,
        stdout,
        stderr,
        sockets,
    } = program;
    fact(format!("\n{name}: {numprocesses} of {words:?}"));
    watcher.max_per_node.iter().for_each(|most| fact(format!("  {most} on a node at most")));
    executable.iter().for_each(|path| fact(format!("  executable {}", path.display())));
    fact(format!("  priority {priority}, autostart {autostart}, respawn {respawn}, max_retry {max_retry:?}"));
    let (signal, grace) = (watcher.stop_signal, watcher.graceful_timeout);
    fact(format!("  stop signal {signal}, grace {grace:?}, warmup_delay {warmup_delay:?}"));
    fact(format!("  copy_env {copy_env}, close_stdin {close_stdin}, stdout {stdout:?}, stderr {stderr:?}"));
    env.iter().for_each(|(name, value)| fact(format!("  {name}={value}")));
    working_dir.iter().for_each(|path| fact(format!("  working_dir {}", path.display())));
    user.iter().for_each(|user| fact(format!("  {user:?}")));
    gid.iter().for_each(|gid| fact(format!("  gid {gid}")));
    umask.iter().for_each(|umask| fact(format!("  umask {umask:03o}")));
    rlimits.iter().for_each(|limit| fact(format!("  limit {} {:?}", limit.name, limit.limit)));
    watcher.singleton.iter().for_each(|timings| fact(format!("  {timings:?}")));
    watcher.lease_key.iter().for_each(|key| fact(format!("  lease_key {:?}", key.as_str())));
    if watcher.stop_children || watcher.send_hup {
        fact(format!("  stop_children {}, send_hup {}", watcher.stop_children, watcher.send_hup));
    }
    let age = watcher.max_age.iter();
    age.for_each(|age| fact(format!("  max_age {age:?}, and up to {:?} more", watcher.max_age_variance)));
    watcher.ready.iter().for_each(|ready| fact(format!("  {ready:?}")));
    watcher.health.iter().for_each(|health| fact(format!("  {health:?}")));
    if !watcher.after.is_empty() {
        fact(format!("  after {}", listed(&watcher.after)));
    }
    if *sockets != SocketUse::default() {
        let SocketUse { which, stdin, conventions } = sockets;
        let words: Vec<&str> = conventions.iter().map(|convention| convention.word()).collect();
        fact(format!("  sockets {which:?}, told by {}", words.join(", ")));
        stdin.iter().for_each(|stdin| fact(format!("  stdin is socket {stdin}")));
    }
    watcher.cron.iter().for_each(|cron| fact(format!("  {cron:?}")));
    watcher.on_demand.iter().for_each(|on_demand| fact(format!("  {on_demand:?}")));
    watcher.election.iter().for_each(|election| fact(format!("  {election:?}")));
    watcher.follows.iter().for_each(|legion| fact(format!("  on the lord of {legion}")));
    if let Some(LegionSpec { actions, action_timeout, death_on_lord_error }) = &watcher.legion {
        fact(format!("  actions within {action_timeout:?}, stands back {death_on_lord_error:?}"));
        actions.iter().for_each(|(event, actions)| fact(format!("  on_{}: {actions:?}", event.name())));
    }
    for (point, hook) in &watcher.hooks {
        fact(format!("  {}: {hook:?}, within {:?}", point.name(), watcher.hook_timeout));
    }
}

#[test]
fn good_files_mean_what_their_texts_say() {
    for path in files("good") {
        let config = read(&path)
            .unwrap_or_else(|problems| panic!("{}", config::render(&problems, &path, "nothing was started")));
        let mut found = describe(&config);
        if !config.warnings.is_empty() {
            found.push_str(&format!("\n{}", config::render(&config.warnings, &path, "nothing was started")));
        }
        compare(&path, &found);
    }
}

#[test]
fn bad_files_are_refused_with_every_problem_and_its_place() {
    for path in files("bad") {
        let problems = read(&path).expect_err(&path.display().to_string());
        assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
        compare(&path, &config::render(&problems, &path, "nothing was started"));
    }
}

#[test]
fn what_cannot_be_read_is_one_clear_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = dir.path().join("binary.ini");
    fs::write(&binary, b"[circus]\nnode = \xff\xfe\n").expect("a file");
    let message = |path: &Path| {
        let problems = config::read(path, &around("")).expect_err("no configuration");
        assert_eq!(problems.len(), 1);
        (problems[0].line, problems[0].message.replace(&dir.path().display().to_string(), "DIR"))
    };
    assert_eq!(message(&dir.path().join("none.ini")), (0, "DIR/none.ini does not exist".into()));
    assert_eq!(message(dir.path()), (0, "DIR is a directory".into()));
    assert_eq!(message(&binary), (2, "DIR/binary.ini is no UTF-8 text".into()));
    assert_eq!(message(Path::new("/dev/zero")), (0, "/dev/zero is larger than 16 MiB".into()));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let [unix, windows] = ["unix.ini", "windows.ini"].map(|name| dir.path().join(name));
    let text = "[watcher:w]\ncmd = sleep\nargs = 1\n  2\n";
    fs::write(&unix, text).expect("a file");
    fs::write(&windows, format!("\u{feff}{}", text.replace('\n', "\r\n"))).expect("a file");
    let [unix, windows] = [unix, windows].map(|path| config::read(&path, &around("")).expect("good"));
    assert_eq!(unix.spec, windows.spec);
}

const EXAMPLE: &str = "beatcop.ini.example";

#[test]
fn the_example_is_valid_and_runs_one_singleton() {
    let config = config::read(Path::new(EXAMPLE), &around("")).unwrap_or_else(|problems| {
        panic!("{}", config::render(&problems, Path::new(EXAMPLE), "nothing was started"));
    });
    // Whether celery is installed is the machine's affair.
    assert!(config.warnings.iter().all(|problem| problem.code == code::PROGRAM), "{:?}", config.warnings);
    let [beat] = &config.spec.watchers[..] else { panic!("one watcher") };
    assert!(beat.singleton.is_some() && config.spec.redis.is_some());
}

#[test]
fn the_example_ends_with_every_key_there_is() {
    let text = fs::read_to_string(EXAMPLE).expect("the example");
    let own = text.split("\n;;; [circus]\n").next().expect("a beginning");
    let expected = format!("{own}{}", config::reference());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(EXAMPLE, &expected).expect("the example");
    } else {
        assert!(text == expected, "{EXAMPLE} is out of date: UPDATE_GOLDEN=1 writes it anew");
    }
}

/// What else a section needs for this setting to make sense.
fn beside(section: &str, native: &str, setting: &str) -> String {
    let key = setting.split(" =").next().unwrap_or_default();
    let mut lines = Vec::new();
    match section {
        "redis" if key.starts_with("tls_") => {
            let pair = |own: &str, other: &str| (key == own).then(|| format!("{other} = /etc/hostname"));
            lines.push("url = rediss://h".to_owned());
            lines.extend(pair("tls_cert", "tls_key").or(pair("tls_key", "tls_cert")));
        }
        "redis" if key.starts_with("sentinel_") => lines.push("url = redis+sentinel://h/m".to_owned()),
        "redis" => lines.push("url = redis://h".to_owned()),
        "watcher:NAME" if ["valor", "quorum", "expected", "preempt", "preempt_delay", "scroll"].contains(&key) => {
            lines.push("cmd = sleep 1\nsingleton = True".to_owned());
        }
        "watcher:NAME" => lines.push("cmd = sleep 1\ncopy_env = True".to_owned()),
        "plugin:NAME" => lines.push(format!("use = {native}\nwatcher = web")),
        _ => {}
    }
    if let Some((stream, option)) = key.split_once("_stream.") {
        let class = match option {
            "rotate_when" | "rotate_interval" | "utc" => "TimedRotatingFileStream",
            "color" => "FancyStdoutStream",
            "address" | "ident" => "SyslogStream",
            "option" => "my.Stream",
            _ => "FileStream",
        };
        lines.push(format!("{stream}_stream.class = {class}\n{stream}_stream.filename = /tmp/x"));
        lines.push(format!("{stream}_stream.rotate_when = H"));
    }
    let lines = lines.join("\n");
    let others = lines.lines().filter(|line| !line.starts_with(&format!("{key} =")));
    let others = others.filter(|line| native.ends_with("ResourceWatcher") || !line.starts_with("watcher ="));
    others.map(|line| format!("{line}\n")).collect()
}

#[test]
fn each_documented_key_is_known_and_says_truly_whether_it_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("one.ini");
    let venv = dir.path().join("venv");
    fs::create_dir_all(venv.join("lib/python3.12/site-packages")).expect("a virtual environment");
    let reference = config::reference().replace("/srv/app/venv", &venv.display().to_string());
    let (mut section, mut native, mut later, mut keys) = (String::new(), String::new(), false, 0);
    for line in reference.lines() {
        if let Some(head) = line.strip_prefix(";;; [") {
            section = head.split(']').next().expect("a head").to_owned();
            native = head.split("use = ").nth(1).unwrap_or("circus.plugins.flapping.Flapping").to_owned();
            later = head.contains("not supported yet");
        }
        let Some(setting) = line.strip_prefix("; ") else { continue };
        keys += 1;
        let beside = beside(&section, &native, setting);
        let mut others =
            ["web", "db", "cache", "redis"].map(|name| format!("[watcher:{name}]\ncmd = sleep 1\n")).concat();
        others += "[legion:clusterip]\n";
        others += "[socket:web]\nport = 0\n[socket:admin]\nport = 0\n";
        fs::write(&path, format!("{others}[{section}]\n{beside}{setting}\n")).expect("a file");
        let problems = match config::read(&path, &around("")) {
            Ok(config) => config.warnings,
            Err(problems) => problems,
        };
        let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        let unsupported = errors.iter().all(|problem| later && problem.code == code::NOT_YET);
        assert!(unsupported, "{setting}\n{}", config::render(&problems, &path, "nothing was started"));
        assert!(problems.iter().all(|problem| problem.code != code::FREE_FORM), "{setting}");
    }
    assert!(keys > 150, "{keys}");
}

// ---- watchers changed or added while the agent runs ----

fn changes(settings: &[(&str, Option<&str>)]) -> Changes {
    let owned = settings.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)));
    Changes { settings: owned.collect(), env: None }
}

fn config_of(text: &str) -> Config {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("t.ini");
    fs::write(&path, text).expect("a file");
    config::read(&path, &around(text))
        .unwrap_or_else(|problems| panic!("{}", config::render(&problems, &path, "nothing was started")))
}

fn existing(config: &Config, name: &str) -> AmendBase {
    let watcher = config.spec.watchers.iter().find(|watcher| watcher.name.as_str() == name);
    AmendBase::Watcher(Box::new(watcher.expect(name).clone()))
}

#[test]
fn a_watcher_that_is_amended_by_nothing_stays_as_it_is() {
    let mut amended = 0;
    for path in files("good") {
        let around = around(&fs::read_to_string(&path).expect("the file"));
        let config = read(&path).expect("good");
        for watcher in &config.spec.watchers {
            let base = AmendBase::Watcher(Box::new(watcher.clone()));
            let same = config::amend(&base, &Changes::default(), &config.spec.defaults(), &around);
            assert_eq!(same.as_ref(), Ok(watcher), "{}", path.display());
            amended += 1;
        }
    }
    assert!(amended > 40, "{amended}");
}

#[test]
fn settings_hold_all_that_a_watcher_was_told() {
    let text = "[redis]\nurl = redis://h\nlease_ttl = 10\nrefresh_timeout = 2\n\
                [watcher:w]\ncmd = sleep $(circus.env.n) $(circus.wid)\nsingleton = True\nfree = $(circus.env.N)\n\
                [watcher:own]\ncmd = sleep 1\nsingleton = 1\nlease_ttl = 3\n[env]\nN = 5\n";
    let config = config_of(text);
    let settings = |at: usize| {
        let pairs = config.spec.watchers[at].settings.iter();
        pairs.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(settings(0), ["cmd=sleep 1", "lease_ttl=3", "singleton=1"]);
    let inherited = ["lease_ttl=10", "refresh_timeout=2", "singleton=True"];
    assert_eq!(settings(1), ["cmd=sleep 5 $(circus.wid)", "free=5", inherited[0], inherited[1], inherited[2]]);
}

#[test]
fn a_watcher_takes_changed_settings() {
    let config =
        config_of("[watcher:w]\ncmd = sleep 1\nnumprocesses = 2\nfree = 1\n[env]\nA = 1\n[watcher:db]\ncmd = x\n");
    let amend =
        |changes: &Changes| config::amend(&existing(&config, "w"), changes, &config.spec.defaults(), &around(""));
    let more = [
        ("numprocesses", Some("4")),
        ("hooks.after_stop", Some("/bin/true $(circus.env.a)")),
        ("after", Some("DB")),
        ("copy_env", Some("true")),
        ("free", Some("$(circus.env.home)")),
    ];
    let amended = amend(&changes(&more)).expect("a watcher");
    assert_eq!((amended.numprocesses, amended.program.copy_env, amended.hooks.len()), (4, true, 1));
    assert_eq!(amended.after, [WatcherName::parse("db").expect("a name")]);
    assert_eq!((amended.settings["free"].as_str(), amended.program.env["A"].as_str()), ("/home/ops", "1"));
    let fewer = amend(&changes(&[("numprocesses", None)])).expect("a watcher");
    assert_eq!((fewer.numprocesses, fewer.settings.len()), (1, 2));
    // A file may have keys that nobody knows; whoever types one has mistaken it.
    assert_eq!(amend(&changes(&[("colour", Some("red"))])).expect_err("a mistake"), "unknown key 'colour'");
    let env = Changes { env: Some(vec![("B".into(), "2".into())]), ..changes(&[("args", Some("$(circus.env.b)"))]) };
    let other = amend(&env).expect("a watcher").program;
    assert_eq!(
        (other.words, other.env),
        (vec!["sleep".into(), "1".into(), "2".into()], BTreeMap::from([("B".into(), "2".into())]))
    );
}

#[test]
fn a_legion_and_who_follows_it_take_changed_settings() {
    let config = config_of(
        "[legion:ip]\nvalor = 3\non_lord = log:a\non_lord = log:b\n[watcher:w]\ncmd = sleep 1\n\
         [watcher:beat]\ncmd = sleep 1\nlegion = ip\n",
    );
    let amend = |name: &str, settings: &[(&str, Option<&str>)]| {
        config::amend(&existing(&config, name), &changes(settings), &config.spec.defaults(), &around(""))
    };
    let amended = amend("ip", &[("valor", Some("5")), ("scroll", Some("a b"))]).expect("a legion");
    let election = amended.election.expect("an election");
    assert_eq!((election.valor, election.scroll.as_str()), (5, "a b"));
    let actions = amended.legion.expect("still a legion").actions;
    assert_eq!(actions[&LegionEvent::Lord], ["a", "b"].map(|text| LegionAction::Log(text.into())));
    let amended = amend("ip", &[("on_lord", Some("signal:w:HUP\ncmd:true"))]).expect("a legion");
    assert!(amended.program.words.ends_with(&["--lord", "signal:w:SIGHUP", "cmd:true", "--unlord"].map(String::from)));
    for (name, setting, why) in [
        ("ip", ("valor", Some("many")), "`valor` must be a whole number"),
        ("ip", ("on_lord", Some("signal:v:HUP")), "there is no watcher `v`"),
        ("ip", ("cmd", Some("sleep 1")), "unknown key `cmd`"),
        ("ip", ("after", Some("beat")), "wait for each other"),
        ("beat", ("legion", Some("w")), "there is no legion `w`"),
        ("w", ("valor", Some("3")), "for singletons and legions"),
    ] {
        let refused = amend(name, &[setting]).expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
    let follower = amend("w", &[("legion", Some("IP"))]).expect("a follower");
    assert_eq!(follower.follows.as_ref(), Some(&amended.name));
    let free = amend("beat", &[("legion", None)]).expect("a watcher");
    assert_eq!(free.follows, None);
}

#[test]
fn a_new_watcher_takes_what_its_configuration_has_for_all() {
    let config = config_of("[circus]\npython = /bin/sh\n[redis]\nurl = redis://h\nlease_ttl = 9\n");
    let add = |name: &str, settings: &[(&str, Option<&str>)]| {
        config::amend(&AmendBase::New(name.into()), &changes(settings), &config.spec.defaults(), &around(""))
    };
    let hook = ("hooks.before_start", Some("a.b"));
    let added = add("new one", &[("cmd", Some("sleep 1")), ("singleton", Some("True")), hook]).expect("a watcher");
    assert_eq!((added.name.as_str(), added.singleton.expect("a lease").ttl.as_secs()), ("new one", 9));
    let plugin = add("plugin:f", &[("use", Some("circus.plugins.flapping.Flapping")), ("window", Some("2"))]);
    assert_eq!(plugin.expect("a plugin").program.env["CIRCUS_PLUGIN_OPTIONS"], r#"{"window":"2"}"#);
    assert_eq!(add(" ", &[]).expect_err("no name"), "a watcher name cannot be empty");
    assert_eq!(add("w", &[]).expect_err("no cmd"), "[watcher:w] has no `cmd` (nothing to run)");
    assert_eq!(add("w", &[("cmd", Some(""))]).expect_err("no cmd"), "[watcher:w] has no `cmd` (nothing to run)");
    let all = add("w", &[("numproceses", Some("2")), ("max_age", Some("old")), ("cron", Some("1"))]);
    let all = all.expect_err("nonsense");
    assert_eq!(all.matches("; ").count(), 4, "{all}");
    for part in ["did you mean `numprocesses`?", "`max_age` must be a time", "`cron` must have five fields"] {
        assert!(all.contains(part), "{part}: {all}");
    }
}

#[test]
fn a_socket_that_is_amended_by_nothing_stays_as_it_is() {
    let mut amended = 0;
    for path in files("good") {
        let around = around(&fs::read_to_string(&path).expect("the file"));
        let config = read(&path).expect("good");
        for socket in &config.spec.sockets {
            let base = SocketBase::Socket(Box::new(socket.clone()));
            let same = config::amend_socket(&base, &Changes::default(), &config.spec.defaults(), &around);
            assert_eq!(same.as_ref(), Ok(socket), "{}", path.display());
            amended += 1;
        }
    }
    assert!(amended > 15, "{amended}");
}

#[test]
fn a_socket_is_added_and_changed_as_a_file_would_have_it() {
    let config = config_of("[socket:web]\nport = 8001\nbacklog = 5\n[watcher:app]\ncmd = sleep 1\nsockets = web\n");
    let amend = |base: &SocketBase, settings: &[(&str, Option<&str>)]| {
        config::amend_socket(base, &changes(settings), &config.spec.defaults(), &around(""))
    };
    let base = SocketBase::Socket(Box::new(config.spec.sockets[0].clone()));
    let moved =
        amend(&base, &[("port", Some("8002")), ("backlog", None), ("watchers", Some("APP"))]).expect("a socket");
    assert_eq!(
        (moved.name.as_str(), moved.backlog, moved.is_bound_like(&config.spec.sockets[0])),
        ("web", 2048, false)
    );
    assert_eq!(listed(&moved.watchers), "app");
    assert_eq!(moved.settings.keys().collect::<Vec<_>>(), ["port", "watchers"]);

    let new = |name: &str, settings: &[(&str, Option<&str>)]| amend(&SocketBase::New(name.into()), settings);
    let added = new(" Admin ", &[("path", Some("$(circus.env.home)/s")), ("umask", Some("077"))]).expect("a socket");
    assert_eq!((added.name.as_str(), added.umask), ("admin", 0o77));
    assert_eq!(added.place, Place::Unix("/home/ops/s".into()));
    assert_eq!(new("", &[]).expect_err("no name"), "a socket name cannot be empty");
    let all =
        new("s", &[("prot", Some("1")), ("family", Some("AF_X")), ("watchers", Some("ap"))]).expect_err("nonsense");
    for part in ["unknown key `prot` in [socket:s]", "`family` must be AF_INET,", "there is no watcher `ap`"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let why = new("s", &[("host", Some("::1")), ("family", Some("AF_INET"))]).expect_err("two families");
    assert!(why.starts_with("`host` is an IPv6 address, and `family` is AF_INET ("), "{why}");
}

#[test]
fn a_watcher_is_amended_beside_the_sockets_there_are() {
    let config = config_of(
        "[socket:web]\nport = 0\n[socket:own]\nport = 0\nwatchers = db\n\
         [watcher:db]\ncmd = x\nuse_sockets = 1\n[watcher:app]\ncmd = sleep 1\n",
    );
    let amend = |settings: &[(&str, Option<&str>)]| {
        config::amend(&existing(&config, "app"), &changes(settings), &config.spec.defaults(), &around(""))
    };
    let given = amend(&[("sockets", Some("WEB")), ("args", Some("$(circus.sockets.Web)"))]).expect("a watcher");
    assert_eq!(given.program.words, ["sleep", "1", "$(circus.sockets.web)"]);
    let why = |settings: &[(&str, Option<&str>)]| amend(settings).expect_err("no such socket");
    assert_eq!(why(&[("sockets", Some("wbe"))]), "there is no socket `wbe` (did you mean `web`?)");
    let forbidden = why(&[("stdin_socket", Some("own"))]);
    assert!(forbidden.starts_with("`app` may not have socket `own` (it is for `db` alone;"), "{forbidden}");
    assert!(why(&[("args", Some("$(circus.sockets.web)"))]).contains("write `sockets = web`"));
}

#[test]
fn more_connections_than_the_system_lets_wait_are_warned_of_with_both_numbers() {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a limit");
    let most: u32 = most.trim().parse().expect("a number");
    let warnings = |backlog: u32| {
        let text =
            format!("[socket:web]\nport = 0\nbacklog = {backlog}\n[watcher:app]\ncmd = /bin/true\nsockets = web\n");
        config_of(&text).warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>()
    };
    assert_eq!(warnings(most), [""; 0]);
    let more = most + 1;
    assert_eq!(warnings(more), [format!("no {more} connections can wait here, only {most}")]);
}

#[test]
fn what_a_change_would_break_is_told_in_one_text() {
    let venv = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(venv.path().join("lib/python3.12/site-packages")).expect("a virtual environment");
    let venv = venv.path().display();
    let config = config_of(&format!(
        "[watcher:a]\ncmd = sleep 1\nafter = b\n[watcher:b]\ncmd = sleep 1\n\
         [watcher:v]\ncmd = sleep 1\ncopy_env = 1\nvirtualenv = {venv}\n"
    ));
    let why = |name: &str, key: &str, value: Option<&str>| {
        config::amend(&existing(&config, name), &changes(&[(key, value)]), &config.spec.defaults(), &around(""))
            .unwrap_err()
    };
    let cycle = "these watchers wait for each other: b → a → b (none of them would ever start)";
    assert_eq!(why("b", "after", Some("a")), cycle);
    assert_eq!(why("b", "after", Some("aa")), "there is no watcher `aa` (`b` would wait for ever)");
    assert_eq!(why("a", "cmd", None), "[watcher:a] has no `cmd` (nothing to run)");
    assert!(why("v", "virtualenv", None).contains("reload"));
    let env = Changes { env: Some(vec![("PATH".into(), "/bin".into())]), settings: Vec::new() };
    let kept = config::amend(&existing(&config, "v"), &env, &config.spec.defaults(), &around("")).expect("a watcher");
    assert_eq!(kept.program.env["PYTHONPATH"], format!("{venv}/lib/python3.12/site-packages"));
}

#[test]
fn the_interpreters_module_path_reaches_the_child_unless_its_own_environment_has_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let python = dir.path().join("python");
    // It counts how often it is asked.
    let script = "#!/bin/sh\necho >> \"$0.asked\"\nprintf '/lib/a\\n/lib/b'\n";
    fs::write(&python, script).expect("an interpreter");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("a program");
    let config = config_of(&format!(
        "[circus]\npython = {}\n[watcher:a]\ncmd = sleep 1\ncopy_env = 1\ncopy_path = 1\n\
         [watcher:b]\ncmd = sleep 1\ncopy_env = 1\ncopy_path = 1\n\
         [watcher:c]\ncmd = sleep 1\ncopy_env = 1\ncopy_path = 1\n[env:c]\nPYTHONPATH = /mine\n",
        python.display()
    ));
    let paths: Vec<&str> =
        config.spec.watchers.iter().map(|watcher| watcher.program.env["PYTHONPATH"].as_str()).collect();
    assert_eq!(paths, ["/lib/a:/lib/b", "/lib/a:/lib/b", "/mine"]);
    assert_eq!(fs::read_to_string(dir.path().join("python.asked")).expect("asked"), "\n");
    assert_eq!(config.spec.python, Some(python));
}
