//! What lies over the panels, and has the keys: something to type, to confirm, or to read.

use super::filter::Filter;
use super::screen::{Key, Now, Panel, Screen, Wish};

/// How many lines of a page that grows are kept.
pub(super) const PAGE_LINES: usize = 5_000;
/// How many lines of the palette are remembered.
const TYPED: usize = 100;

/// What lies over the panels, and has the keys.
#[derive(Debug, Clone)]
pub(super) enum Over {
    Nothing,
    /// The filter is being typed; with what is wrong with it so far.
    Typing {
        text: String,
        wrong: Option<String>,
    },
    /// A command is being typed.
    Palette(Palette),
    /// Something is to be done, if that is meant.
    Dialog {
        effect: String,
        wish: Wish,
    },
    Help,
    Page(Page),
}

/// The palette.
#[derive(Debug, Clone, Default)]
pub(super) struct Palette {
    pub(super) text: String,
    /// What the last word could become, where that is several things.
    pub(super) offers: Vec<String>,
    /// How many lines back it is, of those that were typed before.
    back: usize,
}

/// A text to be read.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    /// The first line that shows; nothing: the last lines do, whatever is added.
    pub(super) top: Option<usize>,
}

impl Screen {
    pub(super) fn type_filter(&mut self, mut text: String, key: Key) {
        match key {
            Key::Char(c) => text.push(c),
            Key::Backspace => drop(text.pop()),
            Key::Escape => {
                self.filter = None;
                return;
            }
            Key::Enter => {
                if let Err(why) = Filter::parse(&text) {
                    self.over = Over::Typing { text, wrong: Some(why) };
                }
                return;
            }
            _ => {}
        }
        let wrong = match Filter::parse(&text) {
            Ok(filter) => {
                self.filter = filter;
                None
            }
            Err(why) => Some(why),
        };
        self.over = Over::Typing { text, wrong };
    }

    pub(super) fn turn(&mut self, mut page: Page, key: Key, half_top: bool) {
        let last = page.lines.len().saturating_sub(self.page_height());
        let top = page.top.unwrap_or(last).min(last);
        let to = |top: usize| if top >= last && page.top.is_none() { None } else { Some(top) };
        page.top = match key {
            Key::Escape | Key::Char('q') => return,
            Key::Up | Key::Char('k') => to(top.saturating_sub(1)),
            Key::Down | Key::Char('j') => to((top + 1).min(last)),
            Key::PageUp => to(top.saturating_sub(self.page_height())),
            Key::PageDown | Key::Char(' ') => to((top + self.page_height()).min(last)),
            Key::Home => Some(0),
            Key::Char('g') if half_top => Some(0),
            Key::Char('g') => {
                self.half_top = true;
                page.top
            }
            // From here on what is added shows.
            Key::End | Key::Char('G') => None,
            _ => page.top,
        };
        self.over = Over::Page(page);
    }

    /// How many lines of a page show.
    pub(super) fn page_height(&self) -> usize {
        usize::from(self.height).saturating_sub(3).max(1)
    }

    /// A key of the palette. Panels are gone to at once; all else is for whoever understands circusctl's commands.
    pub(super) fn type_command(&mut self, mut palette: Palette, key: Key, now: Now) -> Option<Wish> {
        palette.offers.clear();
        let mut wish = None;
        match key {
            Key::Char(c) => palette.text.push(c),
            // The last one takes the palette away, too.
            Key::Backspace if palette.text.pop().is_none() => return None,
            Key::Escape => return None,
            Key::Enter => return self.obey(&palette.text, now),
            Key::Tab => wish = Some(Wish::Complete(palette.text.clone())),
            Key::Up => palette.recall(palette.back + 1, &self.typed),
            Key::Down => palette.recall(palette.back.saturating_sub(1), &self.typed),
            _ => {}
        }
        self.over = Over::Palette(palette);
        wish
    }

    fn obey(&mut self, text: &str, now: Now) -> Option<Wish> {
        let line = text.trim();
        if line.is_empty() {
            return None;
        }
        if self.typed.last().is_none_or(|last| last != line) {
            self.typed.push(line.to_owned());
            self.typed.drain(..self.typed.len().saturating_sub(TYPED));
        }
        match line {
            "q" | "exit" => Some(Wish::Quit),
            "help" => {
                self.over = Over::Help;
                None
            }
            "explain" => self.explain(now),
            "describe" => self.describe(now),
            "logs" => self.logs(now),
            _ => match Panel::of_name(line) {
                Some(panel) => {
                    self.panel = panel;
                    None
                }
                None => Some(Wish::Obey(line.to_owned())),
            },
        }
    }

    /// What the line of the palette could go on with, from its byte `start` on: one word is taken, of several what they
    /// have in common.
    pub fn complete(&mut self, start: usize, mut words: Vec<String>) {
        let Over::Palette(palette) = &mut self.over else { return };
        let Some(begun) = palette.text.get(start..) else { return };
        words.retain(|word| word.starts_with(begun));
        words.sort();
        words.dedup();
        let Some(first) = words.first() else { return };
        let shared =
            |a: &str, b: &str| a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let common: usize = words.iter().map(|word| shared(first, word)).min().unwrap_or(0);
        let mut text = format!("{}{}", &palette.text[..start], &first[..common]);
        // A word that is whole is followed by the next one.
        if words.len() == 1 {
            text.push(' ');
            words.clear();
        }
        (palette.text, palette.offers) = (text, words);
    }

    /// Asks whether something is meant to be done.
    pub fn confirm(&mut self, effect: impl Into<String>, wish: Wish) {
        self.over = Over::Dialog { effect: effect.into(), wish };
    }
}

impl Palette {
    fn recall(&mut self, back: usize, typed: &[String]) {
        self.back = back.min(typed.len());
        self.text = if self.back == 0 { String::new() } else { typed[typed.len() - self.back].clone() };
    }
}
