//! What keys do.

use circus_agent::model::command::{Command, Patience};
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::view::top::{Key, Screen, Settings, Wish};

use crate::frames::{holder, name, node, now, settings, standby, three, watcher};
use crate::pictures::{AT, picture, press, screen};

fn last(screen: &mut Screen, keys: &str) -> Option<Wish> {
    let (most, key) = keys.split_at(keys.len() - 1);
    press(screen, most);
    screen.key(Key::Char(key.chars().next().expect("a key")), now(AT))
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
    assert_eq!(last(&mut screen, "x"), Some(Wish::Explain(WatcherName::parse("b").unwrap())));
    // It is gone: the one in its place is chosen.
    screen.frame(node("x", vec![watcher("a", &[3.0]), watcher("c", &[1.0])]), now(AT));
    assert_eq!(last(&mut screen, "x"), Some(Wish::Explain(WatcherName::parse("c").unwrap())));
    for (keys, chosen) in [("gg", "a"), ("G", "c"), ("kkkk", "a"), ("jjjj", "c"), ("ggg", "a")] {
        press(&mut screen, keys);
        assert_eq!(last(&mut screen, "x"), Some(Wish::Explain(WatcherName::parse(chosen).unwrap())), "{keys}");
    }
}

#[test]
fn nothing_is_done_that_was_not_confirmed() {
    let ask = |command, nodes: &[&str], doing: &str| {
        let nodes = nodes.iter().map(|node| name(node)).collect();
        Some(Wish::Ask { command, nodes, doing: doing.into() })
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
    says(&mut three(), "+", "worker is on 3 nodes: open it, and choose one");
    says(&mut three(), "l", "worker is on 3 nodes: open it, and choose one");
    says(&mut three(), "F", "worker is no singleton: it runs wherever it is configured");
    says(&mut three(), "1+", "beat is a singleton: there is one, or none");
    says(&mut three(), "3r", "choose a watcher first");
    says(&mut three(), "5x", "choose a watcher or a singleton");
    let mut nothing = Screen::new(settings());
    for key in "rpF+-xljkG\n123\t".chars() {
        press(&mut nothing, &key.to_string());
    }
    for keys in ["r", "p", "+", "-", "F"] {
        let mut screen = screen(Settings { read_only: true, ..settings() }, &crate::frames::three());
        says(&mut screen, keys, "read only: nothing can be changed from here");
        let shown = picture(&screen, now(AT), (120, 24));
        assert!(!shown.contains("restart") || shown.contains("restarts 1"), "{shown}");
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
    let Some(Wish::Ask { command: Command::Start { pattern, .. }, nodes, .. }) = last(&mut screen, "y") else {
        panic!("no start")
    };
    assert_eq!((pattern, nodes), (Some(Pattern::Name("web".into())), vec![name("a")]));
    press(&mut screen, "/beat\nr");
    let Some(Wish::Ask { nodes, .. }) = last(&mut screen, "y") else { panic!("no restart") };
    assert_eq!(nodes, [name("b")]);
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
