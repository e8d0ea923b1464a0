//! The table of instruction counts in the repository, `tests/bench/instructions.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};

const HEAD: &str = "\
# Instructions per request

What callgrind counts in each sidecar of a pair for one request that is answered 200, and in the one that is called for a
mutual TLS connection without a request (`handshake`). `cargo run --release -p mesh-bench -- instructions` is held to
these numbers; with `--update` it writes them anew: do so in the change that moves them, and say why.

| Sidecar and load | Instructions |
|---|---:|
";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.md")
}

/// Reads the table.
pub(super) fn read() -> anyhow::Result<BTreeMap<String, f64>> {
    let path = path();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; --update writes it", path.display()))?;
    parse(&text).with_context(|| format!("{} is no table of counts", path.display()))
}

/// Writes the table.
pub(super) fn write(counts: &[(String, f64)]) -> anyhow::Result<()> {
    let path = path();
    std::fs::write(&path, print(counts)).with_context(|| format!("cannot write {}", path.display()))
}

fn print(counts: &[(String, f64)]) -> String {
    let mut text = HEAD.to_owned();
    for (name, count) in counts {
        let _ = writeln!(text, "| {name} | {count:.0} |");
    }
    text
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let mut counts = BTreeMap::new();
    for row in rows.skip(1) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (Some(name), Some(count)) = (cells.next(), cells.next()) else {
            bail!("a row without two cells: {row}");
        };
        let count = count
            .parse()
            .with_context(|| format!("'{count}' is no number"))?;
        counts.insert(name.to_owned(), count);
    }
    if counts.is_empty() {
        bail!("it has no rows");
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let counts = [("a_c1".to_owned(), 54_210.4), ("b_c32".to_owned(), 7.0)];
        let read = parse(&print(&counts)).unwrap();
        assert_eq!(read["a_c1"], 54_210.0);
        assert_eq!(read["b_c32"], 7.0);
        assert!(parse(HEAD).is_err());
        assert!(parse("| a | b |\n|---|\n| x | y |\n").is_err());
    }
}
