//! The panels, and the line above them: each draws its part of what is known.

use ratatui::style::Style;

use super::curve::Curve;
use super::known::{Heard, Known};
use super::pen::{Cell, Pen, cell, width};
use super::screen::{Link, Now, Panel, Screen};
use super::tree::Row;
use crate::model::stats::{Used, WatcherStats};
use crate::model::time::Time;
use crate::view::table::Paint;
use crate::view::words::{printable, size, span};

impl Pen<'_> {
    /// What the cluster uses of what it has.
    pub(super) fn sums(&mut self, y: u16, known: &Known, then: Time, unix: f64) {
        self.sides(y);
        let heard = || known.heard(then);
        let used = Used::sum(heard().flat_map(|heard| heard.used.iter().copied()));
        let cores: u32 = heard().map(|heard| heard.stats.machine.cores).sum();
        let memory: u64 = heard().map(|heard| heard.stats.machine.memory).sum();
        let wide = match self.area.width {
            180.. => 60,
            110.. => 24,
            _ => 12,
        };
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
        let room = self.area.width - 4;
        self.put(2, y, &cell(&text, room));
        let mut x = 2 + width(&text) + 3;
        for rate in [format!("restarts/h {}", known.restarts(then)), format!("events/s {:.1}", known.event_rate(unix))]
        {
            if x + width(&rate) <= room + 2 {
                self.put(x, y, &cell(&rate, room));
            }
            x += width(&rate) + 3;
        }
    }

    pub(super) fn singletons(&mut self, (top, room): (u16, u16), screen: &Screen, then: Time, now: Now) {
        let all = screen.singletons(now);
        let wide = self.area.width - 4;
        let roomy = wide >= 100;
        let name = (wide / 6).clamp(8, 40);
        let (holder, blocks) = if roomy { (18, 9) } else { (10, 3) };
        let lease = blocks + 6;
        let left = wide.saturating_sub(name + 9 + holder + 13 + lease + 7 + 6);
        // The day's holders say more than a note, which the last line tells of the chosen one.
        let (band, note) = match left {
            24.. => (24, Some(left.saturating_sub(25)).filter(|note| *note >= 12).unwrap_or(0)),
            _ => (0, left),
        };
        let heads = ["NAME", "STATE", "HOLDER", "TOKEN", "LEASE", "UP", "HOLDER OVER 24 H", "NOTE"];
        let widths = [name, 9, holder, 13, lease, 7, band, note];
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
            let hours = screen.band(one.name, now);
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
                    cell(&hours, band),
                    cell(one.note.unwrap_or_default(), note),
                ],
            );
        });
        if all.is_empty() && room > 1 {
            self.put(2, top + 1, &cell("no watcher here has singleton = true", wide));
        }
    }

    pub(super) fn watchers(&mut self, (top, room): (u16, u16), screen: &Screen, rows: &[Row]) {
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

    pub(super) fn nodes(&mut self, (top, room): (u16, u16), screen: &Screen, known: &Known, then: Time, now: Now) {
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
            let of = |text: &dyn Fn(&Heard) -> String| live.map_or_else(|| "-".into(), text);
            let load = of(&|heard| format!("{:.2}/{}c", heard.stats.machine.load, heard.stats.machine.cores));
            let memory = of(&|heard| {
                let machine = heard.stats.machine;
                format!("{}/{}", size(machine.memory_used as f64), size(machine.memory as f64))
            });
            let cpu = of(&|heard| format!("{:.0}%", Used::sum(heard.used.iter().copied()).cpu));
            let watchers = of(&|heard| {
                let well = |watcher: &&WatcherStats| Paint::of_state(watcher.state.word()) != Paint::Bad;
                let all = &heard.stats.watchers;
                format!("{}/{}", all.iter().filter(well).count(), all.len())
            });
            let up = listed.and_then(|listed| listed.up).map_or_else(|| "-".into(), |up| span(up.as_secs_f64()));
            let holds = match (silent, live) {
                _ if let Some(why) = known.untold.get(all[index]) => why.clone(),
                (_, Some(heard)) if state == "draining" => {
                    let share = down(heard) as f64 / heard.stats.watchers.len().max(1) as f64;
                    format!("{} {}", pen.share(share, 8), drain(heard))
                }
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

    pub(super) fn events(&mut self, (top, room): (u16, u16), screen: &Screen, known: &Known, now: Now) {
        let at = screen.at(Panel::Events, now);
        let wide = self.area.width - 4;
        self.list((top, room), known.events.len(), at, screen.panel == Panel::Events, |pen, y, index| {
            let event = known.events.iter().rev().nth(index).map_or("", String::as_str);
            pen.cells(y, &[cell(event, wide)]);
        });
    }
}

/// How far a node is that drains: its watchers that are down, and what still runs.
pub(super) fn drain(heard: &Heard) -> String {
    let watchers = &heard.stats.watchers;
    let left: usize = watchers.iter().map(|watcher| watcher.processes.len()).sum();
    if left == 0 {
        return "all is down".into();
    }
    let processes = if left == 1 { "process" } else { "processes" };
    let holds = match held(heard).as_str() {
        "" => String::new(),
        held => format!(", holds {held}"),
    };
    format!("{}/{} down, {left} {processes} left{holds}", down(heard), watchers.len())
}

/// How many watchers of a node run nothing.
fn down(heard: &Heard) -> usize {
    heard.stats.watchers.iter().filter(|watcher| watcher.processes.is_empty()).count()
}

/// The singletons that a node says it holds.
fn held(heard: &Heard) -> String {
    let watchers = heard.stats.watchers.iter();
    let held = watchers.filter(|watcher| watcher.lease.as_ref().is_some_and(|lease| lease.token.is_some()));
    held.map(|watcher| watcher.name.as_str()).collect::<Vec<_>>().join(" ")
}
