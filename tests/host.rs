//! What `host` promises, proven on real children.
//!
//! Each case runs in a process of its own: see `support/cases.rs`.

#![allow(clippy::print_stdout)]

#[path = "support/cases.rs"]
mod cases;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cases::{Case, NEVER, ROLE, cases, children_of, eventually, exists, play, stat};
use circus_agent::host::Host;
use circus_agent::host::clock::{self, Alarm};
use circus_agent::model::command::{RequestId, Sample};
use circus_agent::model::event::{
    BindId, Deadline, Event, Exit, Handed, Launch, Notification, ProcessEvent, ProcessId, Reach, Signs, SocketId,
    SpawnFailure, Whose,
};
use circus_agent::model::names::{SocketName, WatcherName};
use circus_agent::model::spec::{
    Check, Output, Place, ProgramSpec, Purpose, Rlimit, SocketKind, SocketSpec, Url, UserSpec,
};
use circus_agent::model::time::Time;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// From the name of each case two cases.
macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        &[$(
            (concat!(stringify!($name), "_by_cgroup"), || Box::pin($name())),
            (concat!(stringify!($name), "_by_looking"), || {
                trees::look();
                Box::pin($name())
            })
        ),*]
    };
}

#[path = "support/ice.rs"]
mod ice;
#[path = "host/lords.rs"]
mod lords;
#[path = "host/trees.rs"]
mod trees;

/// Those that are no matter of how trees are ended, in the order of the host's own story.
const CASES: &[Case] = cases![
    a_program_that_is_not_there_fails_at_exec,
    a_program_that_may_not_run_fails_with_eacces_though_later_places_have_none,
    every_other_failure_names_its_stage_too,
    without_privileges_another_user_or_group_is_a_failure_and_oneself_is_not,
    setting_the_user_alone_fails_as_setuid,
    a_child_sees_the_user_groups_limits_mask_and_directory_it_was_given,
    a_child_gets_the_open_file_limit_that_the_agent_was_started_with,
    a_child_finds_no_signal_blocked_or_ignored,
    a_child_inherits_no_descriptor_but_its_first_three,
    the_environment_is_the_agents_below_the_programs_below_ours_and_without_secrets,
    a_process_finds_its_sockets_in_order_from_descriptor_three_on_and_nothing_else,
    a_process_finds_what_systemd_would_give_it,
    a_socket_can_be_stdin,
    a_pid_in_the_environment_is_that_of_the_process_or_of_its_parent,
    a_socket_that_has_been_closed_fails_the_start,
    output_goes_to_the_end_of_the_files_it_was_given,
    exit_codes_and_signals_are_told_apart,
    a_signal_goes_to_the_main_process_only,
    orders_given_before_the_program_runs_are_carried_out_when_it_does,
    adopted_orphans_do_not_stay_as_zombies,
    a_guarded_child_is_killed_at_its_deadline_without_a_word_from_us,
    a_guarded_child_is_asked_to_stop_once_at_the_stop_deadline,
    a_moved_deadline_keeps_the_child_alive_and_one_that_passed_does_not_start_it,
    a_deadline_that_comes_after_the_kill_changes_nothing,
    a_guarded_childs_failure_to_start_is_told_like_any_other,
    a_program_that_is_no_guard_is_a_failed_start,
    a_guard_hears_no_signal_but_kill,
    a_guard_keeps_nothing_open_and_stands_apart,
    a_guard_lets_go_of_the_sockets_that_it_passes_on,
    a_guard_that_is_told_nothing_or_garbage_ends,
    a_signal_reaches_whom_it_is_meant_for_and_nobody_else,
    children_hear_of_a_stop_though_their_parent_ends_at_once,
    a_guarded_childs_children_hear_of_a_stop_that_its_deadline_has_asked_it_for,
    systemd_notify_says_that_a_process_is_ready_and_comes_back_at_once,
    what_a_process_says_is_reported_and_what_makes_no_sense_is_not,
    descriptors_sent_with_a_message_are_closed,
    a_process_that_floods_its_socket_is_alone_in_waiting,
    the_last_words_of_a_process_come_before_its_end,
    an_ack_is_heard_by_path_and_by_descriptor_and_told_once,
    an_ack_is_heard_after_nonsense_and_beside_silence,
    a_process_that_floods_its_ack_socket_is_alone_in_waiting,
    only_who_is_listened_to_gets_a_socket_and_nothing_is_left_of_it,
    a_child_that_is_another_user_may_speak_too,
    a_directory_of_another_user_or_too_long_a_path_fails_the_start,
    a_tcp_check_asks_whether_somebody_listens,
    an_http_check_goes_by_the_status,
    a_command_check_runs_as_the_process_does_and_leaves_nothing_behind,
    each_check_is_answered_once_and_none_after_the_end,
    processes_are_sampled,
    samples_show_children_and_theirs,
    the_agent_itself_is_sampled,
    an_alarm_rings_when_it_is_set_to_and_at_once_when_that_has_passed,
];

/// Those about trees, of which [`trees`] has more.
const TREES: &[Case] = both_ways![
    a_kill_takes_grandchildren_sessions_of_their_own_and_daemons,
    a_main_process_that_ends_takes_its_leftovers_along_before_gone,
    a_forking_tree_is_outrun,
    one_processs_end_leaves_the_daemons_of_another_alone,
    a_killed_guard_takes_the_child_along_and_the_agent_its_orphans,
    a_stopped_guard_still_obeys_a_kill_and_does_not_hold_up_the_agent,
    what_a_guard_holds_is_released_only_after_the_tree_is_gone,
    an_agent_that_is_killed_leaves_nothing_behind,
    a_thousand_short_children_are_each_reported_once,
    a_dead_child_is_replaced_about_as_fast_as_a_program_starts,
];

// ---- the cases -----------------------------------------------------------------------------------------------------

async fn a_program_that_is_not_there_fails_at_exec() {
    let mut world = World::new();
    let failed = world.fails(launch(["/bin/nosuch"])).await;
    assert_eq!(failed.to_string(), r#"spawn failed at exec("/bin/nosuch"): ENOENT: No such file or directory"#);
    let failed = world.fails(launch(["nosuch-on-any-path"])).await;
    assert_eq!(failed.stage, r#"exec("nosuch-on-any-path")"#);
}

async fn a_program_that_may_not_run_fails_with_eacces_though_later_places_have_none() {
    let mut world = World::new();
    let file = world.path("tool");
    fs::write(&file, "no program").unwrap();
    let mut launch = launch(["tool"]);
    let path = format!("/nosuch:{}:/bin", world.dir.path().display());
    with(&mut launch, |program| drop(program.env.insert("PATH".into(), path)));
    let failed = world.fails(launch).await;
    assert_eq!((failed.stage.as_str(), failed.error.as_str()), (r#"exec("tool")"#, "EACCES: Permission denied"));
}

async fn every_other_failure_names_its_stage_too() {
    let mut world = World::new();
    let mut away = sh("true");
    with(&mut away, |program| program.working_dir = Some("/nosuch/dir".into()));
    let failed = world.fails(away).await;
    assert_eq!(failed.stage, r#"chdir("/nosuch/dir")"#);
    assert_eq!(failed.error, "ENOENT: No such file or directory");

    let mut log = sh("true");
    with(&mut log, |program| program.stdout = Output::file("/nosuch/log"));
    assert_eq!(world.fails(log).await.stage, r#"open("/nosuch/log")"#);

    assert_eq!(world.fails(launch(["a\0b"])).await.stage, r#"exec("a\0b")"#);

    let mut variable = sh("true");
    variable.env.push(("CIRCUS_NODE".into(), "a\0b".into()));
    assert_eq!(world.fails(variable).await.stage, r#"env("CIRCUS_NODE")"#);

    let mut limit = sh("true");
    let all = Rlimit { name: "nofile".into(), resource: libc::RLIMIT_NOFILE, limit: None };
    with(&mut limit, |program| program.rlimits = vec![all]);
    let failed = world.fails(limit).await;
    assert_eq!((failed.stage.as_str(), failed.error.as_str()), ("rlimit(nofile)", "EPERM: Operation not permitted"));
}

async fn without_privileges_another_user_or_group_is_a_failure_and_oneself_is_not() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(65534.into()).unwrap();
    nix::unistd::setuid(65534.into()).unwrap();
    let mut world = World::new();
    let mut other = sh("true");
    with(&mut other, |program| program.user = Some(user(33, 33, Some("www-data"))));
    let failed = world.fails(other).await;
    assert_eq!(failed.to_string(), r#"spawn failed at setgroups("www-data"): EPERM: Operation not permitted"#);
    let mut group = sh("true");
    with(&mut group, |program| program.gid = Some(33));
    assert_eq!(world.fails(group).await.stage, "setgid(33)");
    let mut myself = sh("exit 3");
    with(&mut myself, |program| program.user = Some(user(65534, 65534, Some("nobody"))));
    assert_eq!(world.runs(myself).await, Exit::Code(3));
}

async fn setting_the_user_alone_fails_as_setuid() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    // Before the host is made, since each thread has capabilities of its own, and hands them on to those it starts.
    give_up_changing_users();
    let mut world = World::new();
    let mut other = sh("true");
    with(&mut other, |program| program.user = Some(user(33, 33, None)));
    let failed = world.fails(other).await;
    assert_eq!(failed.to_string(), r#"spawn failed at setuid("33"): EPERM: Operation not permitted"#);
}

async fn a_child_sees_the_user_groups_limits_mask_and_directory_it_was_given() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let mut world = World::new();
    let mut launch = sh("id -u; id -g; id -G; umask; ulimit -Sn; ulimit -Hn; ulimit -Sc; pwd -P; \
                         cut -d' ' -f6 /proc/$$/stat | grep -qx $$ && echo leads its session; \
                         cut -d' ' -f5 /proc/$$/stat | grep -qx $$ && echo leads its group");
    with(&mut launch, |program| {
        program.user = Some(user(65534, 65534, Some("nobody")));
        program.gid = Some(33);
        program.umask = Some(0o027);
        program.working_dir = Some("/usr".into());
        program.rlimits = vec![
            Rlimit { name: "nofile".into(), resource: libc::RLIMIT_NOFILE, limit: Some(321) },
            Rlimit { name: "core".into(), resource: libc::RLIMIT_CORE, limit: Some(0) },
        ];
    });
    let said = world.says(launch).await;
    let expected = "65534 33 33 0027 321 321 0 /usr leads its session leads its group";
    assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), expected);
}

async fn a_child_gets_the_open_file_limit_that_the_agent_was_started_with() {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 500, hard).unwrap();
    let mut world = World::new();
    for launch in [sh("ulimit -n"), guarded(sh("ulimit -n"), world.far())] {
        assert_eq!(world.says(launch).await, "500\n");
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(soft, hard, "the agent's own is raised");
}

async fn a_child_finds_no_signal_blocked_or_ignored() {
    let mut world = World::new();
    // std ignores SIGPIPE, and a guard blocks all there are.
    for launch in [
        launch(["grep", "^Sig[BI]", "/proc/self/status"]),
        guarded(launch(["grep", "^Sig[BI]", "/proc/self/status"]), world.far()),
    ] {
        let said = world.says(launch).await;
        assert_eq!(said, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }
}

async fn a_child_inherits_no_descriptor_but_its_first_three() {
    // SAFETY: plain numbers.
    let before = unsafe { libc::fcntl(0, libc::F_DUPFD, 40) };
    assert!(before >= 40);
    let mut world = World::new();
    // SAFETY: plain numbers.
    let after = unsafe { libc::fcntl(0, libc::F_DUPFD, 50) };
    assert!(after >= 50);
    // The fourth is ls's own, on the directory.
    assert_eq!(world.says(launch(["ls", "/proc/self/fd"])).await, "0\n1\n2\n3\n");
    let lock = File::create(world.path("lock")).unwrap();
    let launch = guarded(launch(["ls", "/proc/self/fd"]), world.far());
    assert_eq!(world.says_holding(launch, Some(lock.into())).await, "0\n1\n2\n3\n");
}

async fn the_environment_is_the_agents_below_the_programs_below_ours_and_without_secrets() {
    // SAFETY: nothing else runs in this process yet.
    unsafe {
        for name in ["CIRCUS_REDIS_URL", "CIRCUS_WID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"] {
            std::env::set_var(name, "not-for-children");
        }
        for name in ["LISTEN_FDS", "EINHORN_FD_0", "SERVER_STARTER_PORT", "NGINX", "PUMA_INHERIT_0", "GUNICORN_PID"] {
            std::env::set_var(name, "not-for-children");
        }
        std::env::set_var("UNICORN_FD", "not-for-children");
        std::env::set_var("GUNICORN_FD", "not-for-children");
        std::env::set_var("GUNICORN_CMD_ARGS", "--workers=2");
        std::env::set_var("FROM_AGENT", "agent");
        std::env::set_var("FROM_BOTH", "agent");
    }
    let mut world = World::new();
    for with_guard in [false, true] {
        let mut launch = launch(["env"]);
        with(&mut launch, |program| {
            let own = [("FROM_BOTH", "program"), ("CIRCUS_NODE", "program"), ("UNICORN_FD", "9")];
            program.env = own.map(|(n, v)| (n.into(), v.into())).into();
        });
        launch.env = vec![("CIRCUS_NODE".into(), "web-1".into()), ("CIRCUS_WATCHER".into(), "test".into())];
        launch.socket_env = vec![("LISTEN_FDNAMES".into(), "web".into())];
        if with_guard {
            launch.guard = Some(world.far());
        }
        let said = world.says(launch).await;
        for line in
            ["FROM_AGENT=agent", "FROM_BOTH=program", "CIRCUS_NODE=web-1", "CIRCUS_WATCHER=test", "LISTEN_FDNAMES=web"]
        {
            assert!(said.lines().any(|said| said == line), "{line} is not in {said}");
        }
        assert!(!said.contains("not-for-children"), "{said}");
    }
    let mut alone = launch(["env"]);
    with(&mut alone, |program| program.copy_env = false);
    let said = world.says(alone).await;
    let names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names, ["CIRCUS_PROCESS"]);
}

async fn a_process_finds_its_sockets_in_order_from_descriptor_three_on_and_nothing_else() {
    let mut world = World::new();
    let (a, b) = (world.path("a"), world.path("b"));
    let blocking = unix(a.clone());
    let not_blocking = SocketSpec { blocking: false, ..unix(b.clone()) };
    let [web, admin] = world.binds([blocking, not_blocking]).await;
    // A process that only looks at the flag that all share must find it as it was opened.
    let script = "
import fcntl, os, socket
for fd in range(3, 100):
    try: flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError: continue
    shared = 'non-blocking' if flags & os.O_NONBLOCK else 'blocking'
    own = 'closed' if fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC else 'kept'
    print(fd, socket.socket(fileno=fd).getsockname(), shared, own)";
    let (a, b) = (a.display(), b.display());
    for (sockets, expected) in [
        (vec![web, admin], format!("3 {a} blocking kept\n4 {b} non-blocking kept\n")),
        (vec![admin, web], format!("3 {b} non-blocking kept\n4 {a} blocking kept\n")),
        (vec![admin], format!("3 {b} non-blocking kept\n")),
        (vec![], String::new()),
    ] {
        for wrap in BOTH {
            let lock = File::create(world.path("lock")).unwrap();
            let launch = Launch { sockets: sockets.clone(), ..wrap(python(script), world.far()) };
            assert_eq!(world.says_holding(launch, Some(lock.into())).await, expected);
        }
    }
}

async fn a_process_finds_what_systemd_would_give_it() {
    let mut world = World::new();
    // A program reads its sockets as the manual of sd_listen_fds says.
    let script = "
import fcntl, os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid())
for fd, name in enumerate(os.environ['LISTEN_FDNAMES'].split(':'), 3):
    one = socket.socket(fileno=fd)
    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    blocks = not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    print(fd, name, one.family, one.type, one.getsockname(), listens, blocks, not fcntl.fcntl(fd, fcntl.F_GETFD))
print(os.environ['LISTEN_FDS'], sorted(name for name in os.environ if name.startswith('LISTEN_')))";
    let paths = ["web", "adm"].map(|name| world.path(name));
    let file = world.path("theirs");
    let mut systemd = Command::new("systemd-socket-activate")
        .args(paths.iter().flat_map(|path| ["-l".as_ref(), path.as_os_str()]))
        .args(["--fdname=web:adm", "python3", "-c", script])
        .stdout(File::create(&file).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut caller = None;
    eventually("it listens", || {
        caller = UnixStream::connect(&paths[1]).ok();
        caller.is_some()
    })
    .await;
    assert!(systemd.wait().unwrap().success());
    let theirs = fs::read_to_string(file).unwrap();
    assert_eq!(theirs.lines().count(), 3);
    for path in &paths {
        fs::remove_file(path).unwrap();
    }

    let sockets = world.binds(paths.map(unix)).await;
    for wrap in BOTH {
        let mut launch = wrap(python(script), world.far());
        launch.sockets = sockets.into();
        launch.socket_env = vec![("LISTEN_FDS".into(), "2".into()), ("LISTEN_FDNAMES".into(), "web:adm".into())];
        launch.pids = vec![("LISTEN_PID", Whose::Own)];
        assert_eq!(world.says(launch).await, theirs);
    }
}

async fn a_socket_can_be_stdin() {
    let mut world = World::new();
    let path = world.path("socket");
    let [web, admin] = world.binds([unix(path.clone()), unix(world.path("other"))]).await;
    let script = "
import os, socket
stdin = socket.socket(fileno=0)
connection = stdin.accept()[0]
print(connection.recv(9), sorted(map(int, os.listdir('/proc/self/fd')))[3:])";
    for close_stdin in [false, true] {
        for wrap in BOTH {
            let mut launch = Launch { stdin: Some(web), ..wrap(python(script), world.far()) };
            with(&mut launch, |program| program.close_stdin = close_stdin);
            UnixStream::connect(&path).unwrap().write_all(b"hello").unwrap();
            // Of the last two, one is the connection and one is the list's own.
            assert_eq!(world.says(launch.clone()).await, "b'hello' [3, 4]\n");
            launch.sockets = vec![admin, web];
            UnixStream::connect(&path).unwrap().write_all(b"hello").unwrap();
            assert_eq!(world.says(launch).await, "b'hello' [3, 4, 5, 6]\n");
        }
    }
}

async fn a_pid_in_the_environment_is_that_of_the_process_or_of_its_parent() {
    let mut world = World::new();
    for wrap in BOTH {
        let mut launch = wrap(launch(["sleep", "1000"]), world.far());
        launch.pids = vec![("LISTEN_PID", Whose::Own), ("EINHORN_MASTER_PID", Whose::Parent)];
        // Nobody can know better.
        launch.env = vec![("LISTEN_PID".into(), "1".into())];
        with(&mut launch, |program| drop(program.env.insert("EINHORN_MASTER_PID".into(), "1".into())));
        let process = world.spawn(launch);
        let pid = world.spawned(process).await;
        let mut env = String::new();
        eventually("its environment can be seen", || {
            env = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
            !env.is_empty()
        })
        .await;
        let is_pid = |line: &&str| line.starts_with("LISTEN_PID=") || line.starts_with("EINHORN_MASTER_PID=");
        let pids: Vec<&str> = env.split('\0').filter(is_pid).collect();
        assert_eq!(pids, [format!("LISTEN_PID={pid}"), format!("EINHORN_MASTER_PID={}", parent_of(pid))]);
        world.host.kill(process);
        world.ends(process).await;
    }
}

async fn a_socket_that_has_been_closed_fails_the_start() {
    let mut world = World::new();
    let [web] = world.binds([unix(world.path("socket"))]).await;
    let gone = Handed { socket: SocketId(99), lane: None };
    for wrap in BOTH {
        let launch = wrap(sh("true"), world.far());
        let failed = world.fails(Launch { sockets: vec![web, gone], ..launch.clone() }).await;
        assert_eq!(failed.to_string(), "spawn failed at socket: it has been closed");
        let failed = world.fails(Launch { stdin: Some(gone), ..launch }).await;
        assert_eq!(failed.to_string(), "spawn failed at socket: it has been closed");
    }
}

async fn output_goes_to_the_end_of_the_files_it_was_given() {
    let mut world = World::new();
    let (out, err) = (world.path("out"), world.path("err"));
    fs::write(&out, "before\n").unwrap();
    for _ in 0..2 {
        let mut launch = sh("echo out; echo err >&2; cat");
        with(&mut launch, |program| {
            program.stdout = Output::file(out.clone());
            program.stderr = Output::file(err.clone());
            program.close_stdin = true;
        });
        assert_eq!(world.runs(launch).await, Exit::Code(0));
    }
    assert_eq!(fs::read_to_string(out).unwrap(), "before\nout\nout\n");
    assert_eq!(fs::read_to_string(err).unwrap(), "err\nerr\n");
}

async fn exit_codes_and_signals_are_told_apart() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        assert_eq!(world.runs(wrap(sh("exit 7"), far)).await, Exit::Code(7));
        assert_eq!(world.runs(wrap(sh("kill -TERM $$"), far)).await, Exit::Signal(15));
        assert_eq!(world.runs(wrap(sh("kill -40 $$"), far)).await, Exit::Signal(40), "real-time signals too");
    }
}

async fn a_signal_goes_to_the_main_process_only() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let note = world.path("note");
        let script = format!(
            "(trap 'echo child >>{0}; exit' USR1; touch {0}.a; while :; do sleep 0.01; done) & \
                              trap 'echo main >>{0}' USR1; touch {0}.b; \
                              while [ ! -s {0} ]; do sleep 0.01; done; sleep 0.05; exit 5",
            note.display()
        );
        let process = world.spawn(wrap(sh(&script), far));
        world.spawned(process).await;
        eventually("both are ready", || note.with_extension("a").exists() && note.with_extension("b").exists()).await;
        world.host.signal(process, libc::SIGUSR1, Reach::Main);
        assert_eq!(world.ends(process).await, Exit::Code(5));
        assert_eq!(fs::read_to_string(&note).unwrap(), "main\n");
        for file in [note.clone(), note.with_extension("a"), note.with_extension("b")] {
            fs::remove_file(file).unwrap();
        }
    }
}

async fn a_kill_takes_grandchildren_sessions_of_their_own_and_daemons() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let mark = mark();
        let process = world.spawn(wrap(sh(&brood(&mark, "wait")), far));
        world.spawned(process).await;
        eventually("all five sleep", || marked(&mark).len() == BROOD).await;
        let killed = Instant::now();
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
        println!("a tree of seven was gone {:?} after the kill", killed.elapsed());
        assert_eq!(marked(&mark), [0; 0], "Gone came before the tree was gone");
    }
}

async fn a_main_process_that_ends_takes_its_leftovers_along_before_gone() {
    let mut world = World::new();
    let far = world.far();
    // Again and again, because it is all about races: daemons in the middle of fork, setsid and exec.
    for round in 0..40 {
        for wrap in BOTH {
            let mark = mark();
            let process = world.spawn(wrap(sh(&brood(&mark, "exit 4")), far));
            world.spawned(process).await;
            assert_eq!(world.ends(process).await, Exit::Code(4));
            assert_eq!(marked(&mark), [0; 0], "Gone came before the tree was gone, in round {round}");
        }
    }
}

async fn a_forking_tree_is_outrun() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH.repeat(5) {
        let mark = mark();
        // Each process forks its successor, setsid and all, and ends at once.
        let script = "import os, sys\nfor i in range(100000):\n    if os.fork(): os._exit(0)\n    os.setsid()";
        let process = world.spawn(wrap(launch(["python3", "-c", script, &mark]), far));
        world.spawned(process).await;
        assert_eq!(world.ends(process).await, Exit::Code(0));
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn one_processs_end_leaves_the_daemons_of_another_alone() {
    let mut world = World::new();
    let (mine, others) = (mark(), mark());
    let other = world.spawn(sh(&brood(&others, "wait")));
    world.spawned(other).await;
    eventually("the other's are there", || marked(&others).len() == BROOD).await;
    let process = world.spawn(sh(&brood(&mine, "exit")));
    world.spawned(process).await;
    world.ends(process).await;
    assert_eq!(marked(&mine), [0; 0]);
    assert_eq!(marked(&others).len(), BROOD);
    world.host.kill(other);
    world.ends(other).await;
    assert_eq!(marked(&others), [0; 0]);
}

async fn orders_given_before_the_program_runs_are_carried_out_when_it_does() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let process = world.spawn(wrap(launch(["sleep", "1000"]), far));
        world.host.signal(process, libc::SIGINT, Reach::Main);
        world.spawned(process).await;
        assert_eq!(world.ends(process).await, Exit::Signal(2));
        let process = world.spawn(wrap(launch(["sleep", "1000"]), far));
        world.host.kill(process);
        world.spawned(process).await;
        assert_eq!(world.ends(process).await, Exit::Signal(9));
    }
}

async fn a_thousand_short_children_are_each_reported_once() {
    let mut world = World::new();
    let start = Instant::now();
    let processes: Vec<ProcessId> = (0..1000).map(|code| world.spawn(sh(&format!("exit {}", code % 200)))).collect();
    let mut told: BTreeMap<ProcessId, Vec<ProcessEvent>> = BTreeMap::new();
    while told.values().filter(|told| told.last() == Some(&ProcessEvent::Gone)).count() < processes.len() {
        let (process, event) = world.next().await;
        told.entry(process).or_default().push(event);
    }
    println!("1000 children came and went in {:?}", start.elapsed());
    for (code, process) in processes.iter().enumerate() {
        let told = &told[process];
        assert!(matches!(told[0], ProcessEvent::Spawned { .. }), "{told:?}");
        assert_eq!(told[1..], [ProcessEvent::Exited(Exit::Code(code as i32 % 200)), ProcessEvent::Gone]);
    }
    assert!(world.events.try_recv().is_err());
}

async fn a_dead_child_is_replaced_about_as_fast_as_a_program_starts() {
    let mut world = World::new();
    let far = world.far();
    for (name, wrap) in ["alone", "guarded"].into_iter().zip(BOTH) {
        let mut times = Vec::new();
        for _ in 0..100 {
            let start = Instant::now();
            let process = world.spawn(wrap(launch(["sleep", "1000"]), far));
            world.spawned(process).await;
            let running = start.elapsed();
            world.host.kill(process);
            world.ends(process).await;
            times.push((running, start.elapsed() - running));
        }
        times.sort();
        println!("{name}: spawn to Spawned, then kill to Gone: median {:?}, slowest {:?}", times[50], times[99]);
    }
}

async fn adopted_orphans_do_not_stay_as_zombies() {
    let mut world = World::new();
    let mark = mark();
    let process = world.spawn(sh(&format!("(setsid sh -c 'sleep 0.05 {mark}; :' &) ; exec sleep 1000")));
    let pid = world.spawned(process).await;
    eventually("the orphan was adopted, ended and was reaped", || {
        marked(&mark).is_empty() && children_of(std::process::id()) == [pid]
    })
    .await;
    world.host.kill(process);
    world.ends(process).await;
}

async fn a_guarded_child_is_killed_at_its_deadline_without_a_word_from_us() {
    let mut world = World::new();
    let mark = mark();
    let kill = clock::now() + Duration::from_millis(300);
    let deadline = Deadline { stop: kill - Duration::from_millis(100), kill };
    let script = format!("trap : TERM; {}", brood(&mark, "while :; do sleep 0.01; done"));
    let process = world.spawn(guarded(sh(&script), deadline));
    // This agent is stopped from here on: it only listens.
    world.spawned(process).await;
    eventually("its tree is there", || marked(&mark).len() >= BROOD).await;
    assert_eq!(world.ends(process).await, Exit::Signal(9));
    let late = clock::now().since(kill);
    println!("gone {late:?} after the deadline");
    assert!(clock::now() >= kill, "not before it");
    assert_eq!(marked(&mark), [0; 0]);
}

async fn a_guarded_child_is_asked_to_stop_once_at_the_stop_deadline() {
    let mut world = World::new();
    let note = world.path("note");
    let stop = clock::now() + Duration::from_millis(200);
    let script = format!(
        "trap 'echo asked >>{}; [ $n = 2 ] && exit 6' USR2; n=1; touch {1}; \
                          while :; do sleep 0.01; done",
        note.display(),
        world.path("ready").display()
    );
    let mut asked = sh(&script);
    asked.stop_signal = libc::SIGUSR2;
    let process = world.spawn(guarded(asked, Deadline { stop, kill: stop + Duration::from_millis(300) }));
    world.spawned(process).await;
    // An agent that sees the same deadline sends the same signal.
    eventually("it was asked", || note.exists()).await;
    world.host.signal(process, libc::SIGUSR2, Reach::Main);
    assert_eq!(world.ends(process).await, Exit::Signal(9), "it did not obey, so it was killed");
    assert_eq!(fs::read_to_string(note).unwrap(), "asked\n");
}

async fn a_moved_deadline_keeps_the_child_alive_and_one_that_passed_does_not_start_it() {
    let mut world = World::new();
    let step = Duration::from_millis(150);
    let until = |now: Time| Deadline { stop: now + step, kill: now + step * 2 };
    let process = world.spawn(guarded(launch(["sleep", "1000"]), until(clock::now())));
    world.spawned(process).await;
    let start = clock::now();
    let mut alarm = Alarm::new().unwrap();
    let mut last = until(start);
    while clock::now().since(start) < step * 6 {
        last = until(clock::now());
        world.host.guard(process, last);
        alarm.set(Some(clock::now() + step / 5)).unwrap();
        alarm.rang().await;
        assert!(world.events.try_recv().is_err(), "it ended early");
    }
    assert_eq!(world.ends(process).await, Exit::Signal(15));
    assert!(clock::now() >= last.stop);

    let failed = world.fails(guarded(sh("true"), Deadline { stop: start, kill: start })).await;
    assert_eq!(failed.to_string(), "spawn failed at guard: ETIME: the lease ended before the start");
}

async fn a_deadline_that_comes_after_the_kill_changes_nothing() {
    let mut world = World::new();
    let process = world.spawn(guarded(launch(["sleep", "1000"]), world.far()));
    world.spawned(process).await;
    world.host.kill(process);
    world.host.guard(process, world.far());
    assert_eq!(world.ends(process).await, Exit::Signal(9));
}

async fn a_guarded_childs_failure_to_start_is_told_like_any_other() {
    let mut world = World::new();
    let far = world.far();
    let failed = world.fails(guarded(launch(["/bin/nosuch"]), far)).await;
    assert_eq!(failed.to_string(), r#"spawn failed at exec("/bin/nosuch"): ENOENT: No such file or directory"#);
    let mut away = guarded(sh("true"), far);
    with(&mut away, |program| program.working_dir = Some("/nosuch".into()));
    assert_eq!(world.fails(away).await.stage, r#"chdir("/nosuch")"#);

    let mut world = World::guarded_by("/nosuch/agent");
    assert_eq!(world.fails(guarded(sh("true"), far)).await.stage, r#"guard exec("/nosuch/agent")"#);
}

async fn a_program_that_is_no_guard_is_a_failed_start() {
    let mut world = World::guarded_by("/bin/true");
    let failed = world.fails(guarded(sh("true"), world.far())).await;
    assert_eq!(
        failed.to_string(),
        "spawn failed at guard: ECHILD: the guard ended before it started the program (exit 0)"
    );
}

async fn a_killed_guard_takes_the_child_along_and_the_agent_its_orphans() {
    let mut world = World::new();
    for _ in 0..10 {
        let mark = mark();
        let process = world.spawn(guarded(sh(&brood(&mark, "wait")), world.far()));
        let pid = world.spawned(process).await;
        eventually("its tree is there", || marked(&mark).len() == BROOD).await;
        send(parent_of(pid), Signal::SIGKILL);
        assert_eq!(world.ends(process).await, Exit::Lost);
        assert!(!exists(pid));
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn a_guard_hears_no_signal_but_kill() {
    let mut world = World::new();
    let process = world.spawn(guarded(launch(["sleep", "1000"]), world.far()));
    let pid = world.spawned(process).await;
    let guard = parent_of(pid);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGTSTP] {
        send(guard, signal);
    }
    world.host.signal(process, libc::SIGHUP, Reach::Main);
    assert_eq!(world.ends(process).await, Exit::Signal(1), "it was still there to pass this on");
}

async fn a_stopped_guard_still_obeys_a_kill_and_does_not_hold_up_the_agent() {
    let mut world = World::new();
    let process = world.spawn(guarded(launch(["sleep", "1000"]), world.far()));
    let guard = parent_of(world.spawned(process).await);
    send(guard, Signal::SIGSTOP);
    eventually("the guard is stopped", || stat(guard, 3).as_deref() == Some("T")).await;
    for _ in 0..50_000 {
        world.host.guard(process, world.far());
        tokio::task::yield_now().await;
    }
    assert_eq!(world.runs(sh("exit 2")).await, Exit::Code(2));
    world.host.kill(process);
    assert_eq!(world.ends(process).await, Exit::Signal(9));
}

async fn a_guard_keeps_nothing_open_and_stands_apart() {
    let mut world = World::new();
    let mut sleeper = launch(["sleep", "1000"]);
    with(&mut sleeper, |program| program.stdout = Output::file("/dev/full"));
    let process = world.spawn(guarded(sleeper, world.far()));
    let pid = world.spawned(process).await;
    let guard = parent_of(pid);
    eventually("it has let go of its surroundings", || {
        (0..3).all(|fd| fs::read_link(format!("/proc/{guard}/fd/{fd}")).unwrap() == Path::new("/dev/null"))
            && fs::read_link(format!("/proc/{guard}/cwd")).unwrap() == Path::new("/")
    })
    .await;
    assert_eq!(fs::read_to_string(format!("/proc/{guard}/comm")).unwrap(), "circus-guard\n");
    assert_eq!(fs::read(format!("/proc/{guard}/cmdline")).unwrap(), b"circus-guard\0test\0");
    assert_eq!(stat(guard, 6).unwrap(), guard.to_string());
    // Not everybody may: then it stays as it was.
    let ours = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let may = fs::write("/proc/self/oom_score_adj", "-1000").is_ok();
    eventually("it is the last to be taken when memory is short", || {
        !may || fs::read_to_string(format!("/proc/{guard}/oom_score_adj")).unwrap() == "-1000\n"
    })
    .await;
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), ours, "but its child is not");
    assert_eq!(fs::read_dir(format!("/proc/{guard}/task")).unwrap().count(), 1, "it has one thread");
    world.host.kill(process);
    world.ends(process).await;
}

async fn a_guard_lets_go_of_the_sockets_that_it_passes_on() {
    let mut world = World::new();
    let paths = ["a", "b", "stdin"].map(|name| world.path(name));
    // Of datagrams: one may ask for such a socket as often as one likes, and nothing waits in it.
    let [a, b, stdin] =
        world.binds(paths.clone().map(|path| SocketSpec { kind: SocketKind::Datagram, ..unix(path) })).await;
    let closed = world.path("closed");
    let script = format!(
        "import os, time\nfor fd in (0, 3, 4): os.close(fd)\nopen('{}', 'w').close()\ntime.sleep(1000)",
        closed.display()
    );
    let launch = Launch { sockets: vec![a, b], stdin: Some(stdin), ..guarded(python(&script), world.far()) };
    let process = world.spawn(acking(launch));
    world.spawned(process).await;
    eventually("the child has closed its own", || closed.exists()).await;
    // Through other names, since those of the agent's own go with its descriptors.
    let links = ["a2", "b2", "stdin2"].map(|name| world.path(name));
    for (path, link) in paths.iter().zip(&links) {
        fs::hard_link(path, link).unwrap();
    }
    world.host.unbind(&[a.socket, b.socket, stdin.socket]);
    let is_gone = |link: &PathBuf| UnixDatagram::unbound().unwrap().connect(link).is_err();
    eventually("nobody has them any more", || links.iter().all(is_gone)).await;
    world.host.kill(process);
    world.ends(process).await;
}

async fn what_a_guard_holds_is_released_only_after_the_tree_is_gone() {
    let mut world = World::new();
    let file = world.path("lock");
    File::create(&file).unwrap();
    let free = || File::open(&file).unwrap().try_lock().is_ok();
    for kill_guard in [false, true] {
        let mark = mark();
        let lock = File::open(&file).unwrap();
        lock.lock().unwrap();
        let launch = guarded(sh(&brood(&mark, "wait")), world.far());
        let process = world.spawn_holding(&launch, Some(lock.into()));
        let pid = world.spawned(process).await;
        eventually("its tree is there", || marked(&mark).len() == BROOD).await;
        assert!(!free());
        match kill_guard {
            false => world.host.kill(process),
            true => send(parent_of(pid), Signal::SIGKILL),
        }
        while !free() {
            tokio::task::yield_now().await;
        }
        assert_eq!(marked(&mark), [0; 0], "the lock was free before the tree was gone");
        world.ends(process).await;
    }
}

async fn an_agent_that_is_killed_leaves_nothing_behind() {
    let world = World::new();
    for (role, processes, stop_guard) in
        [("agent-guarded", BROOD, false), ("agent-guarded", BROOD, true), ("agent-alone", 1, false)]
    {
        let mark = mark();
        let mut agent = Command::new(std::env::current_exe().unwrap())
            .args([ROLE, role])
            .env("MARK", &mark)
            .env("TMPDIR", world.dir.path())
            .spawn()
            .unwrap();
        eventually("its child's tree is there", || marked(&mark).len() == processes).await;
        // The guard, or the child itself.
        let children = children_of(agent.id());
        assert_eq!(children.len(), 1);
        if stop_guard {
            send(children[0], Signal::SIGSTOP);
            eventually("the guard is stopped", || stat(children[0], 3).as_deref() == Some("T")).await;
        }
        agent.kill().unwrap();
        let killed = Instant::now();
        eventually("all are gone", || marked(&mark).is_empty()).await;
        println!("{role}: the tree was gone {:?} after its agent was killed", killed.elapsed());
        // The host reaps whatever else its main thread has for children, and may have been quicker.
        let _ = agent.wait();
        eventually("and so is the guard", || !exists(children[0])).await;
    }
    drop(world);
}

async fn a_guard_that_is_told_nothing_or_garbage_ends() {
    // A shell puts the socket, its standard input, where a guard looks for it.
    let script = "exec -a circus-guard \"$0\" test 3<&0";
    for words in [&b""[..], b"\0\0\0\x02{]", b"\xff\xff\xff\xff"] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let guard = Command::new("bash")
            .args(["-c", script, env!("CARGO_BIN_EXE_circus-agent")])
            .stdin(OwnedFd::from(theirs))
            .spawn();
        ours.write_all(words).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        ours.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
        assert!(guard.unwrap().wait().unwrap().success());
    }
}

async fn a_signal_reaches_whom_it_is_meant_for_and_nobody_else() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let note = world.path("note");
        let script = "
import os, signal, sys
def tell(*words):
    with open(sys.argv[1], 'a') as note: note.write(' '.join(map(str, words)) + '\\n')
def become(name, *children):
    for child in children:
        if os.fork() == 0: become(*child)
    for number in (signal.SIGUSR1, signal.SIGUSR2): signal.signal(number, lambda number, _: tell(name, number))
    tell(name, os.getpid())
    while True: signal.pause()
become('main', ('a', ('a1',)), ('b',))";
        let process = world.spawn(wrap(launch(["python3", "-c", script, note.to_str().unwrap()]), far));
        world.spawned(process).await;
        let lines = || fs::read_to_string(&note).unwrap_or_default().lines().map(String::from).collect::<Vec<_>>();
        eventually("all four are there", || lines().len() == 4).await;
        let pid = |name: &str| {
            let line = lines().into_iter().find(|line| line.split(' ').next() == Some(name));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u32>().unwrap()
        };
        let (a, a1) = (pid("a"), pid("a1"));
        for (reach, reached) in [
            (Reach::Main, &["main"][..]),
            (Reach::Children, &["a", "b"]),
            (Reach::MainAndChildren, &["a", "b", "main"]),
            (Reach::Tree, &["a", "a1", "b", "main"]),
            (Reach::Child(a), &["a"]),
            (Reach::Child(a1), &[]),
            (Reach::Child(std::process::id()), &[]),
            (Reach::Child(u32::MAX), &[]),
        ] {
            fs::write(&note, "").unwrap();
            world.host.signal(process, 0, Reach::Tree);
            world.host.signal(process, libc::SIGUSR1, reach);
            // A second one for all: who got the first has seen to it by then.
            world.host.signal(process, libc::SIGUSR2, Reach::Tree);
            let of = |signal: i32| {
                let told =
                    lines().into_iter().filter_map(move |line| Some(line.strip_suffix(&format!(" {signal}"))?.into()));
                told.collect::<std::collections::BTreeSet<String>>()
            };
            eventually("all have seen the second", || of(libc::SIGUSR2).len() == 4).await;
            assert_eq!(Vec::from_iter(of(libc::SIGUSR1)), reached, "{reach:?}");
        }
        world.host.signal(process, libc::SIGTERM, Reach::Main);
        assert_eq!(world.ends(process).await, Exit::Signal(15));
        fs::remove_file(note).unwrap();
    }
}

async fn children_hear_of_a_stop_though_their_parent_ends_at_once() {
    // A cgroup would end them with their parent, before they could tell.
    trees::look();
    let mut world = World::new();
    for reach in [Reach::MainAndChildren, Reach::Tree] {
        let note = world.path("note");
        // The child is known by nothing but its parent, and so is out of reach of whoever comes after the parent's end.
        let script = format!(
            "env -i PATH=\"$PATH\" setsid sh -c 'trap \"echo heard >>{0}; exit\" TERM; touch {0}; \
             while :; do sleep 0.01; done' & wait; sleep 1000",
            note.display()
        );
        for _ in 0..10 {
            let process = world.spawn(sh(&script));
            world.spawned(process).await;
            eventually("the child listens", || note.exists()).await;
            world.host.signal(process, libc::SIGTERM, reach);
            assert_eq!(world.ends(process).await, Exit::Signal(15));
            eventually("the child heard of it", || fs::read_to_string(&note).unwrap() == "heard\n").await;
            fs::remove_file(&note).unwrap();
        }
    }
}

async fn a_guarded_childs_children_hear_of_a_stop_that_its_deadline_has_asked_it_for() {
    let mut world = World::new();
    let note = world.path("note");
    let stop = clock::now() + Duration::from_millis(200);
    let trap = |name: &str| format!("trap 'echo {name} >>{}' USR2", note.display());
    let script = format!(
        "({}; while :; do sleep 0.01; done) & {}; touch {}; while :; do sleep 0.01; done",
        trap("child"),
        trap("main"),
        world.path("ready").display()
    );
    let mut asked = sh(&script);
    asked.stop_signal = libc::SIGUSR2;
    let process = world.spawn(guarded(asked, Deadline { stop, kill: stop + Duration::from_secs(1000) }));
    world.spawned(process).await;
    let told = || fs::read_to_string(&note).unwrap_or_default();
    eventually("the deadline has asked it", || told() == "main\n").await;
    world.host.signal(process, libc::SIGUSR2, Reach::MainAndChildren);
    eventually("its child was asked, and itself not again", || told() == "main\nchild\n").await;
    world.host.kill(process);
    world.ends(process).await;
    assert_eq!(told(), "main\nchild\n");
}

async fn systemd_notify_says_that_a_process_is_ready_and_comes_back_at_once() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let back = world.path("back");
        // It fails where its barrier is not answered within five seconds.
        let script = format!("systemd-notify --ready --status='all is well' && touch {}; sleep 1000", back.display());
        let process = world.spawn(wrap(heard(sh(&script)), far));
        world.spawned(process).await;
        assert_eq!(world.notified(process).await, Notification::Ready);
        assert_eq!(world.notified(process).await, Notification::Status("all is well".into()));
        let start = Instant::now();
        eventually("it came back", || back.exists()).await;
        println!("systemd-notify came back {:?} after its word", start.elapsed());
        fs::remove_file(back).unwrap();
        world.host.kill(process);
        world.ends(process).await;
    }
}

async fn what_a_process_says_is_reported_and_what_makes_no_sense_is_not() {
    let mut world = World::new();
    let far = world.far();
    let script = format!(
        "{SAY}
for message in (b'READY=1', b'', b'\\xff\\n\\n=', b'READY=2', b'X' * 5000 + b'\\nSTOPPING=1', b'STATUS=' + b'x' * 900):
    say(message)
# A grandchild speaks for it as well.
if os.fork() == 0:
    say(b'WATCHDOG=trigger\\nMAINPID=1\\nSTOPPING=1')
    os._exit(0)
os.wait()
say(b'STATUS=a\\tb\\nWATCHDOG=1')"
    );
    for wrap in BOTH {
        let process = world.spawn(wrap(heard(python(&script)), far));
        world.spawned(process).await;
        let mut said = Vec::new();
        let end = loop {
            match world.next_of(process).await {
                ProcessEvent::Notified(word) => said.push(word),
                end => break end,
            }
        };
        assert_eq!(end, ProcessEvent::Exited(Exit::Code(0)));
        assert_eq!(world.gone(process).await, ProcessEvent::Gone);
        // Of statuses that were read together, the last counts.
        said.retain(|word| *word != Notification::Status("x".repeat(200)));
        let status = Notification::Status("a b".into());
        let all = [Notification::Ready, Notification::Trigger, Notification::Stopping, status, Notification::Alive];
        assert_eq!(said, all);
    }
}

async fn descriptors_sent_with_a_message_are_closed() {
    let mut world = World::new();
    let script = format!(
        "{SAY}
import array
ours, theirs = socket.socketpair()
for message in (b'FDSTORE=1\\nFDNAME=x', b'BARRIER=1', b'nonsense'):
    fds = array.array('i', [theirs.fileno()] * 3)
    line.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
theirs.close()
# Comes back when nobody holds the other end any more.
ours.recv(1)
say(b'READY=1')
ours.recv(1)
import time; time.sleep(1000)"
    );
    let process = world.spawn(heard(python(&script)));
    world.spawned(process).await;
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    assert_eq!(world.notified(process).await, Notification::Ready);
    assert_eq!(descriptors(), before);
    world.host.kill(process);
    world.ends(process).await;
}

async fn a_process_that_floods_its_socket_is_alone_in_waiting() {
    let mut world = World::new();
    let process = world.spawn(heard(python(&format!("{SAY}while True: say(b'WATCHDOG=1')"))));
    world.spawned(process).await;
    let start = Instant::now();
    assert_eq!(world.notified(process).await, Notification::Alive);
    for code in 0..20 {
        assert_eq!(world.runs(sh(&format!("exit {code}"))).await, Exit::Code(code));
    }
    let windows = start.elapsed().as_millis() as usize / 50 + 2;
    assert!(world.told.len() <= windows * 16, "{} in {windows} windows of 50 ms", world.told.len());
    world.told.retain(|(of, event)| *of != process || *event != ProcessEvent::Notified(Notification::Alive));
    world.host.kill(process);
    while world.next_of(process).await != ProcessEvent::Gone {}
}

async fn the_last_words_of_a_process_come_before_its_end() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let process = world.spawn(wrap(heard(python(&format!("{SAY}say(b'STATUS=no database'); os._exit(3)"))), far));
        let pid = world.spawned(process).await;
        // This agent is busy until all has happened.
        while exists(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(world.notified(process).await, Notification::Status("no database".into()));
        assert_eq!(world.ends(process).await, Exit::Code(3));
    }
    for (wrap, by) in BOTH.into_iter().flat_map(|wrap| [(wrap, "path"), (wrap, "line")]) {
        let process = world.spawn(wrap(acking(python(&format!("{ACK}{by}().sendall(ack); os._exit(3)"))), far));
        let pid = world.spawned(process).await;
        while exists(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(world.notified(process).await, Notification::Ack);
        assert_eq!(world.ends(process).await, Exit::Code(3));
    }
}

async fn an_ack_is_heard_by_path_and_by_descriptor_and_told_once() {
    let mut world = World::new();
    let far = world.far();
    let [web] = world.binds([unix(world.path("socket"))]).await;
    // The first as einhorn's own library writes it.
    for (by, dialect) in [
        ("path", "b'---%%0Acommand: worker:ack%%0Apid: %d%%0A\\n' % os.getpid()"),
        ("path", "b'{\"command\":\"worker:ack\",\"pid\":%d}\\n' % os.getpid()"),
        ("line", "b'{command: worker:ack, pid: %d}\\n' % os.getpid()"),
    ] {
        for wrap in BOTH {
            let script = format!(
                "{ACK}
assert os.environ['EINHORN_SOCK_FD'] == '4'
# Comes back when it is closed.
def says(connection, words):
    connection.sendall(words)
    return connection.recv(1)
assert says({by}(), {dialect}) == b''
# Whoever comes later finds somebody.
assert says(path(), ack) == says(path(), b'{{\"command\":\"worker:ping\",\"pid\":7}}\\n') == b''"
            );
            let launch = Launch { sockets: vec![web], ..wrap(acking(python(&script)), far) };
            let process = world.spawn(launch);
            world.spawned(process).await;
            assert_eq!(world.notified(process).await, Notification::Ack);
            assert_eq!(world.ends(process).await, Exit::Code(0));
        }
    }
}

async fn an_ack_is_heard_after_nonsense_and_beside_silence() {
    let mut world = World::new();
    let far = world.far();
    let nonsense = "(b'\\n', b'\\xff\\0\\n', b'READY=1\\n', b'worker:ack\\n', b'{\"command\":\"die\",\"pid\":7}\\n', \
                    b'[' * 900 + b'\\n')";
    let script = format!(
        "{ACK}
import array, time
silent = [path() for _ in range(100)]
begun = path(); begun.sendall(ack[:9])
one = line()
for words in {nonsense}:
    path().sendall(words)
    one.sendall(words)
# More than anybody wants to hear.
for _ in range(20):
    try: path().sendall(b'x' * 100000)
    except OSError: pass
ours, theirs = socket.socketpair()
for connection in (path(), one):
    connection.sendmsg([b'x\\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [theirs.fileno()]))])
theirs.close()
assert ours.recv(1) == b''
"
    );
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    for wrap in BOTH {
        for by in ["path()", "one"] {
            let before = descriptors();
            let process =
                world.spawn(wrap(acking(python(&format!("{script}{by}.sendall(ack); time.sleep(1000)"))), far));
            world.spawned(process).await;
            assert_eq!(world.notified(process).await, Notification::Ack);
            assert!(descriptors() < before + 30, "as many as were silent are open");
            world.host.kill(process);
            assert_eq!(world.ends(process).await, Exit::Signal(9));
        }
    }
}

async fn a_process_that_floods_its_ack_socket_is_alone_in_waiting() {
    let mut world = World::new();
    let script = format!(
        "{ACK}
import time
start = time.monotonic()
for _ in range(80):
    one = path()
    one.sendall(b'{{\"command\":\"worker:ping\",\"pid\":7}}\\n')
    assert one.recv(1) == b''
print(time.monotonic() - start)"
    );
    let mut flood = acking(python(&script));
    let file = world.path("took");
    with(&mut flood, |program| program.stdout = Output::file(file.clone()));
    let process = world.spawn(flood);
    world.spawned(process).await;
    for code in 0..20 {
        assert_eq!(world.runs(sh(&format!("exit {code}"))).await, Exit::Code(code));
    }
    assert_eq!(world.ends(process).await, Exit::Code(0));
    // Each connection counts, and what is said in it: 160 things, and 16 are heard in each window of 50 ms.
    let took: f64 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    assert!(took > 0.4, "{took}");
}

async fn only_who_is_listened_to_gets_a_socket_and_nothing_is_left_of_it() {
    let mut world = World::new();
    let far = world.far();
    let dir = world.path("notify");
    let left = dir.join("1");
    fs::create_dir(&dir).unwrap();
    fs::write(&left, "of an earlier run").unwrap();
    for wrap in BOTH {
        let show = "env | grep -e ^NOTIFY -e ^WATCHDOG -e ^EINHORN | sort";
        assert_eq!(world.says(wrap(sh(show), far)).await, "");
        let mut watched = heard(sh(show));
        watched.signs.watchdog = Some(Duration::from_millis(1500));
        let said = world.says(wrap(watched, far)).await;
        let path = dir.join(world.spawned.to_string());
        assert_eq!(said, format!("NOTIFY_SOCKET={}\nWATCHDOG_USEC=1500000\n", path.display()));
        assert!(!path.exists());
        let said = world.says(wrap(acking(sh(show)), far)).await;
        let path = dir.join(format!("{}.ack", world.spawned));
        assert_eq!(said, format!("EINHORN_SOCK_FD=3\nEINHORN_SOCK_PATH={}\n", path.display()));
        assert!(!path.exists());
    }
    assert!(dir.exists() && !left.exists());
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o711);
    let mut failing = acking(heard(launch(["/bin/nosuch"])));
    assert!(world.fails(failing.clone()).await.stage.starts_with("exec"));
    failing.guard = Some(far);
    assert!(world.fails(failing).await.stage.starts_with("exec"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    drop(world.host);
    eventually("the directory went with the host", || !dir.exists()).await;
}

async fn a_child_that_is_another_user_may_speak_too() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    // Whatever the agent's own mask is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let mut world = World::new();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let far = world.far();
    for wrap in BOTH {
        let mut other =
            acking(heard(python(&format!("{SAY}{ACK}one = path(); one.sendall(ack); one.recv(1); say(b'READY=1')"))));
        with(&mut other, |program| program.user = Some(user(65534, 65534, Some("nobody"))));
        let process = world.spawn(wrap(other, far));
        world.spawned(process).await;
        assert_eq!(world.notified(process).await, Notification::Ack);
        assert_eq!(world.notified(process).await, Notification::Ready);
        assert_eq!(world.ends(process).await, Exit::Code(0));
    }
}

async fn a_directory_of_another_user_or_too_long_a_path_fails_the_start() {
    let world = World::new();
    let long = world.path(&"x".repeat(100));
    let (sender, events) = mpsc::channel(64);
    let host = Host::new(sender, long.clone(), &[]).unwrap();
    let mut world = World { host, events, ..world };
    let failed = world.fails(heard(sh("true"))).await;
    assert_eq!(failed.stage, format!("notify bind({:?})", long.join("1")));
    assert!(failed.error.starts_with("ENAMETOOLONG"), "{failed}");
    assert!(!long.exists());

    if !geteuid().is_root() {
        return println!("the rest needs root");
    }
    let mut world = World::new();
    let dir = world.path("notify");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(65534), None).unwrap();
    let failed = world.fails(heard(sh("true"))).await;
    let error = "EEXIST: it is there and no directory of this agent's user; remove it";
    assert_eq!(failed.to_string(), format!("spawn failed at notify mkdir({dir:?}): {error}"));
}

async fn a_tcp_check_asks_whether_somebody_listens() {
    let mut world = World::new();
    let process = world.spawn(launch(["sleep", "1000"]));
    world.spawned(process).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(world.checks(process, Check::Tcp { host: host.into(), port }).await, Ok(()));
    }
    drop(listener);
    let refused = world.checks(process, Check::Tcp { host: "127.0.0.1".into(), port }).await;
    assert_eq!(refused, Err(format!("connect 127.0.0.1:{port}: Connection refused")));
    let unknown = world.checks(process, Check::Tcp { host: "no.such.host.invalid".into(), port }).await;
    assert!(unknown.unwrap_err().starts_with(&format!("connect no.such.host.invalid:{port}: ")));
    world.host.kill(process);
    world.ends(process).await;
}

async fn an_http_check_goes_by_the_status() {
    let mut world = World::new();
    let file = world.path("port");
    let script = "
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/garbage': return self.wfile.write(b'SSH-2.0-x\\r\\n')
        if self.path == '/silence': return
        if self.path == '/slow': return time.sleep(1000)
        right = (f'127.0.0.1:{self.server.server_port}', 'close') == (self.headers['Host'], self.headers['Connection'])
        self.send_response(int(self.path[1:]) if right else 400)
        self.end_headers()
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
with open(sys.argv[1] + '.new', 'w') as file: file.write(str(server.server_port))
os.rename(sys.argv[1] + '.new', sys.argv[1])
server.serve_forever()";
    let process = world.spawn(launch(["python3", "-c", script, file.to_str().unwrap()]));
    world.spawned(process).await;
    eventually("it listens", || file.exists()).await;
    let port: u16 = fs::read_to_string(file).unwrap().parse().unwrap();
    let get = |path: &str| Check::Http(Url { host: "127.0.0.1".into(), port, path: path.into() });
    let err = |path: &str, why: &str| Err(format!("GET http://127.0.0.1:{port}{path}: {why}"));
    for path in ["/200", "/204", "/302"] {
        assert_eq!(world.checks(process, get(path)).await, Ok(()), "{path}");
    }
    for (path, why) in [
        ("/503", "503 Service Unavailable"),
        ("/404", "404 Not Found"),
        ("/garbage", "this is not HTTP: \"SSH-2.0-x\""),
        ("/silence", "closed without an answer"),
    ] {
        assert_eq!(world.checks(process, get(path)).await, err(path, why));
    }
    let start = Instant::now();
    world.host.check(process, Purpose::Health, get("/slow"), Duration::from_millis(200));
    assert_eq!(world.checked(process).await, err("/slow", "no answer within 200ms"));
    assert!(start.elapsed() < NEVER);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Check::Http(Url { host: "127.0.0.1".into(), port: free, path: "/".into() });
    let refused = Err(format!("GET http://127.0.0.1:{free}/: connect: Connection refused"));
    assert_eq!(world.checks(process, nobody).await, refused);
    world.host.kill(process);
    world.ends(process).await;
}

async fn a_command_check_runs_as_the_process_does_and_leaves_nothing_behind() {
    let mut world = World::new();
    let far = world.far();
    let [web] = world.binds([unix(world.path("socket"))]).await;
    for wrap in BOTH {
        let mut sleeper = Launch { sockets: vec![web], ..wrap(acking(launch(["sleep", "1000"])), far) };
        with(&mut sleeper, |program| {
            program.working_dir = Some("/usr".into());
            program.env = [("FROM_PROGRAM".into(), "x y".into())].into();
            if geteuid().is_root() {
                program.user = Some(user(65534, 65534, Some("nobody")));
            }
        });
        sleeper.env = vec![("CIRCUS_WID".into(), "7".into())];
        sleeper.socket_env = vec![("LISTEN_FDS".into(), "1".into())];
        sleeper.pids = vec![("LISTEN_PID", Whose::Own)];
        let process = world.spawn(sleeper);
        world.spawned(process).await;
        let cmd = |script: &str| Check::Command(["sh", "-c", script].map(String::from).into());
        let as_it = "test \"$FROM_PROGRAM-$CIRCUS_WID-$(pwd)\" = 'x y-7-/usr'";
        assert_eq!(world.checks(process, cmd(as_it)).await, Ok(()));
        let has_no_sockets = "! env | grep -q -e ^LISTEN -e ^EINHORN && exec test $(ls /proc/self/fd | wc -l) = 4";
        assert_eq!(world.checks(process, cmd(has_no_sockets)).await, Ok(()));
        if geteuid().is_root() {
            assert_eq!(world.checks(process, cmd("test $(id -u) = 65534")).await, Ok(()));
        }
        let failed = world.checks(process, cmd("echo one >&2; echo 'no database' >&2; echo; exit 3")).await;
        assert_eq!(failed, Err("exit 3: no database".into()));
        assert_eq!(world.checks(process, cmd("kill -9 $$")).await, Err("killed by SIGKILL".into()));
        let missing = world.checks(process, Check::Command(vec!["/bin/nosuch".into()])).await;
        let enoent = "spawn failed at exec(\"/bin/nosuch\"): ENOENT: No such file or directory";
        assert_eq!(missing, Err(enoent.into()));

        let mark = mark();
        assert_eq!(world.checks(process, cmd(&brood(&mark, "exit 0"))).await, Ok(()));
        eventually("what it left behind is gone", || marked(&mark).is_empty()).await;
        let slow = cmd(&brood(&mark, "echo waiting for godot >&2; wait"));
        world.host.check(process, Purpose::Health, slow, Duration::from_millis(500));
        let failed = world.checked(process).await;
        assert_eq!(failed, Err("did not end within 0.5 s: waiting for godot".into()));
        eventually("all of its tree is gone", || marked(&mark).is_empty()).await;
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
    }
}

async fn each_check_is_answered_once_and_none_after_the_end() {
    let mut world = World::new();
    let far = world.far();
    for wrap in BOTH {
        let process = world.spawn(wrap(launch(["sleep", "1000"]), far));
        world.spawned(process).await;
        let (gate, mark) = (world.path("gate"), mark());
        let wait = format!("while [ ! -e {} ]; do sleep 0.01 {mark}; done", gate.display());
        let wait = || Check::Command(["sh", "-c", &wait].map(String::from).into());
        for purpose in [Purpose::Health, Purpose::Health, Purpose::Ready, Purpose::Health] {
            world.host.check(process, purpose, wait(), NEVER);
            tokio::task::yield_now().await;
        }
        fs::write(&gate, "").unwrap();
        let mut purposes = Vec::new();
        for _ in 0..2 {
            match world.next_of(process).await {
                ProcessEvent::Checked { purpose, result: Ok(()) } => purposes.push(purpose),
                other => panic!("{other:?}"),
            }
        }
        purposes.sort();
        assert_eq!(purposes, [Purpose::Ready, Purpose::Health]);
        // Another is made, since that one is over.
        assert_eq!(world.checks(process, wait()).await, Ok(()));
        let other = world.checks(process, Check::Log("ready".into())).await;
        assert_eq!(other, Err("log ready is not checked from outside".into()));

        fs::remove_file(&gate).unwrap();
        world.host.check(process, Purpose::Health, wait(), NEVER);
        eventually("it is being checked", || !marked(&mark).is_empty()).await;
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
        world.host.check(process, Purpose::Health, wait(), NEVER);
        eventually("the check ended with it", || marked(&mark).is_empty()).await;
        assert!(world.events.try_recv().is_err());
    }
}

async fn processes_are_sampled() {
    let mut world = World::new();
    let process = world.spawn(launch(["python3", "-c", "while True: pass"]));
    let pid = world.spawned(process).await;
    let name = || WatcherName::parse("test").unwrap();
    let mut usage = None;
    let start = Instant::now();
    while usage.as_ref().is_none_or(|usage: &circus_agent::model::command::Usage| usage.cpu_percent < 10.0) {
        assert!(start.elapsed() < NEVER, "no use of the processor was seen: {usage:?}");
        world.host.sample(RequestId(1), vec![(name(), 3, pid), (name(), 4, u32::MAX)]);
        let Some(Event::Sampled { request, samples }) = world.events.recv().await else { panic!("no samples") };
        assert_eq!(request, RequestId(1));
        assert_eq!((samples[0].wid, samples[0].pid, samples[1].pid), (3, pid, u32::MAX));
        assert_eq!(samples[1].usage, None);
        usage.clone_from(&samples[0].usage);
    }
    let usage = usage.unwrap();
    assert!(usage.program.starts_with("python3"), "{usage:?}");
    assert_eq!(usage.user, User::from_uid(geteuid()).unwrap().map_or_else(|| geteuid().to_string(), |user| user.name));
    assert!(usage.resident > 1 << 20 && usage.memory_percent > 0.0 && usage.age < NEVER, "{usage:?}");
    world.host.kill(process);
    world.ends(process).await;
}

async fn samples_show_children_and_theirs() {
    let mut world = World::new();
    let mark = mark();
    let process = world.spawn(sh(&format!("sleep 1000 {mark} & sh -c 'sleep 1000 {mark} & wait' & wait")));
    let pid = world.spawned(process).await;
    eventually("all are there", || marked(&mark).len() == 2).await;
    world.host.sample(RequestId(1), vec![(WatcherName::parse("test").unwrap(), 1, pid)]);
    let [sample] = &world.sampled().await[..] else { panic!("not one sample") };
    assert_eq!(sample.usage.as_ref().unwrap().program, "sh");
    let mut children: Vec<_> = sample.children.iter().map(|child| (child.usage.program.as_str(), child)).collect();
    children.sort_by_key(|(program, _)| *program);
    let [("sh", shell), ("sleep", sleeper)] = children[..] else { panic!("{sample:?}") };
    assert!(sleeper.children.is_empty());
    assert_eq!(children_of(pid).len(), 2);
    assert_eq!(shell.children.iter().map(|child| child.pid).collect::<Vec<_>>(), children_of(shell.pid));
    assert_eq!((shell.usage.cpu_percent, shell.children[0].usage.cpu_percent), (0.0, 0.0), "the first time");
    world.host.kill(process);
    world.ends(process).await;
}

async fn the_agent_itself_is_sampled() {
    let mut world = World::new();
    let process = world.spawn(launch(["sleep", "1000"]));
    let pid = world.spawned(process).await;
    world.host.sample_agent(RequestId(1));
    let [sample] = &world.sampled().await[..] else { panic!("not one sample") };
    assert_eq!((sample.watcher.as_str(), sample.wid, sample.pid), ("circus", 0, std::process::id()));
    assert!(sample.usage.as_ref().unwrap().program.starts_with("host-"), "{sample:?}");
    assert_eq!(sample.children.iter().map(|child| child.pid).collect::<Vec<_>>(), [pid]);
    world.host.kill(process);
    world.ends(process).await;
}

async fn an_alarm_rings_when_it_is_set_to_and_at_once_when_that_has_passed() {
    let mut alarm = Alarm::new().unwrap();
    let at = clock::now() + Duration::from_millis(30);
    alarm.set(Some(clock::now() + Duration::from_millis(5))).unwrap();
    alarm.set(Some(at)).unwrap();
    alarm.rang().await;
    assert!(clock::now() >= at);
    alarm.set(Some(Time::ZERO)).unwrap();
    alarm.rang().await;
    alarm.set(Some(Time::ZERO)).unwrap();
    alarm.set(None).unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(30), alarm.rang()).await;
    assert!(silent.is_err(), "it was switched off");
}

// ---- what the cases are told with ----------------------------------------------------------------------------------

/// A host, what it has told, and a directory for files.
struct World {
    host: Host,
    events: mpsc::Receiver<Event>,
    /// Told, but not yet asked about.
    told: VecDeque<(ProcessId, ProcessEvent)>,
    dir: TempDir,
    spawned: u64,
    /// Under which name its processes have their cgroups, where they have any.
    place: String,
}

/// The variable that has hosts look for trees, as where no cgroup can be had.
const LOOK: &str = "CIRCUS_TEST_LOOK";

impl World {
    fn new() -> World {
        World::made(env!("CARGO_BIN_EXE_circus-agent"), &mark())
    }

    fn guarded_by(program: &str) -> World {
        World::made(program, &mark())
    }

    fn placed(place: &str) -> World {
        World::made(env!("CARGO_BIN_EXE_circus-agent"), place)
    }

    fn made(program: &str, place: &str) -> World {
        let (sender, events) = mpsc::channel(64);
        let dir = TempDir::new().unwrap();
        let host =
            Host::new(sender, dir.path().join("notify"), &[]).unwrap().with_guard_program(program.as_ref()).unwrap();
        let host = if std::env::var_os(LOOK).is_some() { host } else { host.with_cgroups(place) };
        let place = place.replace('.', "_");
        World { host, events, told: VecDeque::new(), dir, spawned: 0, place }
    }

    /// Another one with cgroups of that name.
    fn another_host(&self, place: &str) -> Host {
        let (sender, _) = mpsc::channel(1);
        Host::new(sender, self.path("other-notify"), &[]).unwrap().with_cgroups(place)
    }

    /// All that has been told and not been asked about.
    fn all_told(&mut self) -> &VecDeque<(ProcessId, ProcessEvent)> {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Process(process, event) => self.told.push_back((process, event)),
                other => panic!("not of a process: {other:?}"),
            }
        }
        &self.told
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens sockets, to be handed to processes.
    async fn binds<const N: usize>(&mut self, specs: [SocketSpec; N]) -> [Handed; N] {
        let mut ids = (1..).map(SocketId);
        let sockets = specs.map(|spec| (ids.next().unwrap(), spec));
        let handed = sockets.each_ref().map(|(socket, _)| Handed { socket: *socket, lane: None });
        self.host.bind(BindId(1), sockets.into(), Vec::new());
        match self.events.recv().await {
            Some(Event::Bound { result: Ok(_), .. }) => handed,
            other => panic!("not open: {other:?}"),
        }
    }

    /// A deadline that does not matter.
    fn far(&self) -> Deadline {
        let far = clock::now() + Duration::from_secs(1000);
        Deadline { stop: far, kill: far }
    }

    #[expect(clippy::needless_pass_by_value, reason = "most are made in the call")]
    fn spawn(&mut self, launch: Launch) -> ProcessId {
        self.spawn_holding(&launch, None)
    }

    fn spawn_holding(&mut self, launch: &Launch, hold: Option<OwnedFd>) -> ProcessId {
        self.spawned += 1;
        let process = ProcessId(self.spawned);
        self.host.spawn(process, launch, hold);
        process
    }

    /// What happens next to any process.
    async fn next(&mut self) -> (ProcessId, ProcessEvent) {
        match self.events.recv().await {
            Some(Event::Process(process, event)) => (process, event),
            other => panic!("not of a process: {other:?}"),
        }
    }

    /// What happens next to this process.
    async fn next_of(&mut self, process: ProcessId) -> ProcessEvent {
        if let Some(at) = self.told.iter().position(|(of, _)| *of == process) {
            return self.told.remove(at).unwrap().1;
        }
        loop {
            match self.next().await {
                (of, event) if of == process => return event,
                other => self.told.push_back(other),
            }
        }
    }

    /// What it says next over its socket.
    async fn notified(&mut self, process: ProcessId) -> Notification {
        match self.next_of(process).await {
            ProcessEvent::Notified(said) => said,
            other => panic!("it said nothing: {other:?}"),
        }
    }

    /// How a check of it comes out.
    async fn checks(&mut self, process: ProcessId, check: Check) -> Result<(), String> {
        self.host.check(process, Purpose::Health, check, NEVER);
        self.checked(process).await
    }

    async fn checked(&mut self, process: ProcessId) -> Result<(), String> {
        match self.next_of(process).await {
            ProcessEvent::Checked { purpose: Purpose::Health, result } => result,
            other => panic!("no check: {other:?}"),
        }
    }

    async fn sampled(&mut self) -> Vec<Sample> {
        match self.events.recv().await {
            Some(Event::Sampled { samples, .. }) => samples,
            other => panic!("no samples: {other:?}"),
        }
    }

    async fn spawned(&mut self, process: ProcessId) -> u32 {
        match self.next_of(process).await {
            ProcessEvent::Spawned { pid } => pid,
            other => panic!("not spawned: {other:?}"),
        }
    }

    /// Waits for the end of the main process and then of its tree. A guard says since when that is so, too.
    async fn ends(&mut self, process: ProcessId) -> Exit {
        let exit = self.next_of(process).await;
        match (exit, self.gone(process).await) {
            (ProcessEvent::Exited(exit), ProcessEvent::Gone) => exit,
            other => panic!("not the end of a process: {other:?}"),
        }
    }

    /// What happens next to this process but its guard's word, which is not about what is to come.
    async fn gone(&mut self, process: ProcessId) -> ProcessEvent {
        match self.next_of(process).await {
            ProcessEvent::Empty { since } => {
                assert!(since <= clock::now(), "{since:?} is to come");
                self.next_of(process).await
            }
            event => event,
        }
    }

    async fn runs(&mut self, launch: Launch) -> Exit {
        let process = self.spawn(launch);
        self.spawned(process).await;
        self.ends(process).await
    }

    async fn fails(&mut self, launch: Launch) -> SpawnFailure {
        let process = self.spawn(launch);
        match self.next_of(process).await {
            ProcessEvent::SpawnFailed(failed) => failed,
            other => panic!("not a failure: {other:?}"),
        }
    }

    /// What it writes to its standard output.
    async fn says(&mut self, launch: Launch) -> String {
        self.says_holding(launch, None).await
    }

    async fn says_holding(&mut self, mut launch: Launch, hold: Option<OwnedFd>) -> String {
        let file = self.path("said");
        with(&mut launch, |program| program.stdout = Output::file(file.clone()));
        let process = self.spawn_holding(&launch, hold);
        self.spawned(process).await;
        self.ends(process).await;
        let said = fs::read_to_string(&file).unwrap();
        fs::remove_file(file).unwrap();
        said
    }
}

/// A child of the agent's own, and one with a guard: most promises hold for both.
const BOTH: [fn(Launch, Deadline) -> Launch; 2] = [|launch, _| launch, guarded];

fn guarded(mut launch: Launch, until: Deadline) -> Launch {
    launch.guard = Some(until);
    launch
}

/// One that is given einhorn's sockets to say that it is up.
fn acking(mut launch: Launch) -> Launch {
    launch.signs.ack = true;
    launch
}

/// One that is given a socket to say how it is.
fn heard(mut launch: Launch) -> Launch {
    launch.signs.notify = true;
    launch
}

fn python(script: &str) -> Launch {
    launch(["python3", "-c", script])
}

/// The beginning of a Python script that speaks over its socket with `say(bytes)`.
const SAY: &str = "import os, socket\nline = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                   line.connect(os.environ['NOTIFY_SOCKET'])\nsay = line.send\n";

/// The beginning of a Python script that has two ways to say `ack`: a new connection to `path()`, and one by `line()`.
const ACK: &str = "
import os, socket
def path():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ['EINHORN_SOCK_PATH'])
    return connection
def line(): return socket.socket(fileno=int(os.environ['EINHORN_SOCK_FD']))
ack = b'{\"command\":\"worker:ack\",\"pid\":%d}\\n' % os.getpid()
";

fn sh(script: &str) -> Launch {
    launch(["sh", "-c", script])
}

fn launch<const N: usize>(argv: [&str; N]) -> Launch {
    let program = ProgramSpec { copy_env: true, close_stdin: false, ..ProgramSpec::of(Vec::new()) };
    Launch {
        watcher: WatcherName::parse("test").unwrap(),
        wid: 1,
        argv: argv.map(String::from).into(),
        program: Arc::new(program),
        env: Vec::new(),
        socket_env: Vec::new(),
        pids: Vec::new(),
        sockets: Vec::new(),
        stdin: None,
        stop_signal: libc::SIGTERM,
        guard: None,
        legion: None,
        signs: Signs::default(),
    }
}

fn with(launch: &mut Launch, change: impl FnOnce(&mut ProgramSpec)) {
    change(Arc::make_mut(&mut launch.program));
}

fn unix(path: PathBuf) -> SocketSpec {
    SocketSpec { blocking: true, ..SocketSpec::at(SocketName::parse("s").unwrap(), Place::Unix(path)) }
}

fn user(uid: u32, gid: u32, name: Option<&str>) -> UserSpec {
    UserSpec { uid, gid, name: name.map(String::from) }
}

/// A word to know the processes of one case by, which `sleep` takes for a very short time.
fn mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("0.000000{:08}{:04}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The mark that a process of ours was started with; not as an argument, or it would count as marked itself.
fn given_mark() -> String {
    std::env::var("MARK").unwrap()
}

/// A script that starts a child, a grandchild, one in a session of its own and a double-forked daemon with a child:
/// [`BROOD`] marked processes; and goes on with `then`.
fn brood(mark: &str, then: &str) -> String {
    format!(
        "sleep 1000 {mark} & sh -c 'sleep 1000 {mark} & wait' & setsid sleep 1000 {mark} & \
         (setsid sh -c 'sleep 1000 {mark} & exec sleep 1000 {mark}' &); {then}"
    )
}

const BROOD: usize = 5;

/// The processes that have `mark` as an argument. One that has ended has no arguments.
fn marked(mark: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_marked = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == mark.as_bytes())
    };
    pids.filter(is_marked).collect()
}

fn parent_of(pid: u32) -> u32 {
    stat(pid, 4).unwrap().parse().unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Drops CAP_SETUID from this thread, leaving root with all other rights.
fn give_up_changing_users() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SETUID: u32 = 7;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable, the lower and then the upper 32.
    let mut sets = [0_u32; 6];
    // SAFETY: both are arrays of the size that version 3 asks for.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(read, 0);
    sets[0] &= !(1 << CAP_SETUID);
    sets[1] &= !(1 << CAP_SETUID);
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(written, 0);
}

// ---- how the cases are run -----------------------------------------------------------------------------------------

fn main() -> ExitCode {
    let all: Vec<Case> = [CASES, TREES, lords::BOTH_WAYS, trees::BOTH_WAYS, trees::BY_CGROUP].concat();
    cases::main(all.leak(), |role| {
        play(async {
            if ["agent-hidden", "agent-bomb"].contains(&role) {
                trees::play_agent(role).await;
            }
            if ["agent-legion", "agent-lord", "agent-hung-lord", "agent-slow-lord"].contains(&role) {
                lords::play_agent(role).await;
            }
            let mut world = World::new();
            match role {
                "agent-guarded" => world.spawn(guarded(sh(&brood(&given_mark(), "wait")), world.far())),
                "agent-alone" => world.spawn(launch(["sleep", "1000", &given_mark()])),
                other => panic!("no role {other}"),
            };
            while world.events.recv().await.is_some() {}
            ExitCode::FAILURE
        })
    })
}
