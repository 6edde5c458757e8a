//! What is looked at, and how: the state of the screen, and what each key makes of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::filter::Filter;
use super::holders;
use super::known::{Known, Listed, Singleton};
use super::over::{Over, PAGE_LINES, Page, Palette};
use super::panels::drain;
use super::tree::{self, Grouping, Row, Sort, Spot, View};
use crate::model::command::{Command, Target};
use crate::model::names::{NodeName, WatcherName};
use crate::model::stats::{History, NodeStats};
use crate::model::time::Time;
use crate::view::{StreamView, Style};

/// How far PgUp and PgDn go.
const PAGE: isize = 10;

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// What tells how old something is.
    pub since_boot: Time,
    /// What is shown: seconds of the Unix epoch.
    pub unix: f64,
}

/// How the screen may look, and what it may do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is looked at: the cluster, or a node.
    pub title: String,
    /// Whether states may be coloured.
    pub colour: bool,
    /// Whether the terminal has more than ASCII.
    pub unicode: bool,
    /// Whether nothing can be changed from here.
    pub read_only: bool,
    /// Where times are told.
    pub zone: TimeZone,
}

/// A key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// PgUp.
    PageUp,
    /// PgDn.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
    /// Enter.
    Enter,
    /// Esc.
    Escape,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Backspace.
    Backspace,
}

/// What a key asks of whoever shows the screen.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// To end.
    Quit,
    /// To have this done; the answer goes to [`Screen::say`].
    Ask {
        /// What.
        command: Command,
        /// Of whom.
        target: Target,
        /// What it is called when it is told how it went.
        doing: String,
    },
    /// To read the answers to these questions, in a [`Screen::page`].
    Read {
        /// What it is about.
        title: String,
        /// What is asked.
        questions: Vec<Command>,
        /// Those who know the answers.
        nodes: Vec<NodeName>,
    },
    /// To have a line understood and carried out that was typed into the palette.
    Obey(String),
    /// To know how that line could go on: [`Screen::complete`].
    Complete(String),
    /// To read what a watcher prints on a node, in a [`Screen::page`], for as long as that is open.
    Logs(WatcherName, NodeName),
}

/// What a word of the palette can be.
#[derive(Debug)]
pub struct Names<'a> {
    /// What the screen itself understands.
    pub own: Vec<String>,
    /// The watchers that there are.
    pub watchers: BTreeSet<&'a str>,
    /// The nodes that there are.
    pub nodes: BTreeSet<&'a str>,
}

/// Whether anything can be heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Nothing was, yet.
    Connecting,
    /// It can.
    Up,
    /// Only the node that is asked can, for this reason.
    Own(String),
    /// It cannot, for this reason.
    Down(String),
}

/// The panels, in the order of Tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Singletons,
    Watchers,
    Nodes,
    Events,
}

/// The screen.
#[derive(Debug)]
pub struct Screen {
    pub(super) settings: Settings,
    pub(super) link: Link,
    known: Known,
    /// What was known when the screen was frozen, and when that was.
    pub(super) frozen: Option<(Now, Box<Known>)>,
    pub(super) panel: Panel,
    /// Whether the chosen panel has all the room.
    pub(super) expanded: bool,
    pub(super) over: Over,
    pub(super) said: Option<String>,
    pub(super) grouping: Grouping,
    pub(super) sort: Sort,
    pub(super) inverted: bool,
    pub(super) filter: Option<Filter>,
    /// What was typed into the palette, the latest last.
    pub(super) typed: Vec<String>,
    open: HashSet<Spot>,
    /// What is chosen in each panel, and where it stood then: that place is taken when the thing is gone.
    spot: (Option<Spot>, usize),
    singleton: (Option<WatcherName>, usize),
    node: (Option<NodeName>, usize),
    /// How many of the latest events lie below the one that is chosen.
    event: usize,
    pub(super) height: u16,
    /// `g` was pressed: once more, and it goes to the top.
    pub(super) half_top: bool,
}

impl Screen {
    /// With nothing on it yet.
    pub fn new(settings: Settings) -> Screen {
        Screen {
            settings,
            link: Link::Connecting,
            known: Known::default(),
            frozen: None,
            panel: Panel::Watchers,
            expanded: false,
            over: Over::Nothing,
            said: None,
            grouping: Grouping::Watchers,
            sort: Sort::Cpu,
            inverted: false,
            filter: None,
            typed: Vec::new(),
            open: HashSet::new(),
            spot: (None, 0),
            singleton: (None, 0),
            node: (None, 0),
            event: 0,
            height: 24,
            half_top: false,
        }
    }

    /// A node has told how it is.
    pub fn frame(&mut self, stats: NodeStats, now: Now) {
        self.known.frame(stats, now.since_boot);
    }

    /// With its first frame a node has told what it has kept of the time before.
    pub fn history(&mut self, node: &NodeName, history: &History) {
        self.known.history(node, history);
    }

    /// The registry has told which nodes there are.
    pub fn roster(&mut self, rows: Vec<Listed>) {
        self.known.list(rows);
    }

    /// A reply to `history`: who has had a singleton.
    pub fn tenures(&mut self, reply: &Value) {
        self.known.tenures.extend(holders::tenures(reply));
    }

    /// A node's frame was not told, for this reason.
    pub fn untold(&mut self, node: NodeName, why: String) {
        if self.known.untold.insert(node, why.clone()).is_none() {
            self.say(why);
        }
    }

    /// The singletons that there are, each with the nodes that are heard of those that have it.
    pub fn singletons_heard(&self, now: Now) -> Vec<(WatcherName, Vec<NodeName>)> {
        let mut found: BTreeMap<&WatcherName, Vec<NodeName>> = BTreeMap::new();
        for part in self.known.parts(now.since_boot).filter(|part| part.lease().is_some() && part.silent.is_none()) {
            found.entry(&part.stats.name).or_default().push(part.node.clone());
        }
        found.into_iter().map(|(name, nodes)| (name.clone(), nodes)).collect()
    }

    /// Something happened: a line of the stream of events.
    pub fn event(&mut self, event: &Value) {
        let mut view = StreamView::new(Style::default(), self.settings.zone.clone());
        let text = view.text(event).out;
        if !text.is_empty() {
            self.known.event(text.trim_end().to_owned(), event["time"].as_f64());
            // Who reads an older one goes on reading it.
            if self.event > 0 {
                self.event += 1;
            }
        }
    }

    /// Whether anything can be heard has changed.
    pub fn link(&mut self, link: Link) {
        self.link = link;
    }

    /// Tells whoever looks how something went; it stays until the next key.
    pub fn say(&mut self, text: impl Into<String>) {
        self.said = Some(text.into());
    }

    /// Opens a text to be read; one that is followed shows its end.
    pub fn page(&mut self, title: impl Into<String>, text: &str, followed: bool) {
        let lines = text.lines().map(str::to_owned).collect();
        self.over = Over::Page(Page { title: title.into(), lines, top: (!followed).then_some(0) });
    }

    /// Adds a line to the text that is read.
    pub fn page_line(&mut self, line: &str) {
        let Over::Page(page) = &mut self.over else { return };
        if page.lines.len() >= PAGE_LINES {
            page.lines.remove(0);
            page.top = page.top.map(|top| top.saturating_sub(1));
        }
        page.lines.push(line.to_owned());
    }

    /// Whether a text is open.
    pub fn is_read(&self) -> bool {
        matches!(self.over, Over::Page(_))
    }

    /// What is looked at turns out to be called this.
    pub fn name(&mut self, title: impl Into<String>) {
        self.settings.title = title.into();
    }

    /// Whether every node that the registry says is up has been heard of, and at least one.
    pub fn is_whole(&self) -> bool {
        let mut up = self.known.roster.values().filter(|row| row.state == "up");
        !self.known.nodes.is_empty() && up.all(|row| self.known.nodes.contains_key(&row.name))
    }

    /// Words that stand for something on the screen: commands of its own, watchers, nodes.
    pub fn names(&self) -> Names<'_> {
        let watchers = self.known.nodes.values().flat_map(|heard| &heard.stats.watchers);
        let nodes = self.known.nodes.keys().chain(self.known.roster.keys());
        Names {
            own: Panel::ALL.map(|panel| panel.name().to_lowercase()).into(),
            watchers: watchers.map(|watcher| watcher.name.as_str()).collect(),
            nodes: nodes.map(NodeName::as_str).collect(),
        }
    }

    /// Whether nothing can be changed from here.
    pub fn is_read_only(&self) -> bool {
        self.settings.read_only
    }

    /// How many nodes have been heard of.
    pub fn heard(&self) -> usize {
        self.known.nodes.len()
    }

    /// How high the terminal is.
    pub fn resize(&mut self, height: u16) {
        self.height = height;
    }

    /// What is shown, and how things were then.
    pub(super) fn shown(&self, now: Now) -> (&Known, Time) {
        match &self.frozen {
            Some((then, known)) => (known, then.since_boot),
            None => (&self.known, now.since_boot),
        }
    }

    /// What there is to say of what is chosen, of which these are the rows where it is a watcher.
    pub(super) fn note(&self, rows: &[Row], now: Now) -> Option<String> {
        match self.panel {
            Panel::Watchers => {
                let row = rows.get(self.at_row(rows)).filter(|row| !row.note.is_empty())?;
                Some(format!("{}: {}", row.name, row.note))
            }
            Panel::Singletons => {
                let singletons = self.singletons(now);
                let one = singletons.get(self.at(Panel::Singletons, now))?;
                Some(format!("{}: {}", one.name, one.note?))
            }
            Panel::Nodes => {
                let node = *self.nodes(now).get(self.at(Panel::Nodes, now))?;
                let (known, then) = self.shown(now);
                if let Some(why) = known.untold.get(node) {
                    return Some(why.clone());
                }
                let heard = known.nodes.get(node).filter(|heard| known.silent(heard, then).is_none())?;
                let drains = known.roster.get(node).is_some_and(|listed| listed.state == "draining");
                drains.then(|| format!("{node} drains: {}", drain(heard)))
            }
            Panel::Events => None,
        }
    }

    /// The moment that is shown: now, or when the screen was frozen.
    pub(super) fn moment(&self, now: Now) -> Now {
        self.frozen.as_ref().map_or(now, |(then, _)| *then)
    }

    /// Who has had a singleton over the last day.
    pub(super) fn band(&self, name: &WatcherName, now: Now) -> String {
        let tenures = self.shown(now).0.tenures.get(name.as_str());
        tenures.map(|tenures| holders::band(tenures, self.moment(now).unix)).unwrap_or_default()
    }

    /// For how long nothing has been heard, where that is too long, or where nothing can be.
    pub(super) fn stale(&self, now: Now) -> Option<Duration> {
        let silent = self.known.latest().map(|at| now.since_boot.since(at));
        self.known.stale(now.since_boot).or(silent.filter(|_| matches!(self.link, Link::Down(_))))
    }

    pub(super) fn rows(&self, now: Now) -> Vec<Row<'_>> {
        let (known, then) = self.shown(now);
        let view = View {
            grouping: self.grouping,
            sort: self.sort,
            inverted: self.inverted,
            filter: self.filter.as_ref(),
            open: &self.open,
        };
        tree::rows(known, &view, then)
    }

    pub(super) fn singletons(&self, now: Now) -> Vec<Singleton<'_>> {
        let (known, then) = self.shown(now);
        let mut singletons = known.singletons(then);
        if let Link::Own(_) = self.link {
            // The nodes that cannot be heard may have them.
            let vacant = singletons.iter_mut().filter(|one| one.state == "vacant");
            vacant.for_each(|one| one.state = "unknown");
        }
        singletons
    }

    /// The nodes that there are, heard of or only listed.
    pub(super) fn nodes(&self, now: Now) -> Vec<&NodeName> {
        let (known, _) = self.shown(now);
        let mut names: Vec<_> = known.nodes.keys().chain(known.roster.keys()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Which of the panel's `count` rows is chosen.
    pub(super) fn at(&self, panel: Panel, now: Now) -> usize {
        fn find<'a, T: PartialEq + 'a>(chosen: &(Option<T>, usize), all: impl Iterator<Item = &'a T>) -> usize {
            let mut count = 0;
            for (at, one) in all.enumerate() {
                if chosen.0.as_ref() == Some(one) {
                    return at;
                }
                count = at;
            }
            chosen.1.min(count)
        }
        match panel {
            Panel::Watchers => self.at_row(&self.rows(now)),
            Panel::Singletons => find(&self.singleton, self.singletons(now).iter().map(|one| one.name)),
            Panel::Nodes => find(&self.node, self.nodes(now).into_iter()),
            Panel::Events => self.event.min(self.shown(now).0.events.len().saturating_sub(1)),
        }
    }

    /// Which of these rows is chosen.
    pub(super) fn at_row(&self, rows: &[Row]) -> usize {
        let (spot, place) = &self.spot;
        let found = spot.as_ref().and_then(|spot| rows.iter().position(|row| row.spot == *spot));
        found.unwrap_or_else(|| (*place).min(rows.len().saturating_sub(1)))
    }

    /// What a key does.
    pub fn key(&mut self, key: Key, now: Now) -> Option<Wish> {
        self.said = None;
        let half_top = std::mem::take(&mut self.half_top);
        match std::mem::replace(&mut self.over, Over::Nothing) {
            Over::Nothing => self.panel_key(key, half_top, now),
            Over::Help => None,
            Over::Dialog { effect, wish } => match key {
                Key::Char('y' | 'Y') => Some(wish),
                Key::Char('n' | 'N' | 'q') | Key::Escape => None,
                // A slip changes nothing.
                _ => {
                    self.over = Over::Dialog { effect, wish };
                    None
                }
            },
            Over::Palette(palette) => self.type_command(palette, key, now),
            Over::Typing { text, .. } => {
                self.type_filter(text, key);
                None
            }
            Over::Page(page) => {
                self.turn(page, key, half_top);
                None
            }
        }
    }

    fn panel_key(&mut self, key: Key, half_top: bool, now: Now) -> Option<Wish> {
        match key {
            Key::Char('q') => return Some(Wish::Quit),
            Key::Char('?') => self.over = Over::Help,
            Key::Char('/') => {
                self.over = Over::Typing { text: String::new(), wrong: None };
                self.panel = Panel::Watchers;
            }
            Key::Escape => self.filter = None,
            Key::Up | Key::Char('k') => self.go(-1, now),
            Key::Down | Key::Char('j') => self.go(1, now),
            Key::PageUp => self.go(-PAGE, now),
            Key::PageDown => self.go(PAGE, now),
            Key::Home => self.go(isize::MIN, now),
            Key::End | Key::Char('G') => self.go(isize::MAX, now),
            Key::Char('g') if half_top => self.go(isize::MIN, now),
            Key::Char('g') => self.half_top = true,
            Key::Tab => self.panel = self.panel.next(1),
            Key::BackTab => self.panel = self.panel.next(Panel::ALL.len() - 1),
            Key::Char(digit) if Panel::of_digit(digit).is_some() => {
                self.panel = Panel::of_digit(digit).unwrap_or(self.panel);
            }
            Key::Char('e') => self.expanded = !self.expanded,
            Key::Char('f') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some((now, Box::new(self.known.clone()))),
                };
            }
            Key::Char('c') => self.sort = Sort::Cpu,
            Key::Char('m') => self.sort = Sort::Memory,
            Key::Char('n') => self.sort = Sort::Name,
            Key::Char('u') => self.sort = Sort::Uptime,
            Key::Char('I') => self.inverted = !self.inverted,
            Key::Char('t') => {
                self.grouping = match self.grouping {
                    Grouping::Watchers => Grouping::Nodes,
                    Grouping::Nodes => Grouping::Watchers,
                };
            }
            Key::Enter | Key::Left | Key::Right => return self.enter(key, now),
            Key::Char(':') => self.over = Over::Palette(Palette::default()),
            Key::Char('d') => return self.describe(now),
            Key::Char('x') => return self.explain(now),
            Key::Char('l') => return self.logs(now),
            Key::Char(c @ ('r' | 'p' | 'F' | '+' | '-')) => self.act(c, now),
            Key::Char(_) | Key::Backspace => {}
        }
        None
    }

    /// Chooses the row so many further down.
    fn go(&mut self, by: isize, now: Now) {
        let to = |count: usize, at: usize| at.saturating_add_signed(by).min(count.saturating_sub(1));
        let at = self.at(self.panel, now);
        match self.panel {
            Panel::Watchers => {
                let rows = self.rows(now);
                let to = to(rows.len(), at);
                self.spot = (rows.get(to).map(|row| row.spot.clone()), to);
            }
            Panel::Singletons => {
                let all = self.singletons(now);
                let to = to(all.len(), at);
                self.singleton = (all.get(to).map(|one| one.name.clone()), to);
            }
            Panel::Nodes => {
                let all = self.nodes(now);
                let to = to(all.len(), at);
                self.node = (all.get(to).map(|name| (*name).clone()), to);
            }
            // The latest stands on top.
            Panel::Events => self.event = to(self.shown(now).0.events.len(), at),
        }
    }

    /// Opens what is chosen, or closes it; the arrows do only the one or the other.
    fn enter(&mut self, key: Key, now: Now) -> Option<Wish> {
        match self.panel {
            Panel::Watchers => {
                let rows = self.rows(now);
                let at = self.at_row(&rows);
                let row = rows.get(at)?;
                let (spot, open) = (row.spot.clone(), row.open);
                // What is closed from within is what it belongs to.
                let above = rows[..at].iter().rev().find(|above| above.depth < row.depth).map(|row| row.spot.clone());
                match (key, open) {
                    (Key::Enter | Key::Left, Some(true)) => drop(self.open.remove(&spot)),
                    (Key::Enter | Key::Right, Some(false)) => drop(self.open.insert(spot.clone())),
                    (Key::Left, _) => {
                        if let Some(above) = above {
                            self.spot = (Some(above), at);
                        }
                        return None;
                    }
                    _ => {}
                }
                self.spot = (Some(spot), at);
                None
            }
            Panel::Singletons if key == Key::Enter => self.explain(now),
            Panel::Nodes if key == Key::Enter => {
                let name = (*self.nodes(now).get(self.at(Panel::Nodes, now))?).clone();
                let spot = Spot::Node(name);
                self.grouping = Grouping::Nodes;
                self.panel = Panel::Watchers;
                self.open.insert(spot.clone());
                self.spot = (Some(spot), 0);
                None
            }
            Panel::Singletons | Panel::Nodes | Panel::Events => None,
        }
    }
}

impl Panel {
    pub(super) const ALL: [Panel; 4] = [Panel::Singletons, Panel::Watchers, Panel::Nodes, Panel::Events];

    /// Its key; 4 is kept for what is to come.
    pub(super) fn digit(self) -> char {
        match self {
            Panel::Singletons => '1',
            Panel::Watchers => '2',
            Panel::Nodes => '3',
            Panel::Events => '5',
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Panel::Singletons => "Singletons",
            Panel::Watchers => "Watchers",
            Panel::Nodes => "Nodes",
            Panel::Events => "Events",
        }
    }

    /// The one of this name, in any case.
    pub(super) fn of_name(name: &str) -> Option<Panel> {
        Panel::ALL.into_iter().find(|panel| panel.name().eq_ignore_ascii_case(name))
    }

    fn of_digit(digit: char) -> Option<Panel> {
        Panel::ALL.into_iter().find(|panel| panel.digit() == digit)
    }

    fn next(self, by: usize) -> Panel {
        let at = Panel::ALL.iter().position(|panel| *panel == self).unwrap_or(0);
        Panel::ALL[(at + by) % Panel::ALL.len()]
    }
}
