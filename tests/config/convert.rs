//! Files of other supervisors: each in `convert/from` becomes the one of its name in `convert/to`, which is read without
//! an error and means what the `.txt` beside it says. `UPDATE_GOLDEN=1` writes both anew.

use std::path::{Path, PathBuf};
use std::{fs, iter};

use circus_agent::config::{self, Config, Converted, Format, Included, Original, Problem, code};

use super::{around, describe, files};
use circus_agent::model::spec::{Output, Sink, StreamSpec, WID, WatcherSpec};

/// What a machine lacks is no fault of a file.
const OF_MACHINE: &[&str] = &[code::PROGRAM, code::DIRECTORY, code::INCLUDE];

/// The environment that the corpus asks for.
const ENV: &str = "; env: QUEUES=mail,web\n; env: WAIT=5\n; env: COUNT=3\n; env: LANG=C.UTF-8\n";

fn corpus() -> Vec<PathBuf> {
    let entries =
        fs::read_dir("tests/config/convert/from").expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_none_or(|extension| extension != "env")).collect();
    files.sort();
    assert!(files.len() > 8);
    files
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name")
}

fn convert(path: &Path, text: &str, format: Option<Format>) -> Result<Converted, String> {
    let env_file = fs::read_to_string(format!("{}.env", path.display())).ok();
    let here = Some(Path::new("/srv/shop"));
    let original = Original { name: name(path), text, here, env_file: env_file.as_deref(), included: &[] };
    config::convert(&original, format, &around(ENV))
}

fn converted(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a file");
    convert(path, &text, None).unwrap_or_else(|why| panic!("{}: {why}", path.display())).text
}

fn read(text: &str) -> Result<Config, Vec<Problem>> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("converted.ini");
    fs::write(&path, text).expect("a file");
    config::read(&path, &around(&format!("{ENV}{text}")))
}

fn sound(text: &str) -> Config {
    read(text)
        .unwrap_or_else(|problems| panic!("{text}\n{}", config::render(&problems, Path::new("converted.ini"), "")))
}

fn compare(golden: &str, found: &str) {
    let golden = Path::new("tests/config/convert/to").join(golden);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).expect("the golden file");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(found == expected, "not as in {}:\n{found}", golden.display());
}

fn watcher<'a>(config: &'a Config, name: &str) -> &'a WatcherSpec {
    config.spec.watchers.iter().find(|watcher| watcher.name.as_str() == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn each_file_becomes_one_that_is_read_and_means_what_is_written_beside_it() {
    for path in corpus() {
        let text = converted(&path);
        let config = sound(&text);
        let warnings = config.warnings.iter().filter(|problem| !OF_MACHINE.contains(&problem.code));
        let warnings: String = warnings
            .map(|problem| format!("{}\n", problem.short().rsplit_once("converted.ini:").map_or("", |(_, rest)| rest)))
            .collect();
        compare(&format!("{}.ini", name(&path)), &text);
        compare(&format!("{}.txt", name(&path)), &format!("{}\n{warnings}", describe(&config)));
    }
}

#[test]
fn no_key_goes_without_a_trace() {
    for path in corpus() {
        let text = fs::read_to_string(&path).expect("a file");
        let whole = convert(&path, &text, None).expect("a conversion").text;
        for (number, line) in text.lines().enumerate() {
            let bare = line.trim();
            if bare.is_empty() || bare.starts_with([';', '#', '[']) {
                continue;
            }
            let others = text.lines().enumerate().filter(|(other, _)| *other != number).map(|(_, line)| line);
            let without: String = others.flat_map(|line| [line, "\n"]).collect();
            // A file may be nothing without a line; then that was its trace.
            let Ok(without) = convert(&path, &without, None) else { continue };
            assert!(without.text != whole, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn no_secret_is_repeated_in_a_note() {
    for path in corpus() {
        let text = fs::read_to_string(&path).expect("a file");
        for note in convert(&path, &text, None).expect("a conversion").notes {
            assert!(!note.contains("hunter"), "{}: {note}", path.display());
        }
    }
}

/// All facts but the texts that `globaloptions` answers, of which nothing else comes.
fn meant(config: &Config) -> String {
    describe(config)
        .lines()
        .filter(|line| !line.starts_with("global option "))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn a_circus_ini_that_is_sound_means_what_it_meant() {
    let mut tried = 0;
    for path in files("good") {
        let text = fs::read_to_string(&path).expect("a file");
        // Included files are elsewhere; `executable` means something else with Circus; [uwsgi] is another's.
        let elsewhere = ["include", "\nexecutable", "[uwsgi]", "$(circus.env.HERE"];
        if !text.contains("[watcher:") || elsewhere.iter().any(|word| text.contains(word)) {
            continue;
        }
        let before = config::read(&path, &around(&text)).expect("a sound file");
        let original = Original { name: name(&path), text: &text, here: None, env_file: None, included: &[] };
        let found = config::convert(&original, Some(Format::Circus), &around(&text)).expect("a conversion");
        let dir = tempfile::tempdir().expect("a directory");
        let after = dir.path().join("after.ini");
        fs::write(&after, &found.text).expect("a file");
        let after = config::read(&after, &around(&text))
            .unwrap_or_else(|problems| panic!("{}{}", found.text, config::render(&problems, &after, "")));
        assert_eq!(meant(&before), meant(&after), "{}\n{}", path.display(), found.text);
        tried += 1;
    }
    assert!(tried > 8, "{tried}");
}

#[test]
fn a_circus_ini_that_is_refused_becomes_one_that_is_read() {
    let mut tried = 0;
    for path in files("bad") {
        let text = fs::read_to_string(&path).expect("a file");
        let original = Original { name: name(&path), text: &text, here: None, env_file: None, included: &[] };
        let Ok(found) = config::convert(&original, None, &around(&text)) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let after = dir.path().join("after.ini");
        fs::write(&after, &found.text).expect("a file");
        if let Err(problems) = config::read(&after, &around(&text)) {
            let machines =
                [code::USER, code::DIRECTORY, code::LOGIN, code::INCLUDE, code::FILE, code::VARIABLE, code::PROGRAM];
            let errors = problems.iter().filter(|problem| problem.severity == config::Severity::Error);
            for problem in errors.filter(|problem| problem.file != Path::new("environment")) {
                assert!(machines.contains(&problem.code), "{}: {problem}\n{}", path.display(), found.text);
            }
        }
        tried += 1;
    }
    assert!(tried > 8, "{tried}");
}

#[test]
fn uwsgis_legions_mean_what_the_agent_reads_in_its_file() {
    let text = "[uwsgi]\nip = 10.0.0.9\nlegion = l 225.1.1.1:4242 98 bf-cbc:x\nlegion-quorum = l 2\nlegion-lord = l cmd:ip addr add %(ip); true\n\
                legion-lord = l log:lord\nlegion-scroll = l a=b\nlegion-cron = l -5 -1 -1 -1 -1 cd /; date\nlegion-attach-daemon = l sleep 9\n\
                attach-daemon2 = cmd=sleep 8,legion=l,stopsignal=2,chdir=/tmp\nlegion-curl-cron = l 0 -1 -1 -1 -1 http://localhost/x?a=1&b=2\n";
    let before = sound(text);
    let found = convert(Path::new("uwsgi.ini"), text, None).expect("a conversion").text;
    assert_eq!(before.spec.watchers.len(), 5);
    assert_eq!(meant(&before), meant(&sound(&found)), "{found}");
}

#[test]
fn a_program_without_a_word_runs_as_supervisord_runs_it() {
    let config =
        sound(&convert(Path::new("x.conf"), "[program:x]\ncommand = /bin/sleep 1\n", None).expect("a conversion").text);
    let x = watcher(&config, "x");
    let seconds = |count| std::time::Duration::from_secs(count);
    assert_eq!((x.numprocesses, x.autostart, x.respawn, x.stop_signal), (1, true, true, libc::SIGTERM));
    assert_eq!((x.graceful_timeout, x.max_retry, x.stop_children), (seconds(10), Some(4), false));
    assert!(matches!(&x.ready, Some(ready) if format!("{:?}", ready.check).contains("1s")), "{:?}", x.ready);
    assert!(x.program.copy_env);
    for output in [&x.program.stdout, &x.program.stderr] {
        assert_eq!(*output, Output::Stream(StreamSpec { sink: Sink::Memory, time_format: None }));
    }
}

#[test]
fn who_starts_first_with_supervisord_starts_first() {
    let text = "[program:late]\ncommand = x\n[program:first]\ncommand = x\npriority = 1\n[program:second]\ncommand = x\npriority = 20\n";
    let config = sound(&convert(Path::new("x.conf"), text, None).expect("a conversion").text);
    // The spec has them in the order in which they start.
    let order: Vec<&str> = config.spec.watchers.iter().map(|watcher| watcher.name.as_str()).collect();
    assert_eq!(order, ["first", "second", "late"]);
}

#[test]
fn processes_with_numbers_of_their_own_are_watchers_of_their_own() {
    let of = |more: &str| {
        let text = format!("[program:x]\nnumprocs = 3\nprocess_name = x-%(process_num)02d\n{more}\n");
        let config = sound(&convert(Path::new("x.conf"), &text, None).expect("a conversion").text);
        config
            .spec
            .watchers
            .iter()
            .map(|watcher| (watcher.name.to_string(), watcher.numprocesses, watcher.program.words.join(" ")))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("command = /bin/sleep 1"), [("x".into(), 3, "/bin/sleep 1".into())]);
    // The slot's number, which counts from 1.
    let slots = of("command = /bin/sleep %(process_num)d\nnumprocs_start = 1");
    assert_eq!(slots, [("x".into(), 3, format!("/bin/sleep {WID}"))]);
    let each = of("command = /bin/sleep %(process_num)02d");
    let expected = ["00", "01", "02"].map(|number| (format!("x:x-{number}"), 1, format!("/bin/sleep {number}")));
    assert_eq!(each, expected);
}

#[test]
fn what_supervisord_includes_is_part_of_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let fragment = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    fs::create_dir(dir.path().join("conf.d")).expect("a directory");
    fragment("conf.d/web.conf", "[program:web]\ncommand = /bin/sleep %(here)s\n");
    fragment("conf.d/jobs.conf", "[program:jobs]\ncommand = /bin/sleep 1\nstopwaitsecs = 3\n");
    fragment("conf.d/later.conf", "[program:jobs]\nstopwaitsecs = 4\n");
    let text =
        "[supervisord]\ndirectory = /tmp\n[include]\nfiles = conf.d/*.conf none/*\n[group:all]\nprograms = web, jobs\n";
    let alone = Original { name: "supervisord.conf", text, here: Some(dir.path()), env_file: None, included: &[] };
    let paths = config::included(&alone, None, &around(""));
    assert_eq!(paths, ["jobs", "later", "web"].map(|name| dir.path().join(format!("conf.d/{name}.conf"))));
    let read = |path: PathBuf| Included { text: fs::read_to_string(&path).expect("a file"), path };
    let included: Vec<Included> = paths.into_iter().map(read).collect();
    let found =
        config::convert(&Original { included: &included, ..alone }, None, &around("")).expect("a conversion").text;
    let config = sound(&found);
    let (web, jobs) = (watcher(&config, "all:web"), watcher(&config, "all:jobs"));
    assert_eq!(web.program.words, ["/bin/sleep".to_owned(), dir.path().join("conf.d").display().to_string()]);
    assert_eq!(
        (jobs.graceful_timeout.as_secs(), jobs.program.working_dir.as_deref()),
        (4, Some(Path::new("/tmp"))),
        "{found}"
    );
    assert!(found.contains("; NOTE stopwaitsecs = 3: it is said again below"), "{found}");
}

#[test]
fn what_is_no_file_of_the_kind_is_refused_with_a_reason() {
    let refused = |text: &str, format| convert(Path::new("x"), text, format).expect_err(text);
    for (text, format, why) in [
        ("", None, "nobody's file is recognised"),
        ("{\"uwsgi\": {}}\n", None, "nobody's file is recognised"),
        ("[program:x]\ncommand\n", None, "line 2 is neither a section nor `key = value`"),
        ("command = x\n[program:x]\n", None, "line 1 stands before the first section"),
        ("[beatcop]\ntimeout = 5\n", None, "has no `command`"),
        ("[uwsgi]\n", None, "[uwsgi] is empty"),
        ("# nothing\n", Some(Format::Procfile), "no `NAME: COMMAND`"),
        ("[program:x]\ncommand = x%(process_num)d\nnumprocs = 5000\n", None, "more than 500 watchers"),
    ] {
        let told = refused(text, format);
        assert!(told.contains(why), "{told}");
    }
}

#[test]
fn no_input_makes_a_conversion_panic() {
    let nasty = ["%", "%(", "\"", "'", "[", "]", "=", ":", ";", "\0", "\u{e9}", "$(circus.wid)", "\n ", "%(ENV_", "\\"];
    for path in corpus() {
        let text = fs::read_to_string(&path).expect("a file");
        let formats = iter::once(None).chain(Format::ALL.map(Some));
        for format in formats {
            let _ = convert(&path, &text, format);
        }
        // A prime: the cuts fall into every part of a line.
        for (turn, at) in (0..text.len()).step_by(61).filter(|at| text.is_char_boundary(*at)).enumerate() {
            let _ = convert(&path, &text[..at], None);
            let (before, after) = text.split_at(at);
            if let Ok(found) = convert(&path, &format!("{before}{}{after}", nasty[turn % nasty.len()]), None) {
                assert!(found.text.ends_with('\n'));
            }
        }
    }
}
