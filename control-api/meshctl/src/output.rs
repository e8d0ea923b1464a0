//! Tables, JSON and YAML on standard output. Owns widths, colours (`NO_COLOR`, terminals only) and the promise that a
//! table fits 100 columns.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::Format;
use crate::failure::Failure;

/// Columns a table may use.
pub(crate) const WIDTH: usize = 100;

/// How a cell is coloured on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Warn,
    Dim,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a colour.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows under headings. Text that does not fit is wrapped at spaces within its column.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headings.len());
        self.rows.push(cells.into());
    }

    /// The table as text, lines ended by `\n`.
    pub(crate) fn render(&self, colour: bool) -> String {
        let widths = self.widths();
        let mut out = String::new();
        let headings: Vec<Cell> = self
            .headings
            .iter()
            .map(|h| Cell::toned(*h, Tone::Dim))
            .collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            render_row(&mut out, row, &widths, colour);
        }
        out
    }

    /// Natural widths, the widest columns narrowed until the line fits.
    fn widths(&self) -> Vec<usize> {
        let natural = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.chars().count())
                .chain([self.headings[column].len()])
                .max()
                .unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.headings.len()).map(natural).collect();
        let room = WIDTH - 2 * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() > room {
            let Some(widest) = widths.iter_mut().max() else {
                break;
            };
            *widest -= 1;
        }
        widths
    }
}

fn render_row(out: &mut String, row: &[Cell], widths: &[usize], colour: bool) {
    let wrapped: Vec<Vec<String>> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrap(&cell.text, *width))
        .collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
    for line in 0..height {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let part = wrapped[column].get(line).map_or("", String::as_str);
            text.push_str(&paint(part, cell.tone, colour));
            if column + 1 < row.len() {
                let gap = widths[column].saturating_sub(part.chars().count()) + 2;
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
}

/// Breaks text at spaces (or anywhere, when a word is longer than the column).
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() <= width {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
            }
            used += 1;
        } else if used > 0 {
            lines.push(String::new());
            used = 0;
        }
        while rest.len() > width - used {
            let tail = rest.split_off(width - used);
            if let Some(line) = lines.last_mut() {
                line.extend(rest);
            }
            lines.push(String::new());
            used = 0;
            rest = tail;
        }
        used += rest.len();
        if let Some(line) = lines.last_mut() {
            line.extend(rest);
        }
    }
    lines
}

/// Colours text for a terminal.
pub(crate) fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        _ if !colour || text.is_empty() => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Bad => "31",
        Tone::Warn => "33",
        Tone::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Whether standard output shows colours.
pub(crate) fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
}

/// Prints a value in the wanted format; `table` is only asked for when a table is wanted.
pub(crate) fn print(
    format: Format,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(),
        Format::Json => json(value)?,
        Format::Yaml => yaml(value)?,
    };
    write(&text)
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::problem("could not write the result").why(error))
        }
        _ => Ok(()),
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::problem("could not write the result as JSON").why(error))
}

/// A value as one YAML document.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map(|text| {
            if text.ends_with('\n') {
                text
            } else {
                text + "\n"
            }
        })
        .map_err(|error| Failure::problem("could not write the result as YAML").why(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a".into(), "ready".into()]);
        table.row(["longer-name".into(), "".into()]);
        assert_eq!(
            table.render(false),
            "NAME         STATE\na            ready\nlonger-name\n"
        );
    }

    #[test]
    fn a_table_fits_its_width_whatever_it_holds() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.row([
            "x".repeat(150).into(),
            "word ".repeat(60).into(),
            "ok".into(),
        ]);
        let text = table.render(false);
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert_eq!(text.matches('x').count(), 150, "nothing is cut off");
        assert_eq!(text.matches("word").count(), 60, "words stay whole");
    }

    #[test]
    fn colour_appears_only_when_wanted() {
        let mut table = Table::new(&["A"]);
        table.row([Cell::toned("bad", Tone::Bad)]);
        assert!(!table.render(false).contains('\x1b'));
        assert!(table.render(true).contains("\x1b[31mbad\x1b[0m"));
    }

    #[test]
    fn values_become_json_and_yaml() {
        let value = serde_json::json!({"name": "orders", "ports": [80]});
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&json(&value).expect("JSON"))
                .expect("parses"),
            value
        );
        assert!(yaml(&value).expect("YAML").contains("name: orders"));
    }
}
