//! What uWSGI's Legion was measured at, played on legions: the rows of the table in docs/legions.md, and the checker that
//! holds all of them to the same promises.
//!
//! Three hosts, `web-1` before `web-2` before `web-3`, of which two have to live. What on_lord and on_unlord do is told by
//! herald.py, the daemon that follows the lord is a witness.py.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::agent::{Agent, Home, is_alive, wait_for};
use super::net::{Host, Net};
use super::stage::ONE_SECOND;
use super::store::{Kind, Store};
use super::verdict::Moment;
use super::witness::{Life, Witness, now};

const TOLERANCE: Duration = Duration::from_secs(3);
/// How long on_unlord takes: who does not wait for it is seen.
const UNDOING: Duration = Duration::from_millis(200);

// ------------------------------------------------------------------------------------------------- the rows

/// K3, KR, D4 and G3; O holds for every change of the lord that there is here. The shell before the daemon stays, and
/// passes no signal on.
#[test]
fn a_lord_is_killed_comes_back_and_ends() {
    let mut legion = Setup { daemon_in_shell: true, ..Setup::default() }.start();
    let first = legion.led_by("web-1");
    let daemon = legion.daemon(&first);

    let killed = legion.kill("web-1");
    let second = legion.after(&first);
    in_time("K3: the next lord", killed, &second);
    let outlived = legion.again(&daemon).last.saturating_sub(killed);
    println!("D4: the daemon outlived the agent by {:?}", Duration::from_nanos(outlived));
    assert!(!is_alive(daemon.pid), "an orphan");

    let returns = now();
    legion.launch("web-1");
    let third = legion.after(&second);
    assert_eq!((&*second.node, &*third.node), ("web-2", "web-1"));
    println!("R: the better one leads {:?} after its start", third.later_than(returns));

    let daemon = legion.daemon(&third);
    let killed = legion.kill("web-1");
    legion.launch("web-1");
    let fourth = legion.after(&third);
    in_time("KR: a lord", killed, &fourth);
    assert!(!is_alive(daemon.pid), "an orphan");

    let fourth = legion.led_by("web-1");
    legion.daemon(&fourth);
    let asked = now();
    legion.end("web-1");
    let fifth = legion.after(&fourth);
    let fourth = legion.again_lord(&fourth);
    let (undoes, undone) = fourth.undoes.zip(fourth.end).expect("it undid it");
    let took = Duration::from_nanos(undone - undoes);
    println!("G3: the next lord {:?} after, of which on_unlord took {took:?}", fifth.later_than(asked));
    assert_eq!(fifth.node, "web-2");
    legion.close();
}

/// S1, S2 and S4: the lord's agent is stopped for longer than the tolerance, and goes on.
#[test]
fn a_lords_agent_is_stopped_and_goes_on() {
    let mut legion = Setup::default().start();
    legion.lord_is_stopped("S1, S2, S4");
    legion.close();
}

/// S3: the same where a node may lead alone.
#[test]
fn a_lords_agent_is_stopped_where_one_is_enough() {
    let mut legion = Setup { quorum: 1, ..Setup::default() }.start();
    legion.lord_is_stopped("S3");
    legion.close();
}

/// P2 and P3: the lord is cut off from the others and from Redis; before that, it was alone and told of it.
#[test]
fn a_lord_is_cut_off_that_was_alone_before() {
    let mut legion = Setup { first: &["web-1"], ..Setup::default() }.start();
    legion.says("web-1", "reason=no quorum");
    legion.launch("web-2");
    legion.launch("web-3");
    legion.lord_is_cut_off("P2, P3");

    // Now the lord is with Redis, and the others are not.
    let last = legion.led_by("web-1");
    legion.daemon(&last);
    let cut = now();
    legion.net.isolate(&legion.hosts["web-2"]);
    legion.net.isolate(&legion.hosts["web-3"]);
    legion.says("web-1", "reason=no quorum");
    let ended = wait_for("its on_unlord", || legion.again_lord(&last).end);
    println!("P2: alone with Redis, unlord {:?} after the cut", Duration::from_nanos(ended.saturating_sub(cut)));
    // How long the fault lasts.
    thread::sleep(TOLERANCE);
    let mended = now();
    legion.net.mend();
    assert!(legion.after(&last).begin > mended, "a lord without a quorum");
    let next = legion.led_by("web-1");
    legion.daemon(&next);
    legion.close();
}

/// P1: the same where a node may lead alone.
#[test]
fn a_lord_is_cut_off_where_one_is_enough() {
    let mut legion = Setup { quorum: 1, ..Setup::default() }.start();
    legion.lord_is_cut_off("P1");
    legion.close();
}

/// P4: one direction of one link is lost. Between two members it carries nothing; from Redis to the lord, the lord's words
/// arrive and no answer does.
#[test]
fn one_direction_of_a_link_is_lost() {
    let mut legion = Setup::default().start();
    let first = legion.led_by("web-1");
    legion.net.cut_one_way(&legion.hosts["web-3"], &legion.hosts["web-2"]);
    let killed = legion.kill("web-1");
    let second = legion.after(&first);
    in_time("P4: the next lord", killed, &second);
    assert_eq!(second.node, "web-2");

    legion.net.mend();
    legion.launch("web-1");
    let third = legion.after(&second);
    legion.daemon(&third);
    let cut = now();
    legion.net.cut_one_way(&legion.store.servers[0].host, &legion.hosts["web-1"]);
    legion.lost.push(third.token);
    let fourth = legion.after(&third);
    let third = legion.again_lord(&third);
    println!(
        "P4: no answer from Redis: unlord {:?}, the next lord {:?} after",
        Duration::from_nanos(third.end.expect("it undid it").saturating_sub(cut)),
        fourth.later_than(cut)
    );
    assert!(legion.net.dropped() > 0, "no packet was dropped");
    legion.net.mend();
    legion.led_by("web-1");
    legion.close();
}

/// H: on_lord takes longer than the tolerance.
#[test]
fn what_a_lord_does_first_takes_longer_than_the_tolerance() {
    let long = TOLERANCE + Duration::from_secs(2);
    let legion = Setup { lord_takes: long, ..Setup::default() }.start();
    let first = legion.led_by("web-1");
    legion.daemon(&first);
    assert!(first.led.expect("it leads") - first.begin >= nanos(long));
    assert_eq!(legion.reigns().len(), 1, "somebody else was lord meanwhile: {:?}", legion.reigns());
    println!("H: on_lord took {:?}, of one lord", Duration::from_nanos(first.led.expect("it leads") - first.begin));
    legion.close();
}

/// D1: the daemon needs three seconds to stop; its agent reads its file again, and is restarted.
#[test]
fn a_daemon_takes_its_time_to_stop_when_its_agent_is_restarted() {
    let mut legion = Setup { daemon: "grace=3", ..Setup::default() }.start();
    let first = legion.led_by("web-1");
    let daemon = legion.daemon(&first);
    legion.agents["web-1"].signal(libc::SIGHUP);
    legion.agents["web-1"].logs("configuration read: ");
    legion.witness.lives_on(&daemon, ONE_SECOND);

    let asked = now();
    legion.end("web-1");
    let second = legion.after(&first);
    println!("D1: the next lord {:?} after", second.later_than(asked));
    legion.daemon(&second);
    let returns = now();
    legion.launch("web-1");
    let third = legion.after(&second);
    println!("D1: back {:?} after", third.later_than(returns));
    assert_eq!((&*second.node, &*third.node), ("web-2", "web-1"));
    legion.daemon(&third);
    let daemons = legion.witness.children();
    assert_eq!(daemons.len(), 3, "{daemons:?}");
    for one in &daemons[..2] {
        let took = one.exit.zip(one.asked).map(|(exit, asked)| Duration::from_nanos(exit - asked));
        assert!(took.is_some_and(|took| took >= Duration::from_secs(3)), "it was not left its time: {one:?}");
    }
    legion.close();
}

// ------------------------------------------------------------------------------------------------- the stage

/// What a legion starts with.
struct Setup {
    quorum: u32,
    /// Which agents are started.
    first: &'static [&'static str],
    lord_takes: Duration,
    /// Options of witness.py.
    daemon: &'static str,
    daemon_in_shell: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        let first = &["web-1", "web-2", "web-3"];
        Setup { quorum: 2, first, lord_takes: Duration::ZERO, daemon: "", daemon_in_shell: false }
    }
}

/// A legion under way. Agents end first, then Redis, then the network.
struct Legion {
    agents: BTreeMap<&'static str, Agent>,
    witness: Witness,
    home: Home,
    hosts: BTreeMap<&'static str, Host>,
    store: Store,
    net: Net,
    /// The tokens of leases that could not be kept.
    lost: Vec<u64>,
}

impl Setup {
    fn start(self) -> Legion {
        let (mut net, home) = (Net::new(), Home::new());
        let store = Store::start(Kind::Standalone, &mut net, &[]);
        let witness = Witness::new(home.path());
        let herald = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/herald.py");
        let herald = format!("cmd:/usr/bin/python3 -I -S {herald} {}", home.file("heralds").display());
        let daemon = witness.command(self.daemon);
        // With something to do afterwards the shell cannot become the daemon.
        let daemon = if self.daemon_in_shell { format!("{daemon}; true\nshell = True") } else { daemon };
        let mut hosts = BTreeMap::new();
        for (node, valor) in [("web-1", 30), ("web-2", 20), ("web-3", 10)] {
            hosts.insert(node, net.host());
            let config = format!(
                "cluster = chaos\n\n{}\n[legion:ip]\nvalor = {valor}\nquorum = {}\ntolerance = {}\nfreq = 1\n\
                 on_lord = {herald} {}\non_unlord = {herald} {}\n\n\
                 [watcher:beat]\ncmd = {daemon}\nlegion = ip\ngraceful_timeout = 10\n",
                store.section(),
                self.quorum,
                TOLERANCE.as_secs(),
                self.lord_takes.as_secs_f64(),
                UNDOING.as_secs_f64(),
            );
            home.configure(node, &config);
        }
        let mut legion = Legion { agents: BTreeMap::new(), witness, home, hosts, store, net, lost: Vec::new() };
        self.first.iter().for_each(|node| legion.launch(node));
        legion
    }
}

impl Legion {
    // --------------------------------------------------------------------------------------------- what is done

    fn launch(&mut self, node: &'static str) {
        let state = self.home.file(&format!("{node}.state")).display().to_string();
        let mut agent = self.hosts[node].run(|| self.home.launch(node, &[("CIRCUS_STATE_DIR", &state)]));
        agent.answers();
        self.agents.insert(node, agent);
    }

    /// SIGKILL for a node's agent; the moment of it.
    fn kill(&mut self, node: &str) -> Moment {
        let moment = now();
        self.agents.remove(node).expect("it runs").kill();
        moment
    }

    /// Ends a node's agent in order.
    fn end(&mut self, node: &str) {
        let mut agent = self.agents.remove(node).expect("it runs");
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }

    /// The lord's agent is stopped until another one has led for a while; then it goes on.
    fn lord_is_stopped(&mut self, row: &str) {
        let first = self.led_by("web-1");
        let daemon = self.daemon(&first);
        let stopped = now();
        self.agents["web-1"].signal(libc::SIGSTOP);
        self.lost.push(first.token);
        let second = self.after(&first);
        in_time(&format!("{row}: the next lord"), stopped, &second);
        let alone = second.later_than(self.again(&daemon).last);
        println!("{row}: the daemon of the one that is stopped ended {alone:?} before");
        assert!(!is_alive(daemon.pid), "two daemons");
        let daemon = self.daemon(&second);
        self.witness.lives_on(&daemon, TOLERANCE);

        let going = now();
        self.agents["web-1"].signal(libc::SIGCONT);
        let third = self.after(&second);
        assert_eq!((&*second.node, &*third.node), ("web-2", "web-1"));
        let undone = self.again_lord(&second).end.expect("it undid it");
        let (took, gap) = (Duration::from_nanos(undone.saturating_sub(going)), third.later_than(undone));
        println!("{row}: the other's unlord {took:?} after it goes on, lord {gap:?} after that");
        self.daemon(&third);
    }

    /// The lord is cut off from all others, until another one has led for a while; then it is back.
    fn lord_is_cut_off(&mut self, row: &str) {
        let first = self.led_by("web-1");
        self.daemon(&first);
        let cut = now();
        self.net.isolate(&self.hosts["web-1"]);
        self.lost.push(first.token);
        let second = self.after(&first);
        let first = self.again_lord(&first);
        let undone = Duration::from_nanos(first.end.expect("it undid it").saturating_sub(cut));
        println!("{row}: unlord {undone:?} after the cut");
        in_time(&format!("{row}: the next lord"), cut, &second);
        assert!(self.net.dropped() > 0, "no packet was dropped");
        let daemon = self.daemon(&second);
        self.witness.lives_on(&daemon, TOLERANCE);

        let mended = now();
        self.net.mend();
        let third = self.after(&second);
        assert_eq!((&*second.node, &*third.node), ("web-2", "web-1"));
        println!("{row}: lord {:?} after all is mended", third.later_than(mended));
    }

    // --------------------------------------------------------------------------------------------- what is seen

    /// All reigns so far, in the order of their beginnings.
    fn reigns(&self) -> Vec<Reign> {
        reigns(&fs::read_to_string(self.home.file("heralds")).unwrap_or_default())
    }

    /// Waits until this node leads.
    #[track_caller]
    fn led_by(&self, node: &str) -> Reign {
        let leads = |reign: &Reign| reign.node == node && reign.led.is_some() && reign.undoes.is_none();
        wait_for(&format!("{node} to lead"), || self.reigns().pop().filter(leads))
    }

    /// Waits until the reign after this one has come to lead.
    #[track_caller]
    fn after(&self, before: &Reign) -> Reign {
        let next = |reign: &Reign| reign.token > before.token && reign.led.is_some();
        wait_for(&format!("a lord after {before:?}"), || self.reigns().into_iter().find(next))
    }

    /// A reign as it is told of now.
    #[track_caller]
    fn again_lord(&self, reign: &Reign) -> Reign {
        self.reigns().into_iter().find(|same| same.token == reign.token).expect("a reign that was seen")
    }

    /// Waits until the daemon of this reign runs.
    #[track_caller]
    fn daemon(&self, of: &Reign) -> Life {
        let daemon = |life: &Life| life.token == of.token && life.is_alive();
        wait_for("the daemon", || self.witness.children().into_iter().find(daemon))
    }

    /// A daemon as it is told of now.
    #[track_caller]
    fn again(&self, daemon: &Life) -> Life {
        let same = |life: &Life| (life.pid, life.token) == (daemon.pid, daemon.token);
        self.witness.children().into_iter().find(same).expect("a daemon that was seen")
    }

    /// Waits until the file of a node's agent has a line that begins so.
    #[track_caller]
    fn says(&self, node: &str, start: &str) {
        let file = self.home.file(&format!("{node}.sock.legions/ip"));
        wait_for(&format!("{start} in {}", file.display()), || {
            fs::read_to_string(&file).ok()?.lines().any(|line| line.starts_with(start)).then_some(())
        });
    }

    // --------------------------------------------------------------------------------------------- the judgement

    /// Ends all agents, the lord's last, and judges all that was seen.
    #[track_caller]
    fn close(mut self) {
        while let Some((_, mut agent)) = self.agents.pop_last() {
            agent.signal(libc::SIGTERM);
            agent.exits(0);
        }
        self.home.is_clean();
        self.witness.check_over();
        let (reigns, daemons) = (self.reigns(), self.witness.children());
        for pair in reigns.windows(2) {
            let gap = pair[0].end.map(|end| pair[1].later_than(end));
            println!("O: on_lord of {} begins {gap:?} after on_unlord of {}", pair[1].node, pair[0].node);
        }
        assert_eq!(broken(&reigns, &daemons, &self.lost), [""; 0], "{reigns:#?}\n{daemons:#?}");
    }
}

/// Tells how long it took until somebody led, which is no longer than was promised.
#[track_caller]
fn in_time(what: &str, since: Moment, reign: &Reign) {
    let took = reign.later_than(since);
    println!("{what} {took:?} after");
    assert!(took <= TOLERANCE + ONE_SECOND, "{what}: {took:?}");
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

// ------------------------------------------------------------------------------------------------- the checker

/// A node's time as lord: from the beginning of its on_lord to the end of its on_unlord.
#[derive(Debug, Clone, PartialEq)]
struct Reign {
    node: String,
    token: u64,
    begin: Moment,
    /// The end of its on_lord.
    led: Option<Moment>,
    /// The beginning of its on_unlord.
    undoes: Option<Moment>,
    end: Option<Moment>,
}

impl Reign {
    fn later_than(&self, moment: Moment) -> Duration {
        Duration::from_nanos(self.begin.saturating_sub(moment))
    }
}

/// What the heralds told. A line that is not whole is being written.
#[track_caller]
fn reigns(told: &str) -> Vec<Reign> {
    let mut reigns: Vec<Reign> = Vec::new();
    for line in told.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [event, part, at, node, token] = words[..] else { panic!("a torn line: {line:?}") };
        let at: Moment = at.parse().expect("a moment");
        if (event, part) == ("lord", "begin") {
            let (node, token) = (node.to_owned(), token.parse().expect("a token"));
            reigns.push(Reign { node, token, begin: at, led: None, undoes: None, end: None });
            continue;
        }
        let reign = reigns.iter_mut().rev().find(|reign| reign.node == node);
        let reign = reign.unwrap_or_else(|| panic!("{node} undoes what it never did: {line:?}"));
        let field = match (event, part) {
            ("lord", "end") => &mut reign.led,
            ("unlord", "begin") => &mut reign.undoes,
            ("unlord", "end") => &mut reign.end,
            _ => panic!("what is {line:?}?"),
        };
        assert_eq!(field.replace(at), None, "twice: {line:?}");
    }
    reigns
}

/// Every promise that was broken, in words: unlord before lord, tokens grow, and daemons run from their lord's on_lord to
/// its on_unlord. Where the lease was lost they are stopped together with the lord, and gone before the next one. That no
/// two daemons ran is [`Witness::check`]'s to say.
fn broken(reigns: &[Reign], daemons: &[Life], lost: &[u64]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut in_order: Vec<&Reign> = reigns.iter().collect();
    in_order.sort_by_key(|reign| reign.begin);
    match in_order.last() {
        None => broken.push("nobody ever led".into()),
        Some(last) if last.end.is_none() => broken.push(format!("never undone: {last:?}")),
        Some(_) => {}
    }
    for pair in in_order.windows(2) {
        let (reign, next) = (pair[0], pair[1]);
        if reign.end.is_none_or(|end| end > next.begin) {
            broken.push(format!("two lords: {reign:?}, {next:?}"));
        }
        if reign.token >= next.token {
            broken.push(format!("token {} after {}", next.token, reign.token));
        }
    }
    for daemon in daemons {
        let its = |reign: &&Reign| reign.token == daemon.token && reign.node == daemon.node;
        let Some(at) = in_order.iter().position(its) else {
            broken.push(format!("a daemon without a lord: {daemon:?}"));
            continue;
        };
        let reign = in_order[at];
        if reign.led.is_none_or(|led| led > daemon.start) {
            broken.push(format!("a daemon before its lord: {daemon:?}, {reign:?}"));
        }
        let until = match lost.contains(&reign.token) {
            true => in_order.get(at + 1).map(|next| next.begin),
            false => reign.undoes,
        };
        if until.is_some_and(|until| until < daemon.last) {
            broken.push(format!("a daemon after its lord: {daemon:?}, {reign:?}"));
        }
    }
    broken
}

/// The rows that the page has to have: those that are played here.
const ROWS: &[&str] = &["K3", "G3", "KR", "S1", "S2", "S3", "S4", "P1", "P2", "P3", "P4", "O", "H", "D1", "D4", "C"];

/// Each row of the page names a test, which is there; and each test here has its row.
#[test]
fn the_page_has_every_row_and_names_its_test() {
    let page = include_str!("../../docs/legions.md");
    let table = page.split("| row | ").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the table");
    let mut named = BTreeMap::new();
    for line in table.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, uwsgi, ours, test] = cells[..] else { panic!("{line}") };
        assert!(!uwsgi.is_empty() && !ours.is_empty(), "{line}");
        named.insert(row, test.trim_matches('`'));
    }
    for row in ROWS {
        assert!(named.contains_key(row), "docs/legions.md has no row {row}");
    }
    let tests = tests_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    for (row, test) in &named {
        assert!(tests.iter().any(|known| known == test), "{row}: no test is called {test}");
    }
    let here = include_str!("legions.rs").split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split("()").next());
    let about_itself = ["the_page_has_every_row_and_names_its_test"];
    for test in here.filter(|test| !about_itself.contains(test)) {
        assert!(named.values().any(|known| *known == test), "docs/legions.md does not name {test}");
    }
}

/// The names of all tests below a directory.
fn tests_in(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).expect("tests").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            names.extend(tests_in(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).expect("a test");
            names.extend(
                text.split("#[test]\nfn ").skip(1).filter_map(|rest| Some(rest.split_once("()")?.0.to_owned())),
            );
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "lord begin 10 a 5\nlord end 12 a 5\nunlord begin 30 a 5\nunlord end 32 a 5\n\
                        lord begin 33 b 6\nlord end 34 b 6\nunlord begin 50 b -\nunlord end 51 b -\nlord beg";

    fn daemon(node: &str, token: u64, start: u64, last: u64) -> Life {
        Life { pid: 1, node: node.into(), token, parent: None, start, last, asked: None, exit: None }
    }

    #[test]
    fn what_was_kept_is_found_kept() {
        let told = reigns(TOLD);
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].led, told[0].undoes, told[0].end), (Some(12), Some(30), Some(32)));
        assert_eq!(broken(&told, &[daemon("a", 5, 13, 29), daemon("b", 6, 35, 49)], &[]), [""; 0]);
        // It was stopped together with the lord.
        assert_eq!(broken(&told, &[daemon("a", 5, 13, 32)], &[5]), [""; 0]);
    }

    #[test]
    fn what_was_broken_is_seen() {
        let all = |told: &str, daemons: &[Life], lost: &[u64]| broken(&reigns(told), daemons, lost).join("; ");
        assert_eq!(all("", &[], &[]), "nobody ever led");
        // The old one undoes it after the new one began, or never does, or the last one does not.
        for (old, new, seen) in [
            ("unlord end 32", "unlord end 34", "two lords"),
            ("unlord end 32 a 5\n", "", "two lords"),
            ("unlord end 51 b -\n", "", "never undone"),
            ("b 6", "b 5", "token 5 after 5"),
        ] {
            let said = all(&TOLD.replace(old, new), &[], &[]);
            assert!(said.contains(seen), "{seen}: {said}");
        }
        for (daemon, lost, seen) in [
            (daemon("a", 5, 11, 20), &[][..], "before its lord"),
            (daemon("a", 5, 13, 31), &[], "after its lord"),
            (daemon("a", 5, 13, 34), &[5], "after its lord"),
            (daemon("a", 6, 35, 40), &[], "without a lord"),
        ] {
            let said = all(TOLD, &[daemon], lost);
            assert!(said.contains(seen), "{seen}: {said}");
        }
    }
}
