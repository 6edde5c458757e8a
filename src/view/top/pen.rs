//! What pictures are drawn with: glyphs, cells, and a pen that keeps within its area.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use crate::view::table::Paint;
use crate::view::words::printable;

/// What pictures are made of, on a terminal that has more than ASCII, and on one that has not.
pub(super) struct Glyphs {
    pub(super) corners: [&'static str; 4],
    pub(super) across: &'static str,
    pub(super) down: &'static str,
    pub(super) left: &'static str,
    pub(super) right: &'static str,
    pub(super) levels: [&'static str; 8],
    pub(super) full: &'static str,
    pub(super) empty: &'static str,
    pub(super) open: &'static str,
    pub(super) closed: &'static str,
    pub(super) falling: &'static str,
    pub(super) rising: &'static str,
    pub(super) cut: &'static str,
}

pub(super) const UNICODE: Glyphs = Glyphs {
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

pub(super) const ASCII: Glyphs = Glyphs {
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
pub(super) struct Cell<'a> {
    pub(super) text: &'a str,
    pub(super) width: u16,
    pub(super) right: bool,
    pub(super) style: Style,
}

pub(super) fn cell(text: &str, width: u16) -> Cell<'_> {
    Cell { text, width, right: false, style: Style::new() }
}

impl Cell<'_> {
    pub(super) fn right(self) -> Self {
        Cell { right: true, ..self }
    }

    pub(super) fn styled(self, style: Style) -> Self {
        Cell { style, ..self }
    }
}

/// Draws on a buffer, within an area.
pub(super) struct Pen<'a> {
    pub(super) buffer: &'a mut Buffer,
    pub(super) area: Rect,
    pub(super) glyphs: &'static Glyphs,
    pub(super) colour: bool,
    /// What everything looks like: dim where it is old.
    pub(super) base: Style,
    pub(super) whole: bool,
}

impl Pen<'_> {
    /// A line across that parts what is above it from what is below; the first is the upper border.
    pub(super) fn rule(&mut self, y: u16) {
        let Glyphs { corners, across, left, right, .. } = *self.glyphs;
        let (first, last) = if y == 0 { (corners[0], corners[1]) } else { (left, right) };
        self.line_of(y, first, across, last);
    }

    pub(super) fn bottom(&mut self, y: u16) {
        let Glyphs { corners, across, .. } = *self.glyphs;
        self.line_of(y, corners[2], across, corners[3]);
    }

    pub(super) fn line_of(&mut self, y: u16, first: &str, across: &str, last: &str) {
        let width = usize::from(self.area.width);
        let text = format!("{first}{}{last}", across.repeat(width - 2));
        self.put(0, y, &cell(&text, self.area.width));
    }

    pub(super) fn sides(&mut self, y: u16) {
        let down = self.glyphs.down;
        self.put(0, y, &cell(down, 1));
        self.put(self.area.width - 1, y, &cell(down, 1));
    }

    /// Rows of which one is chosen, of them those that show; the chosen one always does.
    pub(super) fn list(
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

    pub(super) fn heads(&mut self, y: u16, heads: &[&str], widths: &[u16], right: &[usize]) {
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

    /// A board with some lines in the middle of it all.
    pub(super) fn board(&mut self, title: &str, lines: &[String], wide: u16) {
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
        pen.rule(0);
        pen.bottom(high - 1);
        pen.put(2, 0, &cell(&format!(" {title} "), wide - 4).styled(Style::new().add_modifier(Modifier::BOLD)));
        for (line, text) in lines.iter().take(usize::from(high - 2)).enumerate() {
            pen.put(2, line as u16 + 1, &cell(text, wide - 4));
        }
    }

    /// Cells beside each other, a blank between them.
    pub(super) fn cells(&mut self, y: u16, cells: &[Cell]) {
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

    pub(super) fn put(&mut self, x: u16, y: u16, cell: &Cell) {
        let style = self.base.patch(cell.style);
        let room = self.area.width.saturating_sub(x).min(cell.width);
        self.buffer.set_stringn(self.area.x + x, self.area.y + y, cell.text, usize::from(room), style);
    }

    /// Text that ends beside the right border; where it begins.
    pub(super) fn put_right(&mut self, y: u16, text: &str, style: Style) -> u16 {
        let wide = width(text);
        let x = (self.area.width - 2).saturating_sub(wide);
        self.put(x, y, &cell(text, wide).styled(style));
        x
    }

    /// A text on one line, cut where it is too long; where there is only ASCII, all else becomes `?`.
    pub(super) fn fit(&self, text: &str, room: u16) -> String {
        let known = |c: char| self.glyphs.cut != ASCII.cut || c.is_ascii();
        let glyphs = |c: char| [UNICODE.across, UNICODE.cut].iter().any(|glyph| glyph.starts_with(c));
        let mut text = printable(text);
        if !text.is_ascii() && !text.chars().all(|c| known(c) || glyphs(c)) {
            text = text.chars().map(|c| if known(c) { c } else { self.plain(c) }).collect();
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

    /// What stands for a character where there is only ASCII.
    fn plain(&self, c: char) -> char {
        match c {
            '✔' => '+',
            '✘' => '!',
            '≤' => '<',
            _ => '?',
        }
    }

    pub(super) fn paint(&self, paint: Paint) -> Style {
        match paint {
            _ if !self.colour => Style::new(),
            Paint::None => Style::new(),
            Paint::Good => Style::new().fg(Color::Green),
            Paint::Warn => Style::new().fg(Color::Yellow),
            Paint::Bad => Style::new().fg(Color::Red),
        }
    }

    pub(super) fn state(&self, word: &str) -> Style {
        match word {
            "running" | "ready" => self.paint(Paint::Good),
            "conflict" => self.paint(Paint::Bad),
            "degraded" => self.paint(Paint::Warn),
            word => self.paint(Paint::of_state(word)),
        }
    }

    /// A curve, the highest of it at the top; what is not known is blank.
    pub(super) fn curve(&self, values: &[Option<f32>]) -> String {
        let top = values.iter().flatten().copied().fold(0.0, f32::max);
        let level = |value: f32| match top > 0.0 {
            true => ((value / top * 7.0).round() as usize).min(7),
            false => 0,
        };
        values.iter().map(|value| value.map_or(" ", |value| self.glyphs.levels[level(value)])).collect()
    }

    /// What is left of a span, as a bar.
    pub(super) fn bar(&self, left: Duration, of: Duration, wide: usize) -> String {
        self.share(left.as_secs_f64() / of.as_secs_f64().max(0.001), wide)
    }

    /// A share of one, as a bar.
    pub(super) fn share(&self, share: f64, wide: usize) -> String {
        let full = ((share * wide as f64).round() as usize).min(wide);
        self.glyphs.full.repeat(full) + &self.glyphs.empty.repeat(wide - full)
    }
}

/// Words in lines of at most so many columns where they allow it.
pub(super) fn wrapped(text: &str, room: u16) -> Vec<String> {
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

pub(super) fn width(text: &str) -> u16 {
    let width = if text.is_ascii() { text.len() } else { Span::raw(text).width() };
    u16::try_from(width).unwrap_or(u16::MAX)
}
