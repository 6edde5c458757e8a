//! What keys do.

use circus_agent::model::command::{Command, Patience, Selector, Strategy, Target};
use circus_agent::model::names::{NodeWord, WatcherName};
use circus_agent::model::pattern::Pattern;
use circus_agent::view::top::{Key, Screen, Settings, Wish};

use crate::frames::{holder, name, node, now, settings, standby, three, watcher};
use crate::pictures::{AT, picture, press, screen};

fn last(screen: &mut Screen, keys: &str) -> Option<Wish> {
    let (most, key) = keys.split_at(keys.len() - 1);
    press(screen, most);
    screen.key(Key::Char(key.chars().next().expect("a key")), now(AT))
}

/// The wish to have a watcher explained by these nodes.
fn explains(watcher: &str, nodes: &[&str]) -> Option<Wish> {
    Some(Wish::Read {
        title: format!("explain {watcher}"),
        questions: vec![Command::Explain { watcher: watcher.into() }],
        nodes: nodes.iter().map(|node| name(node)).collect(),
    })
}

fn on(nodes: &[&str]) -> Selector {
    Selector { nodes: nodes.iter().map(|node| NodeWord::Name(name(node))).collect(), labels: vec![] }
}

/// Names of the rows of the second panel, from the top down.
fn order(screen: &Screen) -> Vec<String> {
    let picture = picture(screen, now(AT), (80, 40));
    let rows = picture.lines().skip_while(|line| !line.contains(" 2 Watchers")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('│'));
    rows.filter_map(|line| Some(line.trim_start_matches(['│', ' ', '▸', '▾']).split_whitespace().next()?.to_owned()))
        .filter(|word| word != "│")
        .collect()
}

#[test]
fn rows_are_sorted_by_what_was_asked_for_and_turned_round() {
    let mut big = watcher("b", &[1.0]);
    big.processes[0].used.resident = 9 << 30;
    let mut old = watcher("c", &[2.0]);
    old.processes[0].age *= 9;
    let mut screen = screen(settings(), &[node("x", vec![watcher("a", &[3.0]), big, old])]);
    for (keys, sorted) in [
        ("", ["a", "c", "b"]),
        ("m", ["b", "a", "c"]),
        ("n", ["a", "b", "c"]),
        ("u", ["c", "a", "b"]),
        ("I", ["a", "b", "c"]),
        ("n", ["c", "b", "a"]),
        ("c", ["b", "c", "a"]),
        ("I", ["a", "c", "b"]),
    ] {
        press(&mut screen, keys);
        assert_eq!(order(&screen), sorted, "{keys}");
    }
}

#[test]
fn the_choice_stays_with_what_was_chosen() {
    let mut screen =
        screen(settings(), &[node("x", vec![watcher("a", &[3.0]), watcher("b", &[2.0]), watcher("c", &[1.0])])]);
    press(&mut screen, "j");
    // It overtakes all others.
    screen.frame(node("x", vec![watcher("a", &[3.0]), watcher("b", &[90.0]), watcher("c", &[1.0])]), now(AT));
    assert_eq!(order(&screen), ["b", "a", "c"]);
    assert_eq!(last(&mut screen, "x"), explains("b", &["x"]));
    // It is gone: the one in its place is chosen.
    screen.frame(node("x", vec![watcher("a", &[3.0]), watcher("c", &[1.0])]), now(AT));
    assert_eq!(last(&mut screen, "x"), explains("c", &["x"]));
    for (keys, chosen) in [("gg", "a"), ("G", "c"), ("kkkk", "a"), ("jjjj", "c"), ("ggg", "a")] {
        press(&mut screen, keys);
        assert_eq!(last(&mut screen, "x"), explains(chosen, &["x"]), "{keys}");
    }
}

#[test]
fn nothing_is_done_that_was_not_confirmed() {
    let ask = |command, nodes: &[&str], doing: &str| {
        Some(Wish::Ask { command, target: Target::Nodes(on(nodes)), doing: doing.into() })
    };
    let patience = Patience::Admitted;
    let only = |name: &str| Some(Pattern::Name(name.into()));
    let resize = |by| Command::Resize { watcher: "web".into(), by, patience };
    // On top stands worker, below it its nodes, by CPU: web-3 web-2 web-1.
    for (keys, told, wish) in [
        (
            "r",
            "Restart worker on web-1, web-2 and web-3: 11 processes stop, and start again.",
            ask(
                Command::Restart { pattern: only("worker"), patience },
                &["web-1", "web-2", "web-3"],
                "Restart worker on web-1, web-2 and web-3",
            ),
        ),
        (
            "\njr",
            "Restart worker on web-3: 3 processes stop, and start again.",
            ask(Command::Restart { pattern: only("worker"), patience }, &["web-3"], "Restart worker on web-3"),
        ),
        (
            "\nj\njr",
            "Restart process 4702 of worker on web-3",
            ask(
                Command::Kill { watcher: "worker".into(), pid: Some(4702), signal: None, grace: None, patience },
                &["web-3"],
                "Restart process 4702 of worker on web-3",
            ),
        ),
        (
            "/^web$|^web .*-1\n\nj+",
            "Add a process to web on web-1.",
            ask(resize(1), &["web-1"], "Add a process to web on web-1"),
        ),
        (
            "/^web$|^web .*-1\n\nj-",
            "Take a process from web on web-1.",
            ask(resize(-1), &["web-1"], "Take a process from web on web-1"),
        ),
        (
            "+",
            "Add a process to worker on the node that has the least to do, of web-1, web-2 and web-3.",
            Some(Wish::Ask {
                command: Command::Resize { watcher: "worker".into(), by: 1, patience },
                target: Target::Any(Strategy::LeastLoaded, on(&["web-1", "web-2", "web-3"])),
                doing: "Add a process to worker on the node that has the least to do, of web-1, web-2 and web-3".into(),
            }),
        ),
        (
            "-",
            "Take a process from worker on web-3, which has the most of them.",
            ask(
                Command::Resize { watcher: "worker".into(), by: -1, patience },
                &["web-3"],
                "Take a process from worker on web-3, which has the most of them",
            ),
        ),
        (
            "p",
            "Stop worker on web-1, web-2 and web-3",
            ask(
                Command::Stop { pattern: only("worker"), patience },
                &["web-1", "web-2", "web-3"],
                "Stop worker on web-1, web-2 and web-3",
            ),
        ),
        (
            "1F",
            "Move beat away from web-2",
            ask(
                Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled },
                &["web-2"],
                "Move beat away from web-2",
            ),
        ),
    ] {
        let mut screen = screen(settings(), &three());
        press(&mut screen, keys);
        let shown = picture(&screen, now(AT), (120, 24));
        assert!(shown.contains(told) || told.split(' ').all(|word| shown.contains(word)), "{keys:?}: {shown}");
        // A slip, and a no.
        press(&mut screen, "j \nn");
        assert!(!picture(&screen, now(AT), (120, 24)).contains("Sure?"));
        let again = keys.chars().last().expect("a key").to_string();
        press(&mut screen, &again);
        assert_eq!(last(&mut screen, "y"), wish, "{keys:?}");
        assert!(!picture(&screen, now(AT), (120, 24)).contains("Sure?"));
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let says = |screen: &mut Screen, keys: &str, text: &str| {
        press(screen, keys);
        let shown = picture(screen, now(AT), (120, 24));
        assert!(shown.contains(text) && !shown.contains("Sure?"), "{keys:?}: {shown}");
    };
    let three = || screen(settings(), &three());
    says(&mut three(), "l", "worker is on 3 nodes: open it, and choose one");
    says(&mut three(), "F", "worker is no singleton: it runs wherever it is configured");
    says(&mut three(), "1+", "beat is a singleton: there is one, or none");
    says(&mut three(), "3r", "choose a watcher first");
    says(&mut three(), "5x", "choose a watcher or a singleton");
    says(&mut three(), "5d", "choose a watcher, a process or a node");
    let mut nothing = Screen::new(settings());
    for key in "rpF+-xdljkG\n123\t".chars() {
        press(&mut nothing, &key.to_string());
    }
    for keys in ["r", "p", "+", "-", "F"] {
        let mut screen = screen(Settings { read_only: true, ..settings() }, &crate::frames::three());
        says(&mut screen, keys, "read only: nothing can be changed from here");
        let shown = picture(&screen, now(AT), (120, 24));
        assert!(!shown.contains("restart") || shown.contains("restarts/h"), "{shown}");
    }
}

#[test]
fn an_action_on_old_figures_says_how_old_they_are() {
    let mut screen = screen(settings(), &three());
    assert_eq!(screen.key(Key::Char('r'), now(19_000)), None);
    let shown = picture(&screen, now(19_000), (120, 24));
    assert!(shown.contains("What is shown here is") && shown.contains("12 s old."), "{shown}");
}

#[test]
fn what_is_stopped_is_started_and_what_a_singleton_does_is_asked_of_its_holder() {
    let mut stopped = watcher("web", &[]);
    stopped.state = circus_agent::model::snapshot::WatcherState::Stopped;
    let mut screen = self::screen(
        settings(),
        &[
            node("a", vec![stopped, standby("beat", Some("b"))]),
            node("b", vec![holder("beat", 1, crate::frames::SECOND)]),
        ],
    );
    press(&mut screen, "n/web\np");
    let Some(Wish::Ask { command: Command::Start { pattern, .. }, target, .. }) = last(&mut screen, "y") else {
        panic!("no start")
    };
    assert_eq!((pattern, target), (Some(Pattern::Name("web".into())), Target::node(name("a"))));
    press(&mut screen, "/beat\nr");
    let Some(Wish::Ask { target, .. }) = last(&mut screen, "y") else { panic!("no restart") };
    assert_eq!(target, Target::node(name("b")));
    assert_eq!(last(&mut screen, "l"), Some(Wish::Logs(WatcherName::parse("beat").unwrap(), name("b"))));
}

#[test]
fn a_frozen_screen_stays_as_it_was() {
    let mut screen = screen(settings(), &[node("x", vec![watcher("a", &[3.0])])]);
    press(&mut screen, "f");
    screen.frame(node("x", vec![watcher("b", &[3.0])]), now(9_000));
    let frozen = picture(&screen, now(9_400), (80, 24));
    assert!(frozen.contains("▸a ") && !frozen.contains("▸b ") && frozen.contains(" FROZEN 2s "), "{frozen}");
    press(&mut screen, "f");
    let live = picture(&screen, now(9_400), (80, 24));
    assert!(live.contains("▸b ") && live.contains(" live "), "{live}");
}

#[test]
fn q_ends_and_leaves_what_is_open_first() {
    let mut screen = screen(settings(), &three());
    for open in ["?", "r"] {
        press(&mut screen, open);
        press(&mut screen, "q");
    }
    screen.page("a page", "text", false);
    press(&mut screen, "q");
    press(&mut screen, "/q\n");
    assert_eq!(last(&mut screen, "q"), Some(Wish::Quit));
}

#[test]
fn a_thing_is_described_by_all_that_knows_of_it() {
    let read = |keys: &str| match last(&mut screen(settings(), &three()), keys) {
        Some(Wish::Read { title, questions, nodes }) => {
            let questions = questions.iter().map(circus_agent::wire::command_name).collect::<Vec<_>>().join(" ");
            format!("{title}: {questions} of {}", nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        }
        other => panic!("{keys:?}: {other:?}"),
    };
    for (keys, wanted) in [
        ("d", "worker: explain status options of web-1,web-2,web-3"),
        ("\njd", "worker: explain status options of web-3"),
        ("\nj\njd", "process 4702 of worker: explain status stats options of web-3"),
        ("1d", "beat: explain status history options of web-1,web-2,web-3"),
        ("3d", "web-1: status globaloptions of web-1"),
        ("tnjd", "web-2: status globaloptions of web-2"),
        ("x", "explain worker: explain of web-1,web-2,web-3"),
    ] {
        assert_eq!(read(keys), wanted, "{keys:?}");
    }
}

#[test]
fn the_palette_jumps_completes_and_hands_on_the_rest() {
    let mut screen = screen(settings(), &three());
    let shows = |screen: &Screen, text: &str| {
        let shown = picture(screen, now(AT), (80, 24));
        assert!(shown.contains(text), "{text:?}: {shown}");
    };
    press(&mut screen, ":nod");
    assert_eq!(screen.key(Key::Tab, now(AT)), Some(Wish::Complete("nod".into())));
    screen.complete(0, vec!["numprocesses".into(), "nodes".into()]);
    shows(&screen, ":nodes _");
    press(&mut screen, "\n");
    shows(&screen, " 3 Nodes* ");
    press(&mut screen, ":re");
    screen.complete(0, vec!["restart".into(), "reload".into(), "status".into()]);
    shows(&screen, "reload  restart");
    shows(&screen, ":re_");
    press(&mut screen, "start web --node web-1");
    assert_eq!(screen.key(Key::Enter, now(AT)), Some(Wish::Obey("restart web --node web-1".into())));
    // What was typed comes back.
    press(&mut screen, ":");
    for (key, line) in [
        (Key::Up, ":restart web --node web-1_"),
        (Key::Up, ":nodes_"),
        (Key::Up, ":nodes_"),
        (Key::Down, ":restart web --node web-1_"),
        (Key::Down, ":_"),
    ] {
        assert_eq!(screen.key(key, now(AT)), None);
        shows(&screen, line);
    }
    press(&mut screen, "\x1b");
    assert!(!picture(&screen, now(AT), (80, 24)).contains(":_"));
    press(&mut screen, ":\n:nonsense\x1b");
    press(&mut screen, ":q");
    assert_eq!(screen.key(Key::Enter, now(AT)), Some(Wish::Quit));
}

#[test]
fn what_the_palette_must_ask_about_is_done_only_after_yes() {
    let mut screen = screen(settings(), &three());
    let command = Command::Restart { pattern: None, patience: Patience::Admitted };
    let wish = Wish::Ask { command, target: Target::All, doing: "restart --all".into() };
    screen.confirm("restart without a name restarts every watcher of all nodes.", wish.clone());
    assert!(picture(&screen, now(AT), (80, 24)).contains("Sure?"));
    press(&mut screen, "n");
    assert_eq!(screen.key(Key::Char('y'), now(AT)), None);
    screen.confirm("It is meant.", wish.clone());
    assert_eq!(screen.key(Key::Char('y'), now(AT)), Some(wish));
}
