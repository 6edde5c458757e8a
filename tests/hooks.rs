//! What hooks are promised, proven with real commands and a real Python.
//!
//! Each case runs in a process of its own: see `support/cases.rs`.

#![allow(clippy::print_stdout)]

#[path = "support/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cases::{Case, NEVER, cases, children_of, eventually, exists};
use circus_agent::host::{Host, find_python};
use circus_agent::model::command::{Sample, Usage};
use circus_agent::model::event::{Event, Exit, HookAbout, HookCall, HookEnd, HookId};
use circus_agent::model::names::{ClusterName, NodeName, WatcherName};
use circus_agent::model::snapshot::ProcessView;
use circus_agent::model::spec::{HookPoint, HookProgram, ProgramSpec, UserSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tracing_subscriber::fmt::MakeWriter;

/// Commands first, then Python from the plain call to all that can go wrong.
const CASES: &[Case] = cases![
    a_commands_exit_code_is_its_truth,
    a_command_learns_from_its_environment_what_it_is_about,
    a_command_runs_as_the_agent_and_not_as_its_watchers_user,
    a_command_that_did_not_end_by_itself_has_failed_and_says_why,
    a_late_command_is_killed_with_all_it_started,
    a_hook_that_is_called_off_is_killed_with_all_it_started_and_says_nothing_more,
    what_a_command_leaves_in_the_background_goes_on_and_can_still_write,
    a_command_that_prints_without_end_is_cut_and_not_waited_for,
    a_commands_complaints_are_logged,
    a_command_is_given_the_statistics_and_adds_to_them,
    a_callables_truth_counts_and_none_is_false,
    an_exception_is_a_failure_with_its_name_and_a_traceback_in_the_log,
    each_point_passes_circuss_arguments,
    the_watcher_that_a_hook_sees_has_what_circuss_has,
    what_the_watcher_has_not_is_refused_with_what_there_is,
    a_hook_may_signal_the_watchers_processes_and_no_others,
    prints_are_logged_with_the_watchers_name_and_disturb_nothing,
    names_with_dots_colons_and_nested_attributes_are_found,
    a_name_that_cannot_be_imported_is_named_with_the_interpreter,
    python_path_and_its_pth_files_are_honoured,
    statistics_come_back_as_the_hook_left_them,
    what_a_hook_returns_needs_no_json,
    without_an_interpreter_a_hook_fails_and_says_what_to_do,
    a_hundred_calls_share_one_helper,
    another_environment_is_another_helper_and_background_work_survives_it,
    two_watchers_call_their_hooks_at_the_same_time,
    hooks_of_one_watcher_wait_for_each_other_within_their_time,
    a_hook_that_hangs_is_killed_with_all_it_started_and_the_next_runs_anew,
    a_helper_that_ends_in_the_middle_fails_the_hook_and_the_next_runs_anew,
    a_helper_that_ended_between_two_hooks_fails_none,
    a_child_that_a_hook_forked_does_not_answer_in_its_place,
    no_descriptor_is_left_open,
];

// ---- commands ------------------------------------------------------------------------------------------------------

async fn a_commands_exit_code_is_its_truth() {
    let mut world = World::new();
    assert_eq!(world.runs(sh("echo well; echo aside >&2")).await, returned(true, "well"));
    assert_eq!(world.runs(sh("exit 3")).await, returned(false, ""));
    world.leave().await;
}

async fn a_command_learns_from_its_environment_what_it_is_about() {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("CIRCUS_REDIS_URL", "redis://secret") };
    let mut world = World::new();
    let mut hook = sh("env | grep -e ^CIRCUS_ -e ^OWN | grep -v ^CIRCUS_PROCESS | sort; pwd -P; wc -c");
    hook.point = HookPoint::AfterReap;
    hook.pid = Some(77);
    hook.wid = Some(2);
    hook.signal = Some(15);
    hook.exit = Some(Exit::Signal(9));
    hook.token = Some(41);
    around(&mut hook, |program| {
        program.env.insert("OWN".into(), "1".into());
        program.working_dir = Some("/usr".into());
    });
    let expected = "CIRCUS_CLUSTER=test\nCIRCUS_EXIT_CODE=-9\nCIRCUS_FENCING_TOKEN=41\nCIRCUS_HOOK=after_reap\n\
                    CIRCUS_NODE=node-1\nCIRCUS_PID=77\nCIRCUS_SIGNAL=SIGTERM\nCIRCUS_WATCHER=web\nCIRCUS_WID=2\n\
                    OWN=1\n/usr\n0";
    assert_eq!(world.runs(hook).await, returned(true, expected));
    world.leave().await;
}

async fn a_command_runs_as_the_agent_and_not_as_its_watchers_user() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let mut world = World::new();
    let mut hook = sh("id -u");
    around(&mut hook, |program| {
        program.user = Some(UserSpec { uid: 65534, gid: 65534, name: Some("nobody".into()) });
        program.executable = Some("/bin/false".into());
    });
    assert_eq!(world.runs(hook).await, returned(true, "0"));
    world.leave().await;
}

async fn a_command_that_did_not_end_by_itself_has_failed_and_says_why() {
    let mut world = World::new();
    let failed = world.fails(command(["/bin/nosuch"])).await;
    assert_eq!(failed, r#"spawn failed at exec("/bin/nosuch"): ENOENT: No such file or directory"#);
    let failed = world.fails(sh("echo first >&2; echo last words >&2; kill -SEGV $$")).await;
    assert_eq!(failed, "killed by SIGSEGV: last words");
    let failed = world.fails_within(sh("echo busy >&2; sleep 1000"), 500).await;
    assert_eq!(failed, "did not end within 0.5 s: busy");
    world.leave().await;
}

async fn a_late_command_is_killed_with_all_it_started() {
    let mut world = World::new();
    let pids = world.path("pids");
    let script = format!(
        "sleep 1000 & echo $! >> {pids}; setsid sleep 1000 & echo $! >> {pids}; (setsid sleep 1000 & echo $! >> {pids})
         echo $$ >> {pids}; trap '' TERM; wait",
        pids = pids.display()
    );
    world.fails_within(sh(&script), 800).await;
    let pids: Vec<u32> = fs::read_to_string(pids).unwrap().lines().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 4);
    eventually("all of it is gone", || !pids.iter().any(|&pid| exists(pid))).await;
    world.leave().await;
}

async fn a_hook_that_is_called_off_is_killed_with_all_it_started_and_says_nothing_more() {
    let mut world = World::new();
    let pids = world.path("pids");
    world.module(
        "import os, time\ndef hangs(*args):\n    \
             open('pids', 'a').write('%d\\n' % os.getpid())\n    \
             while True: time.sleep(1)\n",
    );
    let script = format!("setsid sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait", pids = pids.display());
    let hooks = [world.call(sh(&script), NEVER), world.call(python("mod.hangs"), NEVER)];
    let told = || fs::read_to_string(&pids).unwrap_or_default();
    eventually("all of it runs", || told().lines().count() == 3).await;
    let pids: Vec<u32> = told().lines().map(|pid| pid.parse().unwrap()).collect();
    hooks.into_iter().for_each(|hook| world.host.call_off(hook));
    eventually("all of it is gone", || !pids.iter().any(|&pid| exists(pid))).await;
    world.leave().await;
}

async fn what_a_command_leaves_in_the_background_goes_on_and_can_still_write() {
    let mut world = World::new();
    let (go, done) = (world.path("go"), world.path("done"));
    let script = format!(
        "(while [ ! -e {} ]; do sleep 0.01; done; echo out; echo err >&2; : > {}) & echo started",
        go.display(),
        done.display()
    );
    assert_eq!(world.runs(sh(&script)).await, returned(true, "started"));
    fs::write(go, "").unwrap();
    // A shell that writes into a pipe without a reader ends there.
    eventually("it came to its end", || done.exists()).await;
    world.leave().await;
}

async fn a_command_that_prints_without_end_is_cut_and_not_waited_for() {
    let mut world = World::new();
    let HookEnd::Returned { truth: true, output } = world.runs(sh("head -c 1000000 /dev/zero | tr '\\0' x")).await
    else {
        panic!("it failed");
    };
    assert_eq!(output.len(), 64 * 1024);
    // Its child holds the pipe open, and writes on.
    let pid = world.path("pid");
    let start = Instant::now();
    assert!(matches!(
        world.runs(sh(&format!("yes & echo $! > {}", pid.display()))).await,
        HookEnd::Returned { truth: true, .. }
    ));
    assert!(start.elapsed() < NEVER / 2);
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    world.leave().await;
}

async fn a_commands_complaints_are_logged() {
    let log = Log::listen();
    let mut world = World::new();
    world.runs(sh("echo one >&2; printf 'two' >&2")).await;
    assert!(log.has("web: before_start: one") && log.has("web: before_start: two"), "{}", log.text());
    world.leave().await;
}

async fn a_command_is_given_the_statistics_and_adds_to_them() {
    let mut world = World::new();
    let script = r#"import json, sys; given = json.load(sys.stdin); print(json.dumps({"twice": given["pid"] * 2}))"#;
    let python = world.python.to_str().unwrap().to_owned();
    let end = world.runs(statistics(command([&python, "-c", script]))).await;
    assert_eq!(end, returned(true, r#"{"twice": 154}"#));
    // One that does not read them is none the worse.
    assert_eq!(world.runs(statistics(sh("echo '{}'"))).await, returned(true, "{}"));
    let failed = world.fails(statistics(sh("echo hello"))).await;
    assert!(failed.starts_with("printed no JSON object: "), "{failed}");
    world.leave().await;
}

// ---- Python --------------------------------------------------------------------------------------------------------

async fn a_callables_truth_counts_and_none_is_false() {
    let mut world = World::new();
    world.module("def yes(*args, **kw): return 'x'\ndef no(*args, **kw): return []\ndef none(*args, **kw): pass\n");
    assert_eq!(world.calls("mod.yes").await, returned(true, "{}"));
    assert_eq!(world.calls("mod.no").await, returned(false, "{}"));
    assert_eq!(world.calls("mod.none").await, returned(false, "{}"));
    world.leave().await;
}

async fn an_exception_is_a_failure_with_its_name_and_a_traceback_in_the_log() {
    let log = Log::listen();
    let mut world = World::new();
    world.module(
        "import sys\ndef bad(*args, **kw): raise ValueError('no such thing')\ndef bare(*args, **kw): assert False\n\
         def leaves(*args, **kw): sys.exit(3)\n",
    );
    assert_eq!(world.calls("mod.bad").await, failed("ValueError: no such thing"));
    assert_eq!(world.calls("mod.bare").await, failed("AssertionError"));
    assert_eq!(world.calls("mod.leaves").await, failed("SystemExit: 3"));
    eventually("the traceback is logged", || log.has("web: hook: ValueError: no such thing")).await;
    assert!(log.has("web: hook: Traceback"), "{}", log.text());
    world.leave().await;
}

async fn each_point_passes_circuss_arguments() {
    let mut world = World::new();
    world.module(
        "def told(watcher, arbiter, hook_name, **kw):\n    \
             kw.pop('time', None)\n    \
             raise LookupError(hook_name + ' ' + ', '.join('%s=%r' % item for item in sorted(kw.items())))\n",
    );
    for (point, expected) in [
        (HookPoint::BeforeStart, "before_start "),
        (HookPoint::AfterStart, "after_start "),
        (HookPoint::BeforeSpawn, "before_spawn "),
        (HookPoint::AfterSpawn, "after_spawn pid=77"),
        (HookPoint::BeforeStop, "before_stop "),
        (HookPoint::AfterStop, "after_stop "),
        (HookPoint::BeforeSignal, "before_signal pid=77, signum=15"),
        (HookPoint::AfterSignal, "after_signal pid=77, signum=15"),
        (HookPoint::BeforeReap, "before_reap process_pid=77"),
        (HookPoint::AfterReap, "after_reap exit_code=-9, process_pid=77, process_status=2"),
    ] {
        let mut hook = python("mod.told");
        hook.point = point;
        hook.pid = Some(77);
        hook.signal = Some(15);
        hook.exit = Some(Exit::Signal(9));
        assert_eq!(world.fails(hook).await, format!("LookupError: {expected}"));
    }
    world.leave().await;
}

async fn the_watcher_that_a_hook_sees_has_what_circuss_has() {
    let mut world = World::new();
    world.module(
        "import os\n\
         def look(watcher, arbiter, hook_name):\n    \
             w = watcher\n    \
             assert (w.name, w.res_name) == ('Web One', 'web_one')\n    \
             assert (w.numprocesses, w.status(), w.is_active()) == (3, 'active', True)\n    \
             assert (w.cmd, w.args, w.uid, w.gid) == ('sleep 1000', '-v', 65534, 33)\n    \
             assert (w.working_dir, w.env['OWN']) == (os.getcwd(), '1') and 'CIRCUS_PROCESS' not in w.env\n    \
             assert (w.stop_signal, w.graceful_timeout, w.priority, w.singleton) == (3, 0.5, -2, True)\n    \
             assert w._options['stats_base_port'] == '9000'\n    \
             assert w.pids == [os.getppid()] and list(w.processes) == w.pids\n    \
             process = w.processes[os.getppid()]\n    \
             assert (process.pid, process.wid) == (os.getppid(), 7) and 5 <= process.age() < 60\n    \
             assert w.get_active_processes() == [process]\n    \
             info = w.info()[process.pid]\n    \
             assert info['wid'] == 7 and info['mem_info1'][-1] in 'KM' and info['cmdline'].startswith('hooks')\n    \
             assert arbiter.get_watcher('WEB ONE') is w and arbiter.numprocesses() == 3 and arbiter.endpoint is None\n    \
             return True\n",
    );
    let mut hook = python("mod.look");
    hook.about.watcher = WatcherName::parse("Web One").unwrap();
    hook.about.numprocesses = 3;
    hook.about.processes = vec![process(7, Some(std::process::id())), process(8, None)];
    let settings = [
        ("cmd", "sleep 1000"),
        ("args", "-v"),
        ("stop_signal", "quit"),
        ("graceful_timeout", "500 ms"),
        ("priority", "-2"),
        ("singleton", "True"),
        ("stats_base_port", "9000"),
    ];
    hook.about.settings = Arc::new(settings.map(|(key, value)| (key.into(), value.into())).into());
    around(&mut hook, |program| {
        program.env.insert("OWN".into(), "1".into());
        program.user = Some(UserSpec { uid: 65534, gid: 65534, name: None });
        program.gid = Some(33);
    });
    assert_eq!(world.runs(hook).await, returned(true, "{}"));
    world.leave().await;
}

async fn what_the_watcher_has_not_is_refused_with_what_there_is() {
    let mut world = World::new();
    world.module(
        "def asks(watcher, *args): return watcher.loop\ndef sets(watcher, *args): watcher.numprocesses = 4\n\
         def others(watcher, arbiter, *args): arbiter.get_watcher('db')\n",
    );
    let why = world.fails(python("mod.asks")).await;
    assert!(why.starts_with("AttributeError: a hook's Watcher has no 'loop'; it has "), "{why}");
    assert!(why.contains("numprocesses") && why.contains("send_signal"), "{why}");
    let why = world.fails(python("mod.sets")).await;
    assert!(why.contains("setting 'numprocesses' would change nothing"), "{why}");
    let why = world.fails(python("mod.others")).await;
    assert!(why.contains("knows 'web' only, not 'db'"), "{why}");
    world.leave().await;
}

async fn a_hook_may_signal_the_watchers_processes_and_no_others() {
    let mut world = World::new();
    world.module(
        "def signals(watcher, *args):\n    watcher.send_signal(watcher.pids[0], 15)\n    return True\n\
         def strays(watcher, *args): watcher.send_signal(1, 0)\n",
    );
    // A child of the main thread: the host reaps it as an orphan.
    let sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap().id();
    let mut hook = python("mod.signals");
    hook.about.processes = vec![process(1, Some(sleeper))];
    assert_eq!(world.runs(hook).await, returned(true, "{}"));
    eventually("it was signalled", || !exists(sleeper)).await;
    let why = world.fails(python("mod.strays")).await;
    assert!(why.contains("web has no process 1"), "{why}");
    world.leave().await;
}

async fn prints_are_logged_with_the_watchers_name_and_disturb_nothing() {
    let log = Log::listen();
    let mut world = World::new();
    world.module(
        "import os, sys\n\
         def talks(*args):\n    \
             print('{\"truth\": false}')\n    \
             print('grüße', '\\udc80')\n    \
             os.system('echo from a child')\n    \
             os.write(1, b'raw\\n')\n    \
             return sys.stdin.read() == ''\n",
    );
    assert_eq!(world.calls("mod.talks").await, returned(true, "{}"));
    for line in [r#"web: hook: {"truth": false}"#, "web: hook: from a child", "web: hook: raw", "\\udc80"] {
        eventually(line, || log.has(line)).await;
    }
    world.leave().await;
}

async fn names_with_dots_colons_and_nested_attributes_are_found() {
    let mut world = World::new();
    fs::create_dir_all(world.path("pkg/sub")).unwrap();
    fs::write(world.path("pkg/__init__.py"), "").unwrap();
    fs::write(world.path("pkg/sub/__init__.py"), "").unwrap();
    fs::write(
        world.path("pkg/sub/deep.py"),
        "class Hooks:\n    @staticmethod\n    def run(*args): return True\nrun = Hooks.run\n",
    )
    .unwrap();
    for name in ["pkg.sub.deep.run", "pkg.sub.deep:run", "pkg.sub.deep.Hooks.run", "pkg.sub.deep:Hooks.run"] {
        assert_eq!(world.calls(name).await, returned(true, "{}"), "{name}");
    }
    world.leave().await;
}

async fn a_name_that_cannot_be_imported_is_named_with_the_interpreter() {
    let mut world = World::new();
    world.module("def there(*args): pass\n");
    fs::write(world.path("needy.py"), "import nosuch_dependency\n").unwrap();
    for (name, cause) in [
        ("nosuch.hook", "ModuleNotFoundError: No module named 'nosuch'"),
        ("mod.nosuch", "AttributeError: mod has no 'nosuch'"),
        ("mod.there.nosuch", "AttributeError: mod.there has no 'nosuch'"),
        ("needy.hook", "ModuleNotFoundError: No module named 'nosuch_dependency'"),
    ] {
        let why = world.fails(python(name)).await;
        assert!(why.starts_with(&format!("cannot import {name} with /")) && why.ends_with(cause), "{why}");
    }
    world.leave().await;
}

async fn python_path_and_its_pth_files_are_honoured() {
    let mut world = World::new();
    fs::create_dir_all(world.path("lib")).unwrap();
    fs::create_dir_all(world.path("beyond")).unwrap();
    fs::write(world.path("lib/nearby.py"), "def hook(*args): return True\n").unwrap();
    fs::write(world.path("lib/more.pth"), world.path("beyond").to_str().unwrap()).unwrap();
    fs::write(world.path("beyond/distant.py"), "def hook(*args): return True\n").unwrap();
    for name in ["nearby.hook", "distant.hook"] {
        let mut hook = python(name);
        let lib = format!("/nosuch:{}", world.path("lib").display());
        around(&mut hook, |program| drop(program.env.insert("PYTHONPATH".into(), lib)));
        assert_eq!(world.runs(hook).await, returned(true, "{}"), "{name}");
    }
    world.leave().await;
}

async fn statistics_come_back_as_the_hook_left_them() {
    let mut world = World::new();
    world.module(
        "def adds(watcher, arbiter, hook_name, pid, stats):\n    \
             stats['of'] = [pid, stats['pid'], stats['cmdline']]\n    \
             stats['odd'] = {1}\n    \
             stats[(1, 2)] = 0\n    \
             return True\n\
         def spoils(watcher, arbiter, hook_name, pid, stats): stats['x'] = float('nan')\n",
    );
    let HookEnd::Returned { truth: true, output } = world.runs(statistics(python("mod.adds"))).await else {
        panic!("it failed");
    };
    let output: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["of"], serde_json::json!([77, 77, "beat"]));
    assert_eq!((&output["odd"], &output["username"]), (&"{1}".into(), &"nobody".into()));
    assert_eq!(world.fails(statistics(python("mod.spoils"))).await.split(':').next(), Some("ValueError"));
    world.leave().await;
}

async fn what_a_hook_returns_needs_no_json() {
    let mut world = World::new();
    world.module(
        "class Torn:\n    def __bool__(self): raise KeyError('torn')\n\
         def lock(*args): import threading; return threading.Lock()\n\
         def torn(*args): return Torn()\n",
    );
    assert_eq!(world.calls("mod.lock").await, returned(true, "{}"));
    assert_eq!(world.calls("mod.torn").await, failed("KeyError: 'torn'"));
    world.leave().await;
}

async fn without_an_interpreter_a_hook_fails_and_says_what_to_do() {
    let mut world = World::with_python(None);
    let expected = "mod.hook needs Python, and none was found; set `python =` in [circus]";
    assert_eq!(world.calls("mod.hook").await, failed(expected));
    world.leave().await;
    let mut world = World::with_python(Some("/nosuch/python".into()));
    let expected = r#"spawn failed at exec("/nosuch/python"): ENOENT: No such file or directory"#;
    assert_eq!(world.calls("mod.hook").await, failed(expected));
    world.leave().await;
}

/// Tells which process called it; and starts a child where it is told to.
const TELLS: &str = "import os, subprocess\n\
     def tells(watcher, arbiter, hook_name, pid, stats):\n    \
         stats.clear()\n    \
         stats['helper'] = os.getpid()\n    \
         if watcher.env.get('DETACH'):\n        \
             stats['child'] = subprocess.Popen(['sleep', '1000']).pid\n    \
         return True\n";

async fn a_hundred_calls_share_one_helper() {
    let mut world = World::new();
    world.module(TELLS);
    let first = world.helper().await;
    let start = Instant::now();
    for _ in 0..99 {
        assert_eq!(world.helper().await, first);
    }
    println!("a call took {:?}", start.elapsed() / 99);
    assert_eq!(children_of(std::process::id()), [first]);
    world.leave().await;
}

async fn another_environment_is_another_helper_and_background_work_survives_it() {
    let mut world = World::new();
    world.module(TELLS);
    let mut detaching = statistics(python("mod.tells"));
    around(&mut detaching, |program| drop(program.env.insert("DETACH".into(), "1".into())));
    let HookEnd::Returned { output, .. } = world.runs(detaching).await else { panic!("it failed") };
    let told: BTreeMap<String, u32> = serde_json::from_str(&output).unwrap();
    assert_ne!(world.helper().await, told["helper"]);
    eventually("the first helper has ended", || !exists(told["helper"])).await;
    assert!(exists(told["child"]));
    kill(Pid::from_raw(told["child"].cast_signed()), Signal::SIGKILL).unwrap();
    world.leave().await;
}

async fn two_watchers_call_their_hooks_at_the_same_time() {
    let mut world = World::new();
    world.module(
        "import os, time\n\
         def meets(watcher, *args):\n    \
             open(watcher.name, 'w').close()\n    \
             while not (os.path.exists('web') and os.path.exists('db')): time.sleep(0.01)\n    \
             return True\n",
    );
    let mut other = python("mod.meets");
    other.about.watcher = WatcherName::parse("db").unwrap();
    world.call(python("mod.meets"), NEVER);
    world.call(other, NEVER);
    assert_eq!((world.end().await.1, world.end().await.1), (returned(true, "{}"), returned(true, "{}")));
    world.leave().await;
}

async fn hooks_of_one_watcher_wait_for_each_other_within_their_time() {
    let mut world = World::new();
    world.module(
        "import os, time\n\
         def waits(*args):\n    \
             while not os.path.exists('go'): time.sleep(0.01)\n    \
             return True\n\
         def marks(*args): open('marked', 'w').close(); return True\n",
    );
    let waiting = world.call(python("mod.waits"), NEVER);
    let late = world.call(python("mod.marks"), Duration::from_millis(300));
    let patient = world.call(python("mod.marks"), NEVER);
    let expected = failed("did not get its turn within 0.3 s: the watcher's hooks before it took too long");
    assert_eq!(world.end().await, (late, expected));
    assert!(!world.path("marked").exists());
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(world.end().await, (waiting, returned(true, "{}")));
    assert_eq!(world.end().await, (patient, returned(true, "{}")));
    // Not even while one hangs may they pile up.
    fs::remove_file(world.path("go")).unwrap();
    let calls: Vec<HookId> = (0..100).map(|_| world.call(python("mod.waits"), NEVER)).collect();
    let (refused, why) = world.end().await;
    assert!(calls.contains(&refused));
    assert_eq!(why, failed("64 hooks of this watcher wait for their turn already"));
    fs::write(world.path("go"), "").unwrap();
    for _ in 1..100 {
        world.end().await;
    }
    world.leave().await;
}

async fn a_hook_that_hangs_is_killed_with_all_it_started_and_the_next_runs_anew() {
    let mut world = World::new();
    world.module(&format!(
        "{TELLS}\
         def hangs(*args):\n    \
             open('child', 'w').write(str(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid))\n    \
             while True: pass\n"
    ));
    let first = world.helper().await;
    assert_eq!(world.fails_within(python("mod.hangs"), 700).await, "did not end within 0.7 s");
    let child: u32 = fs::read_to_string(world.path("child")).unwrap().parse().unwrap();
    eventually("both are gone", || !exists(first) && !exists(child)).await;
    assert_ne!(world.helper().await, first);
    world.leave().await;
}

async fn a_helper_that_ends_in_the_middle_fails_the_hook_and_the_next_runs_anew() {
    let mut world = World::new();
    world.module(&format!(
        "{TELLS}\
         def dies(*args): os.kill(os.getpid(), 9)\n\
         def exits(*args): os._exit(3)\n"
    ));
    let first = world.helper().await;
    let why = world.fails(python("mod.dies")).await;
    assert_eq!(why, "its Python helper ended meanwhile (killed by SIGKILL)");
    let second = world.helper().await;
    let why = world.fails(python("mod.exits")).await;
    assert_eq!(why, "its Python helper ended meanwhile (exit 3)");
    let third = world.helper().await;
    assert!(first != second && second != third);
    world.leave().await;
}

async fn a_helper_that_ended_between_two_hooks_fails_none() {
    let mut world = World::new();
    world.module(TELLS);
    let first = world.helper().await;
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).unwrap();
    eventually("it is reaped", || children_of(std::process::id()).is_empty()).await;
    assert_ne!(world.helper().await, first);
    world.leave().await;
}

async fn a_child_that_a_hook_forked_does_not_answer_in_its_place() {
    let mut world = World::new();
    world.module("import os\ndef forks(*args): return os.fork() > 0\n");
    for _ in 0..5 {
        assert_eq!(world.calls("mod.forks").await, returned(true, "{}"));
    }
    eventually("the children have ended", || children_of(std::process::id()).len() == 1).await;
    world.leave().await;
}

async fn no_descriptor_is_left_open() {
    let mut world = World::new();
    world.module(
        "import os\ndef good(*args): return True\ndef bad(*args): os._exit(1)\ndef hangs(*args):\n    while True: pass\n",
    );
    world.runs(sh("true")).await;
    let before = open_files();
    for _ in 0..5 {
        for hook in [sh("true"), sh("sleep 0.01 &"), command(["/nosuch"]), python("mod.good"), python("mod.bad")] {
            world.runs(hook).await;
        }
        world.fails_within(sh("sleep 1000"), 10).await;
    }
    world.fails_within(python("mod.hangs"), 300).await;
    eventually("all are closed", || open_files() == before).await;
    world.leave().await;
}

// ---- what the cases are told with ----------------------------------------------------------------------------------

/// A host, what it has told, and the directory in which hooks run.
struct World {
    host: Host,
    events: mpsc::Receiver<Event>,
    dir: TempDir,
    python: PathBuf,
    called: u64,
}

impl World {
    fn new() -> World {
        World::with_python(find_python())
    }

    fn with_python(python: Option<PathBuf>) -> World {
        let (sender, events) = mpsc::channel(64);
        let dir = TempDir::new().unwrap();
        let host = Host::new(sender, dir.path().join("notify"), &[]).unwrap().with_python(python.clone());
        World { host, events, dir, python: python.unwrap_or_default(), called: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the module `mod`.
    fn module(&self, text: &str) {
        fs::write(self.path("mod.py"), text).unwrap();
    }

    /// Calls a hook, in our directory unless it has one of its own.
    fn call(&mut self, mut hook: HookCall, limit: Duration) -> HookId {
        let dir = self.dir.path().to_owned();
        around(&mut hook, |program| program.working_dir = program.working_dir.take().or(Some(dir)));
        self.called += 1;
        self.host.hook(HookId(self.called), Box::new(hook), limit);
        HookId(self.called)
    }

    async fn end(&mut self) -> (HookId, HookEnd) {
        match tokio::time::timeout(NEVER, self.events.recv()).await {
            Ok(Some(Event::HookEnded { hook, end })) => (hook, end),
            other => panic!("no end of a hook: {other:?}"),
        }
    }

    async fn runs(&mut self, hook: HookCall) -> HookEnd {
        let called = self.call(hook, NEVER);
        let (hook, end) = self.end().await;
        assert_eq!(hook, called);
        end
    }

    async fn calls(&mut self, dotted: &str) -> HookEnd {
        self.runs(python(dotted)).await
    }

    async fn fails(&mut self, hook: HookCall) -> String {
        match self.runs(hook).await {
            HookEnd::Failed(why) => why,
            returned @ HookEnd::Returned { .. } => panic!("not a failure: {returned:?}"),
        }
    }

    async fn fails_within(&mut self, hook: HookCall, limit_ms: u64) -> String {
        let (called, start) = (self.call(hook, Duration::from_millis(limit_ms)), Instant::now());
        match self.end().await {
            (hook, HookEnd::Failed(why)) if hook == called && start.elapsed() < NEVER / 2 => why,
            other => panic!("not a failure in time: {other:?}"),
        }
    }

    /// The pid of the helper that calls `mod.tells`.
    async fn helper(&mut self) -> u32 {
        let HookEnd::Returned { output, .. } = self.runs(statistics(python("mod.tells"))).await else {
            panic!("it failed");
        };
        serde_json::from_str::<BTreeMap<String, u32>>(&output).unwrap()["helper"]
    }

    /// Nothing more is said, and all helpers end.
    async fn leave(mut self) {
        drop(self.host);
        eventually("all are gone", || children_of(std::process::id()).is_empty()).await;
        assert_eq!(self.events.recv().await, None, "each hook ends once");
    }
}

fn returned(truth: bool, output: &str) -> HookEnd {
    HookEnd::Returned { truth, output: output.into() }
}

fn failed(why: &str) -> HookEnd {
    HookEnd::Failed(why.into())
}

fn sh(script: &str) -> HookCall {
    command(["sh", "-c", script])
}

fn command<const N: usize>(words: [&str; N]) -> HookCall {
    hook(HookProgram::Command(words.map(String::from).into()))
}

fn python(dotted: &str) -> HookCall {
    hook(HookProgram::Python(dotted.into()))
}

/// `before_start` of the watcher `web`.
fn hook(program: HookProgram) -> HookCall {
    let surroundings = ProgramSpec { copy_env: true, ..ProgramSpec::of(vec!["sleep".into(), "1000".into()]) };
    HookCall {
        point: HookPoint::BeforeStart,
        program,
        about: HookAbout {
            watcher: WatcherName::parse("web").unwrap(),
            node: NodeName::parse("node-1").unwrap(),
            cluster: ClusterName::parse("test").unwrap(),
            status: "active",
            numprocesses: 1,
            processes: Vec::new(),
            settings: Arc::default(),
        },
        surroundings: Arc::new(surroundings),
        pid: None,
        wid: None,
        signal: None,
        exit: None,
        stats: None,
        token: None,
        env: Vec::new(),
    }
}

/// The same as `extended_stats` of process 77.
fn statistics(hook: HookCall) -> HookCall {
    let usage = Usage {
        program: "beat".into(),
        user: "nobody".into(),
        nice: 0,
        resident: 1 << 20,
        virtual_size: 2 << 20,
        memory_percent: 0.5,
        cpu_percent: 1.5,
        cpu_time: Duration::from_secs(3),
        age: Duration::from_secs(5),
        started: 1.0,
    };
    let watcher = hook.about.watcher.clone();
    let sample = Sample { watcher, wid: 1, pid: 77, usage: Some(usage), children: Vec::new(), extra: None };
    HookCall { point: HookPoint::ExtendedStats, pid: Some(77), stats: Some(sample), ..hook }
}

fn around(hook: &mut HookCall, change: impl FnOnce(&mut ProgramSpec)) {
    change(Arc::make_mut(&mut hook.surroundings));
}

fn process(wid: u32, pid: Option<u32>) -> ProcessView {
    ProcessView { wid, pid, state: "running", age: Duration::from_secs(5), status: None }
}

fn open_files() -> usize {
    fs::read_dir(Path::new("/proc/self/fd")).unwrap().count()
}

/// What the agent logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// From here on.
    fn listen() -> Log {
        let log = Log::default();
        tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn main() -> ExitCode {
    cases::main(CASES, |role| panic!("no role {role}"))
}
