//! From the screen to a picture of it.

use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;

use super::known::Known;
use super::over::{Over, Page};
use super::pen::{ASCII, Cell, Pen, UNICODE, cell, width, wrapped};
use super::screen::{Link, Now, Panel, Screen};
use super::tree::{Grouping, Sort};
use crate::model::time::Time;
use crate::view::table::Paint;
use crate::view::words::printable;

/// Below this there is no room for anything.
const LEAST: (u16, u16) = (40, 10);

/// More lines than that nobody reads.
const MOST: u16 = 10_000;

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
        self.rule(0);
        self.title(screen, known, then, now);
        if let Over::Page(page) = &screen.over {
            self.page(page, screen);
        } else {
            self.sums(1, known, then, screen.moment(now).unix);
            let mut top = 2;
            let rows = screen.rows(now);
            note = screen.note(&rows, now);
            for (panel, room) in self.layout(screen, now, rows.len()) {
                self.panel_rule(top, panel, screen);
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
            Over::Nothing | Over::Typing { .. } | Over::Palette(_) | Over::Page(_) => {}
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

    /// The line above a panel, with its number and name.
    fn panel_rule(&mut self, y: u16, panel: Panel, screen: &Screen) {
        self.rule(y);
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
            (None, None, Link::Own(_)) => ("OWN NODE ONLY".into(), bad),
            (None, None, _) if known.nodes.is_empty() => ("waiting".into(), Style::new()),
            (None, None, _) => ("live".into(), self.paint(Paint::Good)),
        };
        let word = format!(" {word} ");
        let at = self.put_right(0, &word, style.remove_modifier(Modifier::DIM));
        let clock = format!(" {clock}  every 1s ");
        let room = at.saturating_sub(2 + clock.len() as u16);
        let nodes = format!(" {across} {nodes} ");
        let latency = known.latency(then).filter(|_| heard > 0);
        let redis = latency.map(|latency| format!("{across} redis {:.1} ms ", latency.as_secs_f64() * 1_000.0));
        // It gives way to the name.
        let name = width(&screen.settings.title);
        let redis = redis.filter(|redis| 14 + name + width(&nodes) + width(redis) <= room).unwrap_or_default();
        let nodes = nodes + &redis;
        // A long name is cut; how many nodes there are is not.
        let title = self.fit(&screen.settings.title, room.saturating_sub(width(&nodes) + 14));
        let title = format!(" circus-top {across} {title}{nodes}");
        self.put(2, 0, &cell(&title, room).styled(Style::new().add_modifier(Modifier::BOLD)));
        if room > 20 {
            self.put(at - clock.len() as u16, 0, &cell(&clock, clock.len() as u16));
        }
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
        self.rule(0);
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
        self.rule(height - 4);
        let (acts, more) = match screen.settings.read_only {
            true => ("read only", ""),
            false => ("r restart  p stop", "+- scale  F move  "),
        };
        let first = match &screen.over {
            Over::Palette(palette) if !palette.offers.is_empty() => palette.offers.join("  "),
            _ => format!("l logs  d describe  x explain  {acts}  : command  ? help  q quit"),
        };
        let second = match (&screen.over, &screen.said, &screen.link) {
            (Over::Typing { text, wrong }, ..) => {
                let wrong = wrong.as_ref().map(|why| format!("   ({why})")).unwrap_or_default();
                format!("filter: {text}_{wrong}")
            }
            (Over::Palette(palette), ..) => format!(":{}_", palette.text),
            (_, Some(said), _) => said.clone(),
            (_, None, Link::Down(why)) => format!("{why}; trying again"),
            (_, None, Link::Own(why)) => why.clone(),
            // Whole, where its column had no room for it.
            _ => note.unwrap_or_else(|| format!("{more}1-5 panel  / filter  cmnu sort  t tree  e grow  f freeze")),
        };
        let is_said = screen.said.is_some() || matches!(screen.link, Link::Down(_) | Link::Own(_));
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
            "PgUp PgDn        ten rows              Enter open or close",
            "1 2 3 5, Tab     another panel         e     all room for it, or not",
            "c m n u          sort by CPU, memory, name, uptime; I turns it round",
            "t                by watcher, by node   f     freeze, and go on",
            "/                filter: words, !words, cpu>50, mem>100M, up<1h,",
            "                 state=backoff, joined by and; Esc takes it away",
            "d x l            all about it; why it is so; what it prints",
            ":                a command of circusctl, as restart web --node a;",
            "                 Tab completes; or a panel, as :nodes",
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
}
