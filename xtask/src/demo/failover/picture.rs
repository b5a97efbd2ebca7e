//! An outage as people see it: acknowledged writes over time, in a terminal and on a page.

use crate::bench::plot::{escape, open, text};
use std::time::Duration;

/// The time of a character, or of a bar.
const SLOT_MS: f64 = 10.0;
/// What is shown before the fault, and after writes flow again.
const BEFORE_MS: f64 = 300.0;
const AFTER_MS: f64 = 1000.0;
/// Characters of a line.
const LINE: usize = 80;

/// What happened, with times in milliseconds since the fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    /// When each write was acknowledged.
    pub(super) acks: Vec<f64>,
    /// What was done when, in its order.
    pub(super) marks: Vec<(String, f64)>,
    /// When writes flowed again.
    pub(super) back: f64,
}

impl Picture {
    /// Acknowledgements in each slot, and when the first one begins.
    fn slots(&self) -> (f64, Vec<usize>) {
        let end = self.back + AFTER_MS;
        let mut slots = Vec::new();
        let mut begin = -BEFORE_MS;
        while begin < end {
            let within = |ack: &&f64| **ack >= begin && **ack < begin + SLOT_MS;
            slots.push(self.acks.iter().filter(within).count());
            begin += SLOT_MS;
        }
        (-BEFORE_MS, slots)
    }

    /// A character for each 10 ms: how many writes were acknowledged in it, a dot for none.
    /// Above it letters stand for what was done.
    pub(super) fn strip(&self) -> String {
        let (mut begin, slots) = self.slots();
        let mut page = String::new();
        for line in slots.chunks(LINE) {
            let end = begin + duration(line.len());
            let mut letters = vec![' '; line.len()];
            for (name, at) in self.marks.iter().filter(|(_, at)| *at >= begin && *at < end) {
                let mut place = index(*at - begin).min(line.len() - 1);
                // Two within 10 ms stand beside each other.
                while letters[place] != ' ' && place + 1 < line.len() {
                    place += 1;
                }
                letters[place] = letter(name);
            }
            let letters: String = letters.iter().collect();
            if !letters.trim().is_empty() {
                page += &format!("{:>9} {}\n", "", letters.trim_end());
            }
            let counts: String = line.iter().map(|count| digit(*count)).collect();
            page += &format!("{begin:>6.0} ms {counts}\n");
            begin = end;
        }
        let name = |(name, at): &(String, f64)| format!("{} {name} {at:.0} ms", letter(name));
        let names: Vec<String> = self.marks.iter().map(name).collect();
        page + &format!("{:>9} {}\n", "", names.join(", "))
    }

    /// The same as a drawing.
    pub(super) fn svg(&self) -> String {
        let (begin, slots) = self.slots();
        let (left, right, top, bottom) = (48.0, 880.0, 64.0, 204.0);
        let span = duration(slots.len());
        let most = slots.iter().copied().max().unwrap_or(1).max(4);
        let most_height = height(most);
        let x = |at: f64| left + (right - left) * (at - begin) / span;
        let mut svg = open(900.0, 240.0);
        svg += &text(4.0, 14.0, "title", "writes acknowledged in each 10 ms");
        for count in [0, most] {
            let y = bottom - (bottom - top) * height(count) / most_height;
            svg += &format!("<path d=\"M{left} {y:.1}H{right}\" class=\"grid\"/>");
            svg += &text(28.0, y + 4.0, "", &count.to_string());
        }
        let mut tick = -200.0;
        while tick < begin + span {
            svg += &format!("<path d=\"M{:.1} {top}V{bottom}\" class=\"grid\"/>", x(tick));
            svg += &text(x(tick) - 14.0, bottom + 16.0, "", &format!("{tick:.0} ms"));
            tick += 200.0;
        }
        let bar = (right - left) * SLOT_MS / span;
        for (index, count) in slots.iter().enumerate().filter(|(_, count)| **count > 0) {
            let tall = (bottom - top) * height(*count) / most_height;
            let (x, y) = (x(begin + duration(index)), bottom - tall);
            let width = (bar - 0.5).max(0.5);
            svg += &format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\" \
                 fill=\"#137cbd\"/>"
            );
        }
        for (index, (name, at)) in self.marks.iter().enumerate() {
            // Names stand on three lines in turns, so that those of steps in a row are legible.
            let y = 28.0 + 12.0 * height(index % 3);
            svg += &format!("<path d=\"M{:.1} {:.1}V{bottom}\" class=\"mark\"/>", x(*at), y + 2.0);
            svg += &text(x(*at) + 2.0, y, "mark-name", &format!("{name} {at:.0} ms"));
        }
        svg + "</svg>\n"
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
svg { display: block; max-width: 100%; height: auto; margin: .5rem 0; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg .title { font-weight: 600; }
svg .mark-name { fill: #c0392b; }
.grid { stroke: currentColor; opacity: .15; }
.mark { stroke: #c0392b; stroke-width: 1.2; }
pre { overflow-x: auto; font-size: 12px; line-height: 1.35; }
";

/// A page without anything from elsewhere: each act with its title, its figures and its drawing.
pub(super) fn page(acts: &[(String, String, Picture)]) -> String {
    let acts: String = acts
        .iter()
        .map(|(title, figures, picture)| {
            let (title, figures, svg) = (escape(title), escape(figures), picture.svg());
            format!("<h2>{title}</h2>\n{svg}<pre>{figures}</pre>\n")
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>pgring failover</title>\n<style>{STYLE}</style>\n<h1>pgring failover</h1>\n\
         <p>A primary and two standbys, pgring in front, 200 writes a second over 8 connections, \
         4 sessions that read and 8 that do nothing. Time 0 is the fault.</p>\n{acts}</html>\n"
    )
}

fn letter(name: &str) -> char {
    name.chars().next().unwrap_or('?').to_ascii_uppercase()
}

fn digit(count: usize) -> char {
    match u32::try_from(count).ok().and_then(|count| char::from_digit(count, 10)) {
        Some('0') => '.',
        Some(digit) => digit,
        None => '#',
    }
}

/// Milliseconds of so many slots.
fn duration(slots: usize) -> f64 {
    Duration::from_millis(u64::try_from(slots).unwrap_or(0)).as_secs_f64() * 1000.0 * SLOT_MS
}

/// A small number, as a length.
fn height(count: usize) -> f64 {
    duration(count) / SLOT_MS
}

/// The slot of a time that is not before the first one.
fn index(ms: f64) -> usize {
    usize::try_from(Duration::from_secs_f64(ms.max(0.0) / SLOT_MS).as_secs()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Picture, page};

    fn picture() -> Picture {
        let marks = [("kill", 0.0), ("fence", 212.0), ("promote", 218.0)];
        let marks = marks.map(|(name, at)| (name.to_owned(), at)).into();
        let acks = vec![-295.0, -294.0, -5.0, 311.0];
        Picture { acks, marks, back: 311.0 }
    }

    #[test]
    fn a_strip_has_a_character_for_each_ten_milliseconds() {
        let strip = picture().strip();
        let lines: Vec<&str> = strip.lines().collect();
        assert_eq!(lines.len(), 5, "{strip}");
        assert_eq!(lines[1].trim_start().split(' ').nth(2).map(str::len), Some(80), "{strip}");
        assert!(lines[1].starts_with("  -300 ms 2..") && lines[1].ends_with('.'), "{strip}");
        // 30 slots until the kill; two marks within one slot stand beside each other.
        assert_eq!(&lines[0][10 + 30..10 + 31], "K", "{strip}");
        assert_eq!(&lines[0][10 + 51..10 + 53], "FP", "{strip}");
        assert_eq!(&lines[1][10 + 61..10 + 62], "1", "{strip}");
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let page = page(&[("a < b".to_owned(), "lost 0".to_owned(), picture())]);
        assert!(page.contains("a &lt; b") && page.matches("class=\"mark\"").count() == 3);
        assert!(page.matches("<rect").count() == 3 && !page.contains("NaN"));
        for word in ["https://", "src=", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
