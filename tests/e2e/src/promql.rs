//! What a PromQL expression speaks of: the series it selects and the labels it names. No evaluation: Prometheus does that.

use std::collections::{BTreeMap, BTreeSet};

/// Series by name, with the labels that they are selected by; and labels that results are grouped by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Names of series, and the labels of their matchers.
    pub series: BTreeMap<String, BTreeSet<String>>,
    /// Labels of `by`, `on` and their like.
    pub grouping: BTreeSet<String>,
}

const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Operators; an aggregation may say what it groups by before its parenthesis.
const WORDS: [&str; 13] = [
    "and", "or", "unless", "offset", "bool", "atan2", "sum", "min", "max", "avg", "count", "topk",
    "bottomk",
];

/// Reads an expression. Strings, numbers and durations name nothing.
#[must_use]
pub fn mentions(expression: &str) -> Mentions {
    let mut found = Mentions::default();
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            rest = after_string(rest);
        } else if c.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            rest = &rest[end.unwrap_or(rest.len())..];
        } else if is_name(c) {
            let end = rest.find(|c: char| !is_name(c) && !c.is_ascii_digit());
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            let next = after.trim_start();
            if GROUPING.contains(&name) {
                rest = next;
                if let Some(list) = next.strip_prefix('(') {
                    let (labels, after) = list.split_once(')').expect("a closed list");
                    let labels = labels.split(',').map(str::trim).filter(|l| !l.is_empty());
                    found.grouping.extend(labels.map(str::to_owned));
                    rest = after;
                }
            } else if WORDS.contains(&name) || next.starts_with('(') {
                rest = after;
            } else {
                let labels = found.series.entry(name.to_owned()).or_default();
                rest = next;
                if let Some(matchers) = next.strip_prefix('{') {
                    rest = read_matchers(matchers, labels);
                }
            }
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == ':'
}

fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn read_matchers<'a>(text: &'a str, labels: &mut BTreeSet<String>) -> &'a str {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '}' {
            return &rest[1..];
        }
        if c == '"' {
            rest = after_string(rest);
        } else if is_name(c) {
            let end = rest.find(|c: char| !is_name(c) && !c.is_ascii_digit());
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            labels.insert(name.to_owned());
            rest = after;
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_labels_are_found_and_nothing_else() {
        let text = "sum by (le, a) (rate(m_bucket{x=\"y{z}\", w=~\".*\"}[5m])) / ignoring (b) group_left c:d offset 1h and up{} > 1e3";
        let found = mentions(text);
        let series: Vec<_> = found.series.keys().map(String::as_str).collect();
        assert_eq!(series, ["c:d", "m_bucket", "up"]);
        let labels: Vec<_> = found.series["m_bucket"]
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(labels, ["w", "x"]);
        let grouping: Vec<_> = found.grouping.iter().map(String::as_str).collect();
        assert_eq!(grouping, ["a", "b", "le"]);
    }
}
