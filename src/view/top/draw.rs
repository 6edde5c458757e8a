//! From the screen to a picture of it.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use super::known::{Curve, Known};
use super::screen::{Link, Now, Over, Page, Panel, Screen};
use super::tree::{Grouping, Row, Sort};
use crate::model::stats::Used;
use crate::model::time::Time;
use crate::view::table::Paint;
use crate::view::words::{printable, span};

/// Below this there is no room for anything.
const LEAST: (u16, u16) = (40, 10);

/// More lines than that nobody reads.
const MOST: u16 = 10_000;

/// What pictures are made of, on a terminal that has more than ASCII, and on one that has not.
struct Glyphs {
    corners: [&'static str; 4],
    across: &'static str,
    down: &'static str,
    left: &'static str,
    right: &'static str,
    levels: [&'static str; 8],
    full: &'static str,
    empty: &'static str,
    open: &'static str,
    closed: &'static str,
    falling: &'static str,
    rising: &'static str,
    cut: &'static str,
}

const UNICODE: Glyphs = Glyphs {
    corners: ["┌", "┐", "└", "┘"],
    across: "─",
    down: "│",
    left: "├",
    right: "┤",
    levels: ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    full: "▓",
    empty: "░",
    open: "▾",
    closed: "▸",
    falling: "▼",
    rising: "▲",
    cut: "…",
};

const ASCII: Glyphs = Glyphs {
    corners: ["+", "+", "+", "+"],
    across: "-",
    down: "|",
    left: "+",
    right: "+",
    levels: ["_", ".", ":", "-", "=", "+", "*", "#"],
    full: "#",
    empty: ".",
    open: "-",
    closed: "+",
    falling: "v",
    rising: "^",
    cut: "~",
};

/// One cell of a row: a text, where it stands, and how it looks.
struct Cell<'a> {
    text: &'a str,
    width: u16,
    right: bool,
    style: Style,
}

fn cell(text: &str, width: u16) -> Cell<'_> {
    Cell { text, width, right: false, style: Style::new() }
}

impl Cell<'_> {
    fn right(self) -> Self {
        Cell { right: true, ..self }
    }

    fn styled(self, style: Style) -> Self {
        Cell { style, ..self }
    }
}

/// Draws on a buffer, within an area.
struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    glyphs: &'static Glyphs,
    colour: bool,
    /// What everything looks like: dim where it is old.
    base: Style,
    whole: bool,
}

/// Draws the screen as it is now.
pub fn draw(screen: &Screen, now: Now, area: Rect, buffer: &mut Buffer) {
    paint(screen, now, area, buffer, false);
}

/// As [`draw`]; `whole`: there is room for all, and no panel has to leave any to others.
fn paint(screen: &Screen, now: Now, area: Rect, buffer: &mut Buffer, whole: bool) {
    let glyphs = if screen.settings.unicode { &UNICODE } else { &ASCII };
    let base = match screen.stale(now) {
        Some(_) => Style::new().add_modifier(Modifier::DIM),
        None => Style::new(),
    };
    let mut pen = Pen { buffer, area, glyphs, colour: screen.settings.colour, base, whole };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        pen.put(0, 0, &cell("too small", area.width));
        return;
    }
    pen.picture(screen, now);
}

/// The screen as lines of text, as wide as told and as high as all of it takes.
pub fn lines(screen: &Screen, now: Now, width: u16) -> String {
    let counts = [screen.singletons(now).len(), screen.rows(now).len().max(1), screen.nodes(now).len().max(1)];
    let events = screen.shown(now).0.events.len().clamp(1, 10);
    // Each panel with its rule and its heads, the events with their rule; and what is above and below them.
    let panels: usize = counts.iter().filter(|count| **count > 0).map(|count| count + 2).sum();
    let height = u16::try_from(panels + events + 1 + 6).unwrap_or(u16::MAX);
    let area = Rect::new(0, 0, width.max(LEAST.0), height.min(MOST));
    let mut buffer = Buffer::empty(area);
    paint(screen, now, area, &mut buffer, true);
    (0..area.height).map(|y| line(&buffer, y)).collect()
}

/// A row of the buffer as text; the cells that a wide character covers are part of it.
fn line(buffer: &Buffer, y: u16) -> String {
    let mut text = String::new();
    let mut x = buffer.area.left();
    while x < buffer.area.right() {
        let symbol = buffer[(x, y)].symbol();
        text.push_str(symbol);
        x += u16::try_from(Span::raw(symbol).width()).unwrap_or(1).max(1);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

impl Pen<'_> {
    fn picture(&mut self, screen: &Screen, now: Now) {
        let (known, then) = screen.shown(now);
        let Rect { height, .. } = self.area;
        let mut note = None;
        self.rule(0, None);
        self.title(screen, known, then, now);
        if let Over::Page(page) = &screen.over {
            self.page(page, screen);
        } else {
            self.sums(1, known, then);
            let mut top = 2;
            let rows = screen.rows(now);
            let chosen = rows.get(screen.at_row(&rows)).filter(|_| screen.panel == Panel::Watchers);
            note = chosen.filter(|row| !row.note.is_empty()).map(|row| format!("{}: {}", row.name, row.note));
            for (panel, room) in self.layout(screen, now, rows.len()) {
                self.rule(top, Some((panel, screen)));
                let area = (top + 1, room - 1);
                match panel {
                    Panel::Singletons => self.singletons(area, screen, then, now),
                    Panel::Watchers => self.watchers(area, screen, &rows),
                    Panel::Nodes => self.nodes(area, screen, known, then, now),
                    Panel::Events => self.events(area, screen, known, now),
                }
                top += room;
            }
        }
        self.foot(screen, note);
        self.bottom(height - 1);
        match &screen.over {
            Over::Dialog { effect, .. } => self.dialog(effect),
            Over::Help => self.help(screen),
            Over::Nothing | Over::Typing { .. } | Over::Page(_) => {}
        }
    }

    /// How much room each panel has, its rule included.
    fn layout(&self, screen: &Screen, now: Now, rows: usize) -> Vec<(Panel, u16)> {
        let height = self.area.height;
        // The title, the sums, the keys and their rule, the last line.
        let total = height - 6;
        if screen.expanded {
            return vec![(screen.panel, total)];
        }
        let count = |all: usize, most: u16| u16::try_from(all).unwrap_or(u16::MAX).min(most);
        let share = if self.whole { MOST } else { (height / 6).max(3) };
        let singletons = match screen.singletons(now).len() {
            0 if screen.panel != Panel::Singletons => 0,
            all => 2 + count(all, share).max(1),
        };
        let nodes = match screen.nodes(now).len() {
            // What it says is said by the title and the tree, too.
            _ if height < 30 && screen.panel != Panel::Nodes && !self.whole => 0,
            all => 2 + count(all, share).max(1),
        };
        let events = match nodes {
            1.. if height < 30 && !self.whole => 0,
            _ if self.whole => 1 + count(screen.shown(now).0.events.len(), 10).max(1),
            _ => 1 + (height / 8).max(3),
        };
        let wanted = 2 + count(rows, u16::MAX - 2).max(1);
        let watchers = total.saturating_sub(singletons + nodes + events).max(4);
        // What the watchers leave over shows more events.
        let spare = if events > 0 { watchers.saturating_sub(wanted.max(6)) } else { 0 };
        let spare = spare.min(count(screen.shown(now).0.events.len(), u16::MAX - 1).saturating_sub(events.max(1) - 1));
        let all = [
            (Panel::Singletons, singletons),
            (Panel::Watchers, watchers - spare),
            (Panel::Nodes, nodes),
            (Panel::Events, events + spare),
        ];
        let mut left = total;
        let mut fitting = Vec::new();
        for (panel, room) in all {
            let room = room.min(left);
            if room >= 2 {
                fitting.push((panel, room));
                left -= room;
            }
        }
        fitting
    }

    /// A line across; a panel's has its number and name.
    fn rule(&mut self, y: u16, of: Option<(Panel, &Screen)>) {
        let Glyphs { corners, across, left, right, .. } = *self.glyphs;
        let (first, last) = if y == 0 { (corners[0], corners[1]) } else { (left, right) };
        self.line_of(y, first, across, last);
        let Some((panel, screen)) = of else { return };
        let chosen = panel == screen.panel;
        let style = if chosen { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        let mark = if chosen { "*" } else { "" };
        self.put(2, y, &cell(&format!(" {} {}{mark} ", panel.digit(), panel.name()), 20).styled(style));
        if panel == Panel::Watchers {
            let name = match screen.sort {
                Sort::Cpu => "CPU",
                Sort::Memory => "MEM",
                Sort::Name => "name",
                Sort::Uptime => "uptime",
            };
            // Names rise from the first one on, all else falls from the greatest.
            let rising = (screen.sort == Sort::Name) != screen.inverted;
            let arrow = if rising { self.glyphs.rising } else { self.glyphs.falling };
            let by = match screen.grouping {
                Grouping::Watchers => "",
                Grouping::Nodes => "by node   ",
            };
            let filter = screen.filter.as_ref().map_or("-", |filter| filter.text());
            let text = self.fit(&format!(" {by}sort {name}{arrow}   filter {filter} "), self.area.width / 2);
            self.put_right(y, &text, Style::new());
        }
    }

    fn bottom(&mut self, y: u16) {
        let Glyphs { corners, across, .. } = *self.glyphs;
        self.line_of(y, corners[2], across, corners[3]);
    }

    fn line_of(&mut self, y: u16, first: &str, across: &str, last: &str) {
        let width = usize::from(self.area.width);
        let text = format!("{first}{}{last}", across.repeat(width - 2));
        self.put(0, y, &cell(&text, self.area.width));
    }

    fn sides(&mut self, y: u16) {
        let down = self.glyphs.down;
        self.put(0, y, &cell(down, 1));
        self.put(self.area.width - 1, y, &cell(down, 1));
    }

    fn title(&mut self, screen: &Screen, known: &Known, then: Time, now: Now) {
        let across = self.glyphs.across;
        let there = screen.nodes(now).len();
        let heard = match screen.stale(now) {
            Some(_) => 0,
            None => known.heard(then).count(),
        };
        let nodes = match there {
            1 => "1 node".to_owned(),
            _ => format!("{heard}/{there} nodes"),
        };
        let clock = Timestamp::from_second(now.unix as i64).unwrap_or_default();
        let clock = clock.to_zoned(screen.settings.zone.clone()).strftime("%H:%M:%S").to_string();
        let bad = self.paint(Paint::Bad).add_modifier(Modifier::BOLD);
        let (word, style) = match (&screen.frozen, screen.stale(now), &screen.link) {
            (_, Some(silent), _) => (format!("STALE {}s", silent.as_secs()), bad),
            (Some((at, _)), ..) => {
                let age = now.since_boot.since(at.since_boot).as_secs();
                (format!("FROZEN {age}s"), self.paint(Paint::Warn).add_modifier(Modifier::BOLD))
            }
            (None, None, Link::Down(_)) => ("NOT CONNECTED".into(), bad),
            (None, None, _) if known.nodes.is_empty() => ("waiting".into(), Style::new()),
            (None, None, _) => ("live".into(), self.paint(Paint::Good)),
        };
        let word = format!(" {word} ");
        let at = self.put_right(0, &word, style.remove_modifier(Modifier::DIM));
        let clock = format!(" {clock}  every 1s ");
        let room = at.saturating_sub(2 + clock.len() as u16);
        let nodes = format!(" {across} {nodes} ");
        // A long name is cut; how many nodes there are is not.
        let title = self.fit(&screen.settings.title, room.saturating_sub(width(&nodes) + 14));
        let title = format!(" circus-top {across} {title}{nodes}");
        self.put(2, 0, &cell(&title, room).styled(Style::new().add_modifier(Modifier::BOLD)));
        if room > 20 {
            self.put(at - clock.len() as u16, 0, &cell(&clock, clock.len() as u16));
        }
    }

    /// What the cluster uses of what it has.
    fn sums(&mut self, y: u16, known: &Known, then: Time) {
        self.sides(y);
        let heard = || known.heard(then);
        let used = Used::sum(heard().flat_map(|heard| heard.used.iter().copied()));
        let cores: u32 = heard().map(|heard| heard.stats.machine.cores).sum();
        let memory: u64 = heard().map(|heard| heard.stats.machine.memory).sum();
        let wide = if self.area.width >= 110 { 24 } else { 12 };
        let cpu = Curve::sum(heard().map(|heard| &heard.cpu), wide);
        let resident = Curve::sum(heard().map(|heard| &heard.memory), wide);
        let text = format!(
            "CPU {:<wide$} {:.0}%/{}%   MEM {:<wide$} {}/{}",
            self.curve(&cpu),
            used.cpu,
            cores * 100,
            self.curve(&resident),
            size(used.resident as f64),
            size(memory as f64),
        );
        let restarts: u64 = heard().flat_map(|heard| &heard.stats.watchers).map(|watcher| watcher.restarts).sum();
        let room = self.area.width - 4;
        self.put(2, y, &cell(&text, room));
        let restarts = format!("restarts {restarts}");
        if width(&text) + width(&restarts) + 3 <= room {
            self.put(2 + width(&text) + 3, y, &cell(&restarts, room));
        }
    }

    fn singletons(&mut self, (top, room): (u16, u16), screen: &Screen, then: Time, now: Now) {
        let all = screen.singletons(now);
        let wide = self.area.width - 4;
        let roomy = wide >= 100;
        let name = (wide / 6).clamp(8, 40);
        let (holder, blocks) = if roomy { (18, 9) } else { (10, 3) };
        let lease = blocks + 6;
        let note = wide.saturating_sub(name + 9 + holder + 13 + lease + 7 + 6);
        let heads = ["NAME", "STATE", "HOLDER", "TOKEN", "LEASE", "UP", "NOTE"];
        let widths = [name, 9, holder, 13, lease, 7, note];
        self.heads(top, &heads, &widths, &[3, 5]);
        let at = screen.at(Panel::Singletons, now);
        self.list((top + 1, room - 1), all.len(), at, screen.panel == Panel::Singletons, |pen, y, index| {
            let one = &all[index];
            let token = one.lease.and_then(|lease| lease.token).map_or_else(|| "-".into(), |token| token.to_string());
            let bar = match (one.lease.and_then(|lease| Some((lease.left?, lease.ttl))), one.held) {
                (Some((left, ttl)), Some(part)) => {
                    // It runs on since the frame came.
                    let left = left.saturating_sub(then.since(part.heard.at));
                    format!("{} {:.1}s", pen.bar(left, ttl, usize::from(blocks)), left.as_secs_f64())
                }
                _ => "-".into(),
            };
            let age = one.held.and_then(|part| part.stats.processes.iter().map(|process| process.age).max());
            let age = age.map_or_else(|| "-".into(), |age| span(age.as_secs_f64()));
            let whose = one.holder.map_or("-", |holder| holder.as_str());
            pen.cells(
                y,
                &[
                    cell(one.name.as_str(), name),
                    cell(one.state, 9).styled(pen.state(one.state)),
                    cell(whose, holder),
                    cell(&token, 13).right(),
                    cell(&bar, lease),
                    cell(&age, 7).right(),
                    cell(one.note.unwrap_or_default(), note),
                ],
            );
        });
        if all.is_empty() && room > 1 {
            self.put(2, top + 1, &cell("no watcher here has singleton = true", wide));
        }
    }

    fn watchers(&mut self, (top, room): (u16, u16), screen: &Screen, rows: &[Row]) {
        let wide = self.area.width - 4;
        let extra = wide >= 140;
        let more = if extra { 6 + 8 + 8 + 3 } else { 0 };
        let curve = if wide >= 90 { 8 } else { 4 };
        let name = if wide >= 90 { (wide / 4).min(48) } else { (wide / 4).max(8) };
        let fixed = name + 6 + 5 + curve + 5 + 7 + 9 + more + 7;
        let note = wide.saturating_sub(fixed);
        let mut heads = vec!["NAME", "READY", "CPU", "", "MEM", "UP", "STATE"];
        let mut widths = vec![name, 6, 5, curve, 5, 7, 9];
        let mut right = vec![1, 2, 4, 5];
        if extra {
            heads.splice(6..6, ["FDS", "READ/s", "WRITE/s"]);
            widths.splice(6..6, [6, 8, 8]);
            right.extend([6, 7, 8]);
        }
        heads.push("NOTE");
        widths.push(note);
        self.heads(top, &heads, &widths, &right);
        let at = screen.at_row(rows);
        self.list((top + 1, room - 1), rows.len(), at, screen.panel == Panel::Watchers, |pen, y, index| {
            let row = &rows[index];
            let mark = match row.open {
                Some(true) => pen.glyphs.open,
                Some(false) => pen.glyphs.closed,
                None => " ",
            };
            let title = format!("{}{mark}{}", "  ".repeat(row.depth), printable(&row.name));
            let known = row.state != "stale";
            let told = |text: String| if known { text } else { "-".into() };
            let ready = row.ready.map(|(ready, wanted)| format!("{ready}/{wanted}")).unwrap_or_default();
            let cpu = told(format!("{:.0}%", row.used.cpu));
            let memory = told(size(row.used.resident as f64));
            let age = row.age.map_or_else(|| "-".into(), |age| span(age.as_secs_f64()));
            let line = pen.curve(&row.curve(usize::from(curve)));
            let rate = |rate: Option<f64>| rate.map_or_else(|| "-".into(), size);
            let descriptors = row.used.descriptors.map_or_else(|| "-".into(), |count| count.to_string());
            let (read, written) = (rate(row.used.read), rate(row.used.written));
            let mut cells = vec![
                cell(&title, name),
                cell(&ready, 6).right(),
                cell(&cpu, 5).right(),
                cell(&line, curve),
                cell(&memory, 5).right(),
                cell(&age, 7).right(),
            ];
            if extra {
                cells.extend([&descriptors, &read, &written].map(|text| cell(text, 8).right()));
                cells[6].width = 6;
            }
            cells.push(cell(row.state, 9).styled(pen.state(row.state)));
            cells.push(cell(&row.note, note));
            pen.cells(y, &cells);
        });
        if rows.is_empty() && room > 1 {
            let text = match (&screen.filter, screen.heard(), &screen.link) {
                (Some(_), 1.., _) => "nothing passes the filter; Esc takes it away",
                (None, 1.., _) => "no watchers",
                (_, _, Link::Down(_)) => "nothing was heard",
                _ => "nothing was heard yet",
            };
            self.put(2, top + 1, &cell(text, wide));
        }
    }

    fn nodes(&mut self, (top, room): (u16, u16), screen: &Screen, known: &Known, then: Time, now: Now) {
        let all = screen.nodes(now);
        let wide = self.area.width - 4;
        let name = (wide / 4).clamp(10, 40);
        let widths = [name, 9, 9, 13, 6, 9, 7, wide.saturating_sub(name + 9 + 9 + 13 + 6 + 9 + 7 + 7)];
        let heads = ["NODE", "STATE", "LOAD", "MEM", "CPU", "WATCHERS", "UP", "HOLDS"];
        self.heads(top, &heads, &widths, &[2, 3, 4, 5, 6]);
        let at = screen.at(Panel::Nodes, now);
        self.list((top + 1, room - 1), all.len(), at, screen.panel == Panel::Nodes, |pen, y, index| {
            let listed = known.roster.get(all[index]);
            let heard = known.nodes.get(all[index]);
            let silent = heard.and_then(|heard| known.silent(heard, then));
            let live = heard.filter(|_| silent.is_none());
            let state = match (live, listed) {
                (_, Some(listed)) if listed.state != "up" => listed.state.as_str(),
                (Some(_), _) => "up",
                (None, _) if heard.is_some() => "stale",
                (None, _) => "unheard",
            };
            let of = |text: &dyn Fn(&super::known::Heard) -> String| live.map_or_else(|| "-".into(), text);
            let load = of(&|heard| format!("{:.2}/{}c", heard.stats.machine.load, heard.stats.machine.cores));
            let memory = of(&|heard| {
                let machine = heard.stats.machine;
                format!("{}/{}", size(machine.memory_used as f64), size(machine.memory as f64))
            });
            let cpu = of(&|heard| format!("{:.0}%", Used::sum(heard.used.iter().copied()).cpu));
            let watchers = of(&|heard| {
                let well =
                    |watcher: &&crate::model::stats::WatcherStats| Paint::of_state(watcher.state.word()) != Paint::Bad;
                let all = &heard.stats.watchers;
                format!("{}/{}", all.iter().filter(well).count(), all.len())
            });
            let up = listed.and_then(|listed| listed.up).map_or_else(|| "-".into(), |up| span(up.as_secs_f64()));
            let holds = match (silent, live) {
                (Some(silent), _) => format!("silent for {} s", silent.as_secs()),
                (None, Some(heard)) => held(heard),
                (None, None) => listed.map(|listed| listed.holds.join(" ")).unwrap_or_default(),
            };
            let texts = [all[index].as_str(), state, &load, &memory, &cpu, &watchers, &up, &holds];
            let cells: Vec<Cell> = texts
                .iter()
                .zip(widths)
                .enumerate()
                .map(|(column, (text, width))| Cell {
                    text,
                    width,
                    right: (2..7).contains(&column),
                    style: if column == 1 { pen.state(state) } else { Style::new() },
                })
                .collect();
            pen.cells(y, &cells);
        });
    }

    fn events(&mut self, (top, room): (u16, u16), screen: &Screen, known: &Known, now: Now) {
        let at = screen.at(Panel::Events, now);
        let wide = self.area.width - 4;
        self.list((top, room), known.events.len(), at, screen.panel == Panel::Events, |pen, y, index| {
            let event = known.events.iter().rev().nth(index).map_or("", String::as_str);
            pen.cells(y, &[cell(event, wide)]);
        });
    }

    /// Rows of which one is chosen, of them those that show; the chosen one always does.
    fn list(
        &mut self,
        (top, room): (u16, u16),
        count: usize,
        at: usize,
        is_panel: bool,
        mut row: impl FnMut(&mut Pen, u16, usize),
    ) {
        let height = usize::from(room);
        let first = at.saturating_sub(height / 2).min(count.saturating_sub(height));
        for line in 0..height {
            let y = top + line as u16;
            self.sides(y);
            let index = first + line;
            if index >= count {
                continue;
            }
            row(self, y, index);
            if is_panel && index == at {
                let chosen = Rect { x: self.area.x + 1, y: self.area.y + y, width: self.area.width - 2, height: 1 };
                self.buffer.set_style(chosen, Style::new().add_modifier(Modifier::REVERSED));
            }
        }
    }

    fn heads(&mut self, y: u16, heads: &[&str], widths: &[u16], right: &[usize]) {
        self.sides(y);
        let style = Style::new().add_modifier(Modifier::UNDERLINED);
        let style = if self.colour { Style::new().fg(Color::Cyan) } else { style };
        let cells: Vec<Cell> = heads
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (head, width))| Cell { text: head, width: *width, right: right.contains(&column), style })
            .collect();
        self.cells(y, &cells);
    }

    fn page(&mut self, page: &Page, screen: &Screen) {
        let height = usize::from(self.area.height) - 3;
        let wide = self.area.width - 4;
        let last = page.lines.len().saturating_sub(height);
        let top = page.top.unwrap_or(last).min(last);
        for line in 0..height {
            let y = 1 + line as u16;
            self.sides(y);
            if let Some(text) = page.lines.get(top + line) {
                self.put(2, y, &Cell { text: &self.fit(text, wide), width: wide, right: false, style: Style::new() });
            }
        }
        let across = self.glyphs.across;
        let title = format!(" circus-top {across} {} ", page.title);
        self.rule(0, None);
        let title = self.fit(&title, wide);
        self.put(2, 0, &cell(&title, wide).styled(Style::new().add_modifier(Modifier::BOLD)));
        if screen.link != Link::Up || page.top.is_none() {
            self.put_right(0, if page.top.is_none() { " following " } else { "" }, Style::new());
        }
    }

    /// The keys; or what there is to say, or what is being typed.
    fn foot(&mut self, screen: &Screen, note: Option<String>) {
        let Rect { width: wide, height, .. } = self.area;
        let wide = wide - 4;
        if let Over::Page(_) = screen.over {
            self.sides(height - 2);
            self.put(2, height - 2, &cell("j k PgUp PgDn move   gg top   G follow the end   Esc back", wide));
            return;
        }
        self.rule(height - 4, None);
        let (acts, more) = match screen.settings.read_only {
            true => ("read only", ""),
            false => ("r restart  p stop", "+- scale  F move  "),
        };
        let first = format!("j k move  Enter open  l logs  x explain  {acts}  ? help  q quit");
        let second = match (&screen.over, &screen.said, &screen.link) {
            (Over::Typing { text, wrong }, ..) => {
                let wrong = wrong.as_ref().map(|why| format!("   ({why})")).unwrap_or_default();
                format!("filter: {text}_{wrong}")
            }
            (_, Some(said), _) => said.clone(),
            (_, None, Link::Down(why)) => format!("{why}; trying again"),
            // Whole, where its column had no room for it.
            _ => note.unwrap_or_else(|| format!("{more}1-5 panel  / filter  cmnu sort  t tree  e grow  f freeze")),
        };
        let is_said = screen.said.is_some() || matches!(screen.link, Link::Down(_));
        let style = if is_said { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        self.sides(height - 3);
        self.sides(height - 2);
        let (first, second) = (self.fit(&first, wide), self.fit(&second, wide));
        self.put(2, height - 3, &cell(&first, wide));
        self.put(2, height - 2, &cell(&second, wide).styled(style));
    }

    fn dialog(&mut self, effect: &str) {
        let wide = (self.area.width - 8).min(72);
        let mut lines = wrapped(&printable(effect), wide - 4);
        lines.push(String::new());
        lines.push("y do it   n leave it".into());
        self.board("Sure?", &lines, wide);
    }

    fn help(&mut self, screen: &Screen) {
        let mut lines: Vec<String> = [
            "j k, arrows      one row down, up     gg G  to the top, the bottom",
            "PgUp PgDn        ten rows",
            "Enter            open or close; arrows right and left, too",
            "1 2 3 5, Tab     another panel        e     all room for it, or not",
            "c m n u          sort by CPU, memory, name, uptime",
            "I                the other way round  t     by watcher, by node",
            "f                freeze, and go on    Esc   without a filter",
            "/                filter: words, !words, cpu>50, mem>100M,",
            "                 up<1h, state=backoff; joined by and",
            "l x              what it prints; why it is so",
        ]
        .map(str::to_owned)
        .into();
        if !screen.settings.read_only {
            lines.push("r p              restart; stop or start".into());
            lines.push("+ - F            one more, one fewer; to another node".into());
        }
        lines.push("q                end".into());
        lines.truncate(usize::from(self.area.height).saturating_sub(4));
        self.board("Keys", &lines, (self.area.width - 4).min(72));
    }

    /// A board with some lines in the middle of it all.
    fn board(&mut self, title: &str, lines: &[String], wide: u16) {
        let high = (lines.len() as u16 + 2).min(self.area.height);
        let (x, y) = ((self.area.width - wide) / 2, (self.area.height - high) / 2);
        let inner = Rect { x: self.area.x + x, y: self.area.y + y, width: wide, height: high };
        let mut pen = Pen {
            buffer: &mut *self.buffer,
            area: inner,
            glyphs: self.glyphs,
            colour: self.colour,
            base: Style::new(),
            whole: false,
        };
        for y in 0..high {
            let blank = " ".repeat(usize::from(wide));
            let place = (inner.x, inner.y + y);
            for column in 0..wide {
                pen.buffer[(place.0 + column, place.1)].reset();
            }
            pen.put(0, y, &cell(&blank, wide));
            pen.sides(y);
        }
        pen.rule(0, None);
        pen.bottom(high - 1);
        pen.put(2, 0, &cell(&format!(" {title} "), wide - 4).styled(Style::new().add_modifier(Modifier::BOLD)));
        for (line, text) in lines.iter().take(usize::from(high - 2)).enumerate() {
            pen.put(2, line as u16 + 1, &cell(text, wide - 4));
        }
    }

    /// Cells beside each other, a blank between them.
    fn cells(&mut self, y: u16, cells: &[Cell]) {
        let (mut x, end) = (2, self.area.width - 2);
        for one in cells {
            let room = one.width.min(end.saturating_sub(x));
            if room > 0 {
                let text = self.fit(one.text, room);
                let shift = if one.right { room.saturating_sub(width(&text)) } else { 0 };
                self.put(x + shift, y, &cell(&text, room).styled(one.style));
                x += room + 1;
            }
        }
    }

    fn put(&mut self, x: u16, y: u16, cell: &Cell) {
        let style = self.base.patch(cell.style);
        let room = self.area.width.saturating_sub(x).min(cell.width);
        self.buffer.set_stringn(self.area.x + x, self.area.y + y, cell.text, usize::from(room), style);
    }

    /// Text that ends beside the right border; where it begins.
    fn put_right(&mut self, y: u16, text: &str, style: Style) -> u16 {
        let wide = width(text);
        let x = (self.area.width - 2).saturating_sub(wide);
        self.put(x, y, &cell(text, wide).styled(style));
        x
    }

    /// A text on one line, cut where it is too long; where there is only ASCII, all else becomes `?`.
    fn fit(&self, text: &str, room: u16) -> String {
        let known = |c: char| self.glyphs.cut != ASCII.cut || c.is_ascii();
        let glyphs = |c: char| [UNICODE.across, UNICODE.cut].iter().any(|glyph| glyph.starts_with(c));
        let mut text = printable(text);
        if !text.is_ascii() && !text.chars().all(|c| known(c) || glyphs(c)) {
            text = text.chars().map(|c| if known(c) { c } else { '?' }).collect();
        }
        if width(&text) <= room {
            return text;
        }
        let mut kept = String::new();
        let mut used = 0;
        for c in text.chars() {
            let wide = width(c.encode_utf8(&mut [0; 4]));
            if used + wide + 1 > room {
                break;
            }
            used += wide;
            kept.push(c);
        }
        kept + self.glyphs.cut
    }

    fn paint(&self, paint: Paint) -> Style {
        match paint {
            _ if !self.colour => Style::new(),
            Paint::None => Style::new(),
            Paint::Good => Style::new().fg(Color::Green),
            Paint::Warn => Style::new().fg(Color::Yellow),
            Paint::Bad => Style::new().fg(Color::Red),
        }
    }

    fn state(&self, word: &str) -> Style {
        match word {
            "running" | "ready" => self.paint(Paint::Good),
            "conflict" => self.paint(Paint::Bad),
            "degraded" => self.paint(Paint::Warn),
            word => self.paint(Paint::of_state(word)),
        }
    }

    /// A curve, the highest of it at the top.
    fn curve(&self, values: &[f32]) -> String {
        let top = values.iter().copied().fold(0.0, f32::max);
        let level = |value: &f32| match top > 0.0 {
            true => ((value / top * 7.0).round() as usize).min(7),
            false => 0,
        };
        values.iter().map(|value| self.glyphs.levels[level(value)]).collect()
    }

    /// What is left of a span, as a bar.
    fn bar(&self, left: Duration, of: Duration, wide: usize) -> String {
        let share = left.as_secs_f64() / of.as_secs_f64().max(0.001);
        let full = ((share * wide as f64).round() as usize).min(wide);
        self.glyphs.full.repeat(full) + &self.glyphs.empty.repeat(wide - full)
    }
}

/// The singletons that a node says it holds.
fn held(heard: &super::known::Heard) -> String {
    let watchers = heard.stats.watchers.iter();
    let held = watchers.filter(|watcher| watcher.lease.as_ref().is_some_and(|lease| lease.token.is_some()));
    held.map(|watcher| watcher.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// `812M`, `3.1G`: at most five characters.
fn size(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes.max(0.0), 0);
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value {
        ..9.95 if unit > 0 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// Words in lines of at most so many columns where they allow it.
fn wrapped(text: &str, room: u16) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn width(text: &str) -> u16 {
    let width = if text.is_ascii() { text.len() } else { Span::raw(text).width() };
    u16::try_from(width).unwrap_or(u16::MAX)
}
