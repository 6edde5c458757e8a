//! Text in columns.

use super::Style;
use super::words::printable;

/// How a cell may be coloured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    None,
    Good,
    Warn,
    Bad,
}

impl Paint {
    /// What suits the word for a state.
    pub(super) fn of_state(word: &str) -> Paint {
        match word {
            "active" | "listening" | "scheduled" | "up" | "lord" => Paint::Good,
            "starting" | "stopping" | "draining" | "stale" | "losing" | "paused" => Paint::Warn,
            "unhealthy" | "backoff" | "failed" | "gone" | "vacant" | "no-quorum" => Paint::Bad,
            _ => Paint::None,
        }
    }

    pub(super) fn apply(self, text: &str, style: Style) -> String {
        let code = match self {
            _ if !style.colour => return text.to_owned(),
            Paint::None => return text.to_owned(),
            Paint::Good => 32,
            Paint::Warn => 33,
            Paint::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A table under construction. Columns that hold numbers are named with a leading `>` and stand to the right; the
/// last column is wrapped where the style has a width.
pub(super) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<(String, Paint)>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Table {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads = heads.iter().map(|head| (head.trim_start_matches('>').to_owned(), Paint::None)).collect();
        Table { right, rows: vec![heads] }
    }

    /// Adds a row. Cells that name a state are coloured as such.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| {
                    let paint = Paint::of_state(&cell);
                    (printable(&cell), paint)
                })
                .collect(),
        );
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(super) fn text(&self, style: Style) -> String {
        let columns = self.right.len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0))
            .collect();
        let indent: usize = widths[..columns - 1].iter().map(|width| width + 2).sum();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, paint)) in row[..columns - 1].iter().enumerate() {
                let fill = " ".repeat(widths[column] - cell.chars().count());
                let cell = paint.apply(cell, style);
                line.push_str(&if self.right[column] { format!("{fill}{cell}  ") } else { format!("{cell}{fill}  ") });
            }
            let (last, paint) = &row[columns - 1];
            let room = style.width.map(|width| width.saturating_sub(indent).max(24));
            let mut wrapped = wrap(last, room).into_iter();
            let first = wrapped.next().unwrap_or_default();
            if self.right[columns - 1] {
                line.push_str(&" ".repeat(widths[columns - 1].saturating_sub(first.chars().count())));
            }
            line.push_str(&paint.apply(&first, style));
            text.push_str(line.trim_end());
            text.push('\n');
            for rest in wrapped {
                text.push_str(&" ".repeat(indent));
                text.push_str(&rest);
                text.push('\n');
            }
        }
        text
    }
}

/// `text` in lines of at most `room` characters where its words allow it. What indents it stays.
fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let words = text.trim_start();
    let mut lines = vec![text[..text.len() - words.len()].to_owned()];
    let mut begun = false;
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if begun && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else {
            if begun {
                line.push(' ');
            }
            line.push_str(word);
        }
        begun = true;
    }
    lines
}
