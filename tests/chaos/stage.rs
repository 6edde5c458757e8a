//! What a scenario plays on: agents of one cluster, each on a host of its own, a Redis of one kind, and the witness.
//!
//! A scenario does its fault and says what must hold then; the runner judges it in the end, and writes a row.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::agent::{self, Agent, Home, is_alive};
use super::clock::Clock;
use super::net::{Host, Net};
use super::store::{Kind, LEASE, Store};
use super::verdict::{Claim, Frozen, Moment, Verdict, judge};
use super::witness::{Life, Witness, now};

/// What the specification grants beyond a ttl.
pub const ONE_SECOND: Duration = Duration::from_secs(1);
/// How long a scenario is watched after the last thing that had to happen in it.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);

/// What a scenario starts with.
pub struct Setup {
    kind: Kind,
    scenario: &'static str,
    agents: usize,
    ttl: Duration,
    child: String,
    redis: String,
    watcher: String,
    clocks: Option<(Clock, Clock)>,
}

impl Setup {
    /// Three agents, a child that ends when it is asked to, and leases of three seconds.
    pub fn new(kind: Kind, scenario: &'static str) -> Setup {
        let ttl = Duration::from_secs(3);
        let (child, redis, watcher) = Default::default();
        Setup { kind, scenario, agents: 3, ttl, child, redis, watcher, clocks: None }
    }

    pub fn agents(self, agents: usize) -> Setup {
        Setup { agents, ..self }
    }

    /// Options of witness.py.
    pub fn child(self, child: &str) -> Setup {
        Setup { child: child.to_owned(), ..self }
    }

    /// The kind of Redis that it is played on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// More lines about Redis.
    pub fn redis(self, redis: &str) -> Setup {
        Setup { redis: redis.to_owned(), ..self }
    }

    /// More lines of the watcher.
    pub fn watcher(self, watcher: &str) -> Setup {
        Setup { watcher: watcher.to_owned(), ..self }
    }

    /// With wall clocks that can be stepped: see [`Stage::clocks`].
    pub fn with_clocks(self) -> Setup {
        Setup { clocks: Some((Clock::new(), Clock::new())), ..self }
    }

    /// Starts Redis and all agents, and waits until one runs the child and the others stand by.
    pub fn start(self) -> Stage {
        let mut stage = self.start_apart(|_| ());
        stage.opens();
        stage
    }

    /// Starts Redis, has this done to it, and then starts the agents; waits for nothing.
    pub fn start_apart(self, first: impl FnOnce(&mut Stage)) -> Stage {
        let begun = Instant::now();
        let (mut net, home) = (Net::new(), Home::new());
        let redis_clock = self.clocks.as_ref().map(|(redis, _)| redis.environment());
        let store = Store::start(self.kind, &mut net, redis_clock.as_ref().map_or(&[], |clock| clock));
        let hosts = (1..=self.agents).map(|number| (format!("web-{number}"), net.host())).collect();
        let witness = Witness::new(home.path());
        let config = format!(
            "{}{}lease_ttl = {}ms\n\n[watcher:beat]\ncmd = {}\nsingleton = true\ngraceful_timeout = 1s\n{}",
            store.section(),
            self.redis,
            self.ttl.as_millis(),
            witness.command(&self.child),
            self.watcher
        );
        let (scenario, ttl, agents) = (self.scenario, self.ttl, BTreeMap::new());
        let (claims, frozen, note, row) = (Vec::new(), Vec::new(), String::new(), false);
        let mut stage = Stage {
            agents,
            scenario,
            clocks: self.clocks,
            ttl,
            witness,
            config,
            claims,
            frozen,
            note,
            begun,
            row,
            home,
            hosts,
            store,
            net,
        };
        first(&mut stage);
        for name in stage.hosts.keys().cloned().collect::<Vec<_>>() {
            stage.launch(&name);
        }
        stage.agents.values_mut().for_each(Agent::answers);
        stage
    }
}

/// A scenario under way. Agents end first, then Redis, then the network.
pub struct Stage {
    agents: BTreeMap<String, Agent>,
    scenario: &'static str,
    clocks: Option<(Clock, Clock)>,
    pub ttl: Duration,
    pub witness: Witness,
    config: String,
    claims: Vec<Claim>,
    frozen: Vec<Frozen>,
    note: String,
    begun: Instant,
    row: bool,
    home: Home,
    hosts: BTreeMap<String, Host>,
    pub store: Store,
    pub net: Net,
}

impl Stage {
    // --------------------------------------------------------------------------------------------- who is there

    /// Skips the first ttl of a new lease, unless it has passed by now, and waits for the child and for those that stand by.
    pub fn opens(&mut self) {
        let any = self.agents.values().next().expect("an agent");
        self.wait_for("the lease to be initialised", |stage| {
            let said = any.ctl(&stage.home, &["lease", "init", "beat"]);
            (said.code == 0 || said.err.contains("has been held before")).then_some(())
        });
        let child = self.child();
        assert_eq!(self.agents[&child.node].lease("beat")["key"], LEASE);
        self.stand_by();
    }

    /// Waits until each agent either runs the child or waits for its turn, and has asked for it.
    pub fn stand_by(&self) {
        for agent in self.agents.values() {
            self.wait_for("all to know who has the lease", |_| {
                let watcher = agent.watcher("beat");
                (watcher["lease"]["role"] == "holder" || watcher["lease"]["holder"].is_string()).then_some(())
            });
        }
    }

    /// Waits until a child runs, and gives it.
    #[track_caller]
    pub fn child(&self) -> Life {
        let since = now();
        self.wait_for("a child", |stage| stage.witness.children().into_iter().find(|child| child.last > since))
    }

    /// Waits until another child than this one runs, and gives it.
    #[track_caller]
    pub fn child_after(&self, before: &Life) -> Life {
        self.wait_for("the next child", |stage| {
            stage.witness.children().into_iter().find(|child| child.start > before.start && child.last > child.start)
        })
    }

    /// The child as it is told of now.
    pub fn again(&self, child: &Life) -> Life {
        let same = |one: &Life| (one.pid, one.start) == (child.pid, child.start) || one.pid == child.pid;
        self.witness.children().into_iter().rev().find(same).expect("a child that was seen")
    }

    /// All nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// The nodes but this one.
    pub fn others(&self, than: &str) -> Vec<String> {
        self.nodes().into_iter().filter(|name| name != than).collect()
    }

    pub fn host(&self, node: &str) -> &Host {
        &self.hosts[node]
    }

    /// The hosts of all agents, servers and sentinels.
    pub fn all_hosts(&self) -> Vec<Host> {
        self.net.hosts().to_vec()
    }

    /// The wall clock of Redis's servers, and that of the agents.
    pub fn clocks(&self) -> &(Clock, Clock) {
        self.clocks.as_ref().expect("clocks were asked for")
    }

    pub fn agent(&self, node: &str) -> &Agent {
        &self.agents[node]
    }

    /// Asks a node with the real circusctl.
    pub fn ctl(&self, node: &str, words: &[&str]) -> agent::Said {
        self.agents[node].ctl(&self.home, words)
    }

    // --------------------------------------------------------------------------------------------- what is done

    fn launch(&mut self, node: &str) {
        let config = format!("cluster = chaos\n\n{}", self.config);
        self.home.configure(node, &config);
        // A host has a state of its own, as it has a network.
        let state = self.home.file(&format!("{node}.state")).display().to_string();
        let mut environment = vec![("CIRCUS_STATE_DIR".into(), state)];
        environment.extend(self.clocks.iter().flat_map(|(_, clock)| clock.environment()));
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let agent = self.hosts[node].run(|| self.home.launch(node, &environment));
        self.agents.insert(node.to_owned(), agent);
    }

    /// Starts a node's agent again.
    pub fn start_agent(&mut self, node: &str) {
        self.launch(node);
        self.agents.get_mut(node).expect("an agent").answers();
    }

    /// Ends a node's agent in order.
    pub fn end_agent(&mut self, node: &str) {
        let mut agent = self.agents.remove(node).expect("an agent");
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }

    /// SIGKILL for a node's agent; the moment of it.
    pub fn kill_agent(&mut self, node: &str) -> Moment {
        let mut agent = self.agents.remove(node).expect("an agent");
        let moment = now();
        agent.kill();
        moment
    }

    /// Stops all of a node at once, as if its host were frozen: the agent, guards, children. The moment of it.
    pub fn freeze_host(&mut self, node: &str) -> (Moment, Vec<u32>) {
        let agent = &self.agents[node];
        // From the top, so that nobody sees another stop.
        let all: Vec<u32> = [agent.pid()].into_iter().chain(agent.descendants()).collect();
        all.iter().for_each(|pid| agent::send(*pid, libc::SIGSTOP));
        self.wait_for("a host to stand still", |_| {
            all.iter().all(|pid| agent::is_stopped(*pid) || !is_alive(*pid)).then_some(())
        });
        (now(), all)
    }

    /// Lets it go on: children first, which is the worst order. The moment of it.
    pub fn thaw_host(&mut self, since: Moment, all: &[u32]) -> Moment {
        let moment = now();
        all.iter().rev().for_each(|pid| agent::send(*pid, libc::SIGCONT));
        self.frozen.extend(all.iter().map(|pid| Frozen { pid: *pid, from: since, until: moment }));
        moment
    }

    /// How long a fault lasts, and nothing else.
    pub fn lasts(&self, time: Duration) {
        thread::sleep(time);
    }

    /// How long a fault lasts that began before.
    pub fn lasts_until(&self, moment: Moment) {
        thread::sleep(Duration::from_nanos(moment.saturating_sub(now())));
    }

    /// Waits until something is there to be seen.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Stage) -> Option<T>) -> T {
        let deadline = Instant::now() + agent::PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {:?}: {what}", agent::PATIENCE);
            thread::sleep(LOOK);
        }
    }

    // --------------------------------------------------------------------------------------------- what must hold

    /// The fault ended at this moment: a ttl and a second later one runs. Watches for as long, and a little longer.
    pub fn soon(&mut self, from: Moment) {
        let bound = self.ttl + ONE_SECOND;
        self.lasts_until(from + nanos(bound + AFTERWARDS));
        self.claims.push(Claim::Soon { from, until: now(), bound });
    }

    /// The fault ends when Redis takes writes: see [`Stage::soon`].
    pub fn serves_again(&mut self) {
        self.store.serves();
        self.soon(now());
    }

    /// Nothing is to be noticed from this moment on for so long.
    pub fn undisturbed(&mut self, from: Moment, time: Duration) {
        let until = from + nanos(time);
        // Its last word is a hundredth of a second old, or a little more.
        self.lasts_until(until + nanos(AFTERWARDS));
        self.claims.push(Claim::Undisturbed { from, until });
    }

    /// A child whose lease cannot be refreshed since this moment is dead before the lease ends: waits for that.
    pub fn stops_in_time(&mut self, child: &Life, since: Moment) {
        self.wait_for("the child to stop", |_| (!is_alive(child.pid)).then_some(()));
        self.claims.push(Claim::Dead { pid: child.pid, by: since + nanos(self.ttl) });
    }

    /// Nobody ran from this moment until now.
    pub fn nobody_since(&mut self, from: Moment) {
        self.claims.push(Claim::Nobody { from, until: now() });
    }

    /// This is how long a planned move took: from the end of one child to the start of the next.
    pub fn moves(&mut self, gaps: Vec<Duration>) {
        self.claims.push(Claim::Moves(gaps));
    }

    /// A word for the table's row.
    pub fn note(&mut self, note: &str) {
        println!("{note}");
        self.note = note.to_owned();
    }

    // --------------------------------------------------------------------------------------------- the judgement

    /// Ends all agents, judges what was seen, writes the row, and fails where a promise was broken. Where something only
    /// came late, and that is excused, it gives false, and there is no row.
    pub fn judge(mut self, lateness_is_excused: bool) -> bool {
        let verdict = self.ends();
        if lateness_is_excused && verdict.is_merely_late() {
            println!("late: {verdict:?}");
            self.row = true; // The next one's counts.
            return false;
        }
        let millis = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        self.write(&json!({
            "store": self.store.kind.name(),
            "scenario": self.scenario,
            "overlap_ms": millis(verdict.overlap),
            "gap_ms": millis(verdict.gap),
            "bound_ms": verdict.bound.map(millis),
            "orphans": verdict.orphans,
            "tokens": verdict.tokens,
            "children": verdict.children,
            "seconds": (self.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "kept": verdict.broken.is_empty(),
            "note": if verdict.broken.is_empty() { self.note.clone() } else { verdict.broken.join("; ") },
        }));
        println!("{verdict:?}");
        assert!(verdict.broken.is_empty(), "{:#?}\n{:#?}\n{}", verdict.broken, self.witness.lives(), self.logs());
        true
    }

    /// Ends all agents, and judges what was seen.
    fn ends(&mut self) -> Verdict {
        // First those that hang: nobody else ends them.
        self.agents.values().for_each(|agent| agent::send(agent.pid(), libc::SIGCONT));
        self.agents.values().for_each(|agent| agent::send(agent.pid(), libc::SIGTERM));
        for agent in self.agents.values_mut() {
            agent.ends();
        }
        // Guards of killed agents take a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut left = self.left();
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(LOOK);
            left = self.left();
        }
        judge(&self.witness.lives(), &self.frozen, &self.claims, &left)
    }

    /// What all agents said, also those that are gone.
    fn logs(&self) -> String {
        let log = |node: &String| std::fs::read_to_string(self.home.file(&format!("{node}.log"))).unwrap_or_default();
        self.hosts.keys().map(|node| format!("---- {node}\n{}", log(node))).collect()
    }

    fn left(&self) -> Vec<String> {
        let witnesses = self.witness.running().into_iter().map(|life| format!("{}: {life:?}", life.pid));
        self.home.left().into_iter().map(|(pid, words)| format!("{pid}: {words}")).chain(witnesses).collect()
    }

    fn write(&mut self, row: &serde_json::Value) {
        self.row = true;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
        std::fs::create_dir_all(&dir).expect("a directory for rows");
        let file = dir.join(format!("{}-{}.json", self.store.kind.name(), self.scenario));
        std::fs::write(file, format!("{row}\n")).expect("a row");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.row {
            let (store, scenario) = (self.store.kind.name(), self.scenario);
            self.write(
                &json!({ "store": store, "scenario": scenario, "kept": false, "note": "it did not come to its end" }),
            );
        }
    }
}

pub fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_second_child_that_is_started_by_hand_and_left_behind_is_seen() {
        let mut stage = Setup::new(Kind::Standalone, "planted").agents(1).start();
        stage.row = true; // It would be a broken promise in the table.
        let command = stage.witness.command("unlocked");
        let mut words = command.split(' ');
        let mut second = Command::new(words.next().expect("a program"));
        second.args(words).env("CIRCUS_NODE", "elsewhere").env("CIRCUS_FENCING_TOKEN", "1").stdin(Stdio::null());
        let mut second = second.spawn().expect("a second child");
        stage.wait_for("two at once", |stage| (stage.witness.running().len() == 2).then_some(()));
        stage.lasts(Duration::from_millis(50));
        let verdict = stage.ends();
        second.kill().expect("the second child to end");
        second.wait().expect("its end");
        assert!(verdict.overlap > Duration::from_millis(20), "{verdict:?}");
        assert!(verdict.orphans == 1 && !verdict.tokens && verdict.children == 2, "{verdict:?}");
        assert!(verdict.broken.len() >= 3, "{verdict:?}");
    }
}
