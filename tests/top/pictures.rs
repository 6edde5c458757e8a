//! The screen as text, against `tests/top/*.txt`; `UPDATE_GOLDEN=1` writes those anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use circus_agent::model::stats::NodeStats;
use circus_agent::view::top::{self, Key, Link, Listed, Now, Screen, Settings};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;
use serde_json::json;

use crate::frames::{self, holder, ill, node, now, settings, standby, three, watcher};

/// The screen as a terminal of that size has it, by ratatui's own way there.
pub(crate) fn buffer(screen: &Screen, at: Now, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| top::draw(screen, at, frame.area(), frame.buffer_mut())).expect("a picture");
    terminal.backend().buffer().clone()
}

pub(crate) fn picture(screen: &Screen, at: Now, size: (u16, u16)) -> String {
    text_lines(&buffer(screen, at, size)).iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Its lines, without the cells that a wide character before them covers.
fn text_lines(buffer: &Buffer) -> Vec<String> {
    let line = |y| {
        let (mut line, mut x) = (String::new(), 0);
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += Span::raw(symbol).width().max(1) as u16;
        }
        line
    };
    (0..buffer.area.height).map(line).collect()
}

#[track_caller]
fn compare(name: &str, found: &str) {
    let golden = Path::new("tests/top").join(name).with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).expect("the golden file");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(found == expected, "the picture is not as in {}:\n{found}", golden.display());
}

/// A screen that has heard these nodes for some seconds, and some events.
pub(crate) fn screen(settings: Settings, nodes: &[NodeStats]) -> Screen {
    let mut screen = Screen::new(settings);
    screen.link(Link::Up);
    for second in 0..8 {
        for stats in nodes {
            let mut stats = stats.clone();
            for process in stats.watchers.iter_mut().flat_map(|watcher| &mut watcher.processes) {
                process.used.cpu *= [0.2, 0.4, 0.7, 1.0, 0.9, 0.5, 0.6, 1.0][second as usize];
            }
            let (node, history) = (stats.node.clone(), frames::history(&stats));
            screen.frame(stats, now(second * 1_000));
            if second == 0 {
                screen.history(&node, &history);
            }
        }
    }
    let hours_ago = |hours: f64| now(0).unix - hours * 3_600.0;
    screen.tenures(&json!({"history": [{"name": "beat", "tenures": [
        {"to": "web-2", "start": hours_ago(6.02), "end": null, "cause": "moved"},
        {"to": "web-1", "start": hours_ago(9.5), "end": hours_ago(6.03), "cause": "died"},
        {"to": "web-3", "start": hours_ago(21.0), "end": hours_ago(9.6), "cause": "first"},
    ]}]}));
    for (time, watcher, event, body) in [
        (1_795_384_800.0, "beat", "start", json!({})),
        (1_795_385_319.0, "worker", "reap", json!({"wid": 2, "process_pid": 4702, "exit_code": -9})),
        (1_795_385_320.5, "worker", "spawn", json!({"wid": 2, "process_pid": 4710})),
    ] {
        let event = json!({"event": event, "watcher": watcher, "node": "web-3", "time": time, "body": body});
        screen.event(&event);
    }
    screen
}

/// The moment after [`screen`]'s last frame.
pub(crate) const AT: u64 = 7_400;

pub(crate) fn press(screen: &mut Screen, keys: &str) {
    for c in keys.chars() {
        let key = match c {
            '\n' => Key::Enter,
            '\x1b' => Key::Escape,
            '\t' => Key::Tab,
            c => Key::Char(c),
        };
        assert_eq!(screen.key(key, now(AT)), None, "{keys:?}");
    }
}

fn listed(name: &str, state: &str) -> Listed {
    let up = Some(Duration::from_secs(1_036_800));
    Listed { name: frames::name(name), state: state.into(), up, holds: vec![] }
}

#[test]
fn the_screen_at_three_sizes() {
    let mut screen = screen(settings(), &three());
    screen.roster(["web-1", "web-2", "web-3"].map(|name| listed(name, "up")).into());
    for size in [(80, 24), (120, 40), (200, 60)] {
        compare(&format!("{}x{}", size.0, size.1), &picture(&screen, now(AT), size));
    }
    press(&mut screen, "\nj\nj");
    compare("open_80x24", &picture(&screen, now(AT), (80, 24)));
    press(&mut screen, "te");
    compare("by_node_expanded_120x40", &picture(&screen, now(AT), (120, 40)));
    press(&mut screen, "te3");
    compare("nodes_80x24", &picture(&screen, now(AT), (80, 24)));
    assert_eq!(picture(&screen, now(AT), (20, 5)).lines().next(), Some("too small"));
}

#[test]
fn without_utf_8_there_is_only_ascii() {
    let mut screen = screen(Settings { unicode: false, ..settings() }, &three());
    let mut japanese = three().remove(0);
    japanese.watchers[1] = watcher("時計", &[5.0]);
    screen.frame(japanese, now(7_100));
    press(&mut screen, "\n");
    let picture = picture(&screen, now(AT), (80, 24));
    assert!(picture.is_ascii(), "{picture}");
    compare("ascii_80x24", &picture);
}

#[test]
fn what_is_old_is_dim_and_called_stale() {
    let mut screen = screen(settings(), &three());
    let live = buffer(&screen, now(AT), (80, 24));
    let dim = |buffer: &Buffer| buffer[(3, 8)].modifier.contains(Modifier::DIM);
    assert!(!dim(&live) && text_lines(&live)[0].contains(" live "));
    // The frames stop.
    let stale = buffer(&screen, now(19_000), (80, 24));
    assert!(dim(&stale) && text_lines(&stale)[0].contains(" STALE 12s "), "{stale:?}");
    compare("stale_80x24", &picture(&screen, now(19_000), (80, 24)));
    // The connection breaks: no need to wait then.
    screen.link(Link::Down("Redis: connection refused".into()));
    let broken = picture(&screen, now(8_000), (80, 24));
    assert!(broken.contains(" STALE 1s ") && broken.contains("Redis: connection refused; trying again"), "{broken}");
    // And all is well again.
    screen.link(Link::Up);
    screen.frame(three().remove(0), now(20_000));
    let back = buffer(&screen, now(20_100), (80, 24));
    assert!(!dim(&back) && text_lines(&back)[0].contains(" 1/3 nodes "), "{back:?}");
    assert!(text_lines(&back)[0].contains(" live "), "{back:?}");
}

#[test]
fn a_node_that_falls_silent_counts_no_more() {
    let mut screen = screen(settings(), &three());
    for second in 8..20 {
        for stats in &three()[..2] {
            screen.frame(stats.clone(), now(second * 1_000));
        }
    }
    // The holder's turn.
    press(&mut screen, "\n");
    compare("silent_node_120x40", &picture(&screen, now(19_400), (120, 40)));
    let mut screen = self::screen(settings(), &three());
    for second in 8..20 {
        screen.frame(three().remove(0), now(second * 1_000));
    }
    let picture = picture(&screen, now(19_400), (120, 40));
    let beat = picture.lines().find(|line| line.contains("beat")).unwrap_or_default();
    assert!(beat.contains("stale") && beat.contains("web-2") && !beat.contains("1795"), "{picture}");
}

#[test]
fn nobody_and_two_are_alarms() {
    let two = [
        node("a", vec![holder("beat", 3, 4 * frames::SECOND)]),
        node("b", vec![holder("beat", 4, 4 * frames::SECOND)]),
    ];
    let conflict = picture(&screen(settings(), &two), now(AT), (80, 24));
    assert!(conflict.lines().any(|line| line.contains("beat") && line.contains("conflict  b ")), "{conflict}");
    let none = [node("a", vec![standby("beat", None)]), node("b", vec![standby("beat", None)])];
    let vacant = picture(&screen(settings(), &none), now(AT), (80, 24));
    assert!(vacant.lines().any(|line| line.contains("beat") && line.contains("vacant    -")), "{vacant}");
}

#[test]
fn what_silent_nodes_may_have_is_not_called_vacant() {
    let line = |screen: &Screen, at: u64| {
        let picture = picture(screen, now(at), (80, 24));
        picture.lines().find(|line| line.contains("beat")).unwrap_or_default().to_owned()
    };
    let mut two = screen(settings(), &[node("a", vec![standby("beat", None)]), node("b", vec![standby("beat", None)])]);
    for second in 8..14 {
        two.frame(node("a", vec![standby("beat", None)]), now(second * 1_000));
    }
    assert!(line(&two, 13_100).contains("unknown"), "b is silent: {}", line(&two, 13_100));
    let mut own = screen(settings(), &[node("a", vec![standby("beat", None)])]);
    assert!(line(&own, AT).contains("vacant"), "{}", line(&own, AT));
    own.link(Link::Own("Redis: connection refused; only this node is heard".into()));
    assert!(line(&own, AT).contains("unknown"), "{}", line(&own, AT));
    let shown = picture(&own, now(AT), (80, 24));
    assert!(shown.contains(" OWN NODE ONLY ") && shown.contains("Redis: connection refused; only this"), "{shown}");
    assert!(!shown.contains(" live "), "{shown}");
}

#[test]
fn curves_begin_with_what_nodes_have_kept() {
    let web = || node("a", vec![watcher("web", &[50.0])]);
    let curve = |screen: &Screen| {
        let picture = picture(screen, now(AT), (120, 24));
        let row = picture.lines().find(|line| line.contains("▸web ")).unwrap_or_default().to_owned();
        row.chars().filter(|c| ('▁'..='█').contains(c)).collect::<String>()
    };
    let mut screen = Screen::new(settings());
    screen.frame(web(), now(0));
    assert_eq!(curve(&screen), "█");
    screen.history(&frames::name("a"), &frames::history(&web()));
    assert_eq!(curve(&screen), "▆▂▂▃▅▇██");
}

#[test]
fn restarts_and_events_are_counted_while_it_is_watched() {
    let restarted = |times: u64| {
        let web = watcher("web", &[1.0]);
        node("a", vec![circus_agent::model::stats::WatcherStats { restarts: times, ..web }])
    };
    let mut screen = Screen::new(settings());
    for (second, times) in [(0, 40), (1, 40), (2, 43), (3, 0), (4, 1)] {
        screen.frame(restarted(times), now(second * 1_000));
    }
    for ago in [1.0, 2.0, 30.0, 61.0, 5_000.0] {
        screen.event(
            &json!({"event": "start", "watcher": "web", "node": "a", "time": now(4_000).unix - ago, "body": {}}),
        );
    }
    let rates = |screen: &Screen, at: u64| {
        let picture = picture(screen, now(at), (120, 24));
        let line = picture.lines().nth(1).unwrap_or_default();
        line[line.find("restarts/h").unwrap_or(0)..].trim_end_matches(['│', ' ']).to_owned()
    };
    // Three and one; an agent that began anew takes nothing away.
    assert_eq!(rates(&screen, 4_000), "restarts/h 4   events/s 0.1");
    screen.frame(restarted(1), now(3_603_000));
    assert_eq!(rates(&screen, 3_603_500), "restarts/h 1   events/s 0.0");
}

#[test]
fn a_node_that_cannot_tell_how_it_is_says_why_and_says_it_once() {
    let mut screen = screen(settings(), &three());
    let why = "what web-4 uses takes 5.1 MiB to tell, and 4 are the most: it is not shown";
    let says = |screen: &Screen| picture(screen, now(AT), (120, 24)).contains(why);
    screen.roster(vec![listed("web-4", "up")]);
    for _ in 0..2 {
        screen.untold(frames::name("web-4"), why.into());
    }
    assert!(says(&screen));
    press(&mut screen, "j");
    screen.untold(frames::name("web-4"), why.into());
    assert!(!says(&screen), "nobody wants to read that each second");
    press(&mut screen, "3G");
    assert!(says(&screen), "who chooses the node reads it");
    screen.frame(node("web-4", vec![]), now(AT));
    assert!(!says(&screen));
}

#[test]
fn a_node_that_drains_shows_how_far_it_is() {
    let mut down = watcher("web", &[]);
    down.wanted = 2;
    let mut screen = screen(
        settings(),
        &[node("a", vec![down.clone(), holder("beat", 1, frames::SECOND), watcher("worker", &[1.0, 2.0])])],
    );
    screen.roster(vec![listed("a", "draining")]);
    press(&mut screen, "3");
    let shown = picture(&screen, now(AT), (120, 24));
    assert!(
        shown.contains("▓▓▓░░░░░ 1/3 down") && shown.contains("a drains: 1/3 down, 3 processes left, holds beat"),
        "{shown}"
    );
    screen.frame(node("a", vec![down]), now(AT));
    assert!(picture(&screen, now(AT), (120, 24)).contains("a drains: all is down"));
}

#[test]
fn a_lease_runs_on_between_two_frames() {
    let screen = screen(settings(), &three());
    let line = |ms| {
        let picture = picture(&screen, now(ms), (120, 24));
        picture.lines().find(|line| line.contains("beat")).unwrap_or_default().to_owned()
    };
    assert!(line(7_000).contains("▓▓▓▓▓▓▓░░ 4.1s"), "{}", line(7_000));
    assert!(line(8_000).contains("▓▓▓▓▓▓░░░ 3.1s"), "{}", line(8_000));
}

#[test]
fn a_filter_shows_what_fits_and_what_that_belongs_to() {
    let mut screen = screen(settings(), &three());
    press(&mut screen, "\n/state=backoff and cpu>50\n");
    compare("filter_80x24", &picture(&screen, now(AT), (80, 24)));
    press(&mut screen, "/(");
    let wrong = picture(&screen, now(AT), (80, 24));
    assert!(wrong.contains("is no regular expression"), "{wrong}");
    press(&mut screen, "\x1b/nobody\n");
    assert!(picture(&screen, now(AT), (80, 24)).contains("nothing passes the filter; Esc takes it away"));
    press(&mut screen, "\x1b");
    assert!(picture(&screen, now(AT), (80, 24)).contains("filter - "));
}

#[test]
fn dialogs_help_and_pages_lie_over_the_panels() {
    let mut screen = screen(settings(), &three());
    press(&mut screen, "r");
    compare("dialog_80x24", &picture(&screen, now(AT), (80, 24)));
    press(&mut screen, "n?");
    compare("help_80x24", &picture(&screen, now(AT), (80, 24)));
    press(&mut screen, "\x1b");
    let text: String = (1..100).map(|line| format!("line {line}\n")).collect();
    screen.page("beat on web-1", &text, true);
    let page = picture(&screen, now(AT), (80, 24));
    assert!(page.contains("line 99 ") && !page.contains("line 78 ") && page.contains(" following "), "{page}");
    press(&mut screen, "k");
    screen.page_line("line 100");
    let page = picture(&screen, now(AT), (80, 24));
    assert!(page.contains("line 98 ") && !page.contains("line 99 "), "who reads is not disturbed: {page}");
    press(&mut screen, "G");
    assert!(picture(&screen, now(AT), (80, 24)).contains("line 100 "));
    press(&mut screen, "gg");
    compare("page_80x24", &picture(&screen, now(AT), (80, 24)));
}

#[test]
fn an_empty_cluster_says_so() {
    let mut screen = Screen::new(settings());
    compare("nothing_yet_80x24", &picture(&screen, now(AT), (80, 24)));
    screen.link(Link::Down("no agent reached at /run/circus/a.sock: No such file or directory".into()));
    let picture_of_none = picture(&screen, now(AT), (80, 24));
    assert!(picture_of_none.contains(" NOT CONNECTED ") && picture_of_none.contains("nothing was heard"));
    screen.link(Link::Up);
    screen.frame(node("web-1", vec![]), now(7_000));
    compare("no_watchers_80x24", &picture(&screen, now(AT), (80, 24)));
}

#[test]
fn hostile_names_stay_in_their_cells() {
    let mut evil = watcher("x", &[1.0, 2.0, 3.0]);
    evil.processes[0].program = "\x1b[2J\x1b]0;evil\x07\r\n".into();
    evil.processes[1].program = "e\u{301}\u{202e}gnp\u{200b}.時計".into();
    evil.processes[2].program = "y".repeat(300);
    evil.note = Some("a\tb\x1b[31m\nred".into());
    let mut screen = screen(
        settings(),
        &[node(
            "a",
            vec![evil, watcher(&"長い名前".repeat(30), &[9.0]), ill(&"w".repeat(300), &[8.0], 1, &"n".repeat(300))],
        )],
    );
    press(&mut screen, "n/!w\n\nG");
    press(&mut screen, "/x\n\n\n\x1b");
    let picture = picture(&screen, now(AT), (80, 24));
    assert!(!picture.chars().any(|c| c.is_control() && c != '\n'), "{picture:?}");
    compare("hostile_80x24", &picture);
}

#[test]
fn colours_are_for_states_and_only_where_they_are_wanted() {
    let colours = |colour| {
        let buffer = buffer(&screen(Settings { colour, ..settings() }, &three()), now(AT), (80, 24));
        buffer.content.iter().map(|cell| cell.fg).filter(|colour| *colour != Color::Reset).collect::<Vec<_>>()
    };
    assert_eq!(colours(false), []);
    let coloured = colours(true);
    assert!(coloured.contains(&Color::Red) && coloured.contains(&Color::Green), "backoff and active: {coloured:?}");
}

#[test]
fn once_all_there_is_is_shown() {
    let many = (0..100).map(|i| watcher(&format!("w{i}"), &[1.0])).collect();
    let text = top::lines(&screen(settings(), &[node("a", many)]), now(AT), 100);
    assert!((0..100).all(|i| text.contains(&format!("▸w{i} "))), "{text}");
    compare("once", &top::lines(&screen(settings(), &three()), now(AT), 100));
}

#[test]
fn the_manual_shows_what_the_program_does() {
    let manual = fs::read_to_string("docs/circus-top.md").expect("the manual");
    let shown = fs::read_to_string("tests/top/open_80x24.txt").expect("the picture");
    assert!(manual.contains(&shown), "the picture in docs/circus-top.md is not tests/top/open_80x24.txt");
}
