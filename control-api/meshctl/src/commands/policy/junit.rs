//! Results of policy tests as JUnit XML, which every CI reads.

use std::fmt::Write as _;

use crate::offline::suite::Report;

/// The XML of all files.
pub(super) fn xml(reports: &[Report]) -> String {
    let tests: usize = reports.iter().map(|r| r.tests.len()).sum();
    let failures: usize = reports.iter().map(Report::failed).sum();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<testsuites name=\"meshctl policy test\" tests=\"{tests}\" failures=\"{failures}\">"
    );
    for report in reports {
        let name = escape(&report.file);
        let _ = writeln!(
            out,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\">",
            report.tests.len(),
            report.failed()
        );
        for test in &report.tests {
            let _ = write!(
                out,
                "    <testcase classname=\"{name}\" name=\"{}\"",
                escape(&test.name)
            );
            let _ = match &test.failure {
                None => writeln!(out, "/>"),
                Some(failure) => writeln!(
                    out,
                    ">\n      <failure message=\"{0}\">{0}</failure>\n    </testcase>",
                    escape(failure)
                ),
            };
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text for XML 1.0: markup escaped, characters that it forbids replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_markup() {
        assert_eq!(
            escape("a<b>&\"'\u{1}"),
            "a&lt;b&gt;&amp;&quot;&apos;\u{fffd}"
        );
    }
}
