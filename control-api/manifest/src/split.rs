//! Where documents of a YAML stream begin and end.
//!
//! `---` and `...` at the start of a line, alone or before white space, are markers wherever they stand: YAML forbids
//! them inside any scalar (YAML 1.2.2 rule c-forbidden), so that looking at lines is exact.

/// One document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// Its text, from its marker on.
    pub(crate) text: &'a str,
    /// Lines of the stream before it.
    pub(crate) lines_before: usize,
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// The documents of a stream that hold more than comments and white space.
pub(crate) fn documents(stream: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    let mut ended = false;
    for (number, line) in stream.split_inclusive('\n').enumerate() {
        // After `...` directives may follow: they belong to the document that they introduce.
        if is_marker(line, "---") && !ended {
            chunks.push(Chunk {
                text: &stream[start..offset],
                lines_before: start_line,
            });
            (start, start_line) = (offset, number);
        }
        ended &= !is_marker(line, "---");
        offset += line.len();
        if is_marker(line, "...") {
            chunks.push(Chunk {
                text: &stream[start..offset],
                lines_before: start_line,
            });
            (start, start_line) = (offset, number + 1);
            ended = true;
        }
    }
    chunks.push(Chunk {
        text: &stream[start..],
        lines_before: start_line,
    });
    chunks.into_iter().filter(|chunk| has_content(chunk.text))
}

fn has_content(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().any(|line| {
        let rest = ["---", "..."]
            .into_iter()
            .find(|m| is_marker(line, m))
            .map_or(line, |m| &line[m.len()..])
            .trim();
        !rest.is_empty() && !rest.starts_with('#')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, &str)> {
        documents(text).map(|c| (c.lines_before, c.text)).collect()
    }

    #[test]
    fn documents_begin_at_their_markers() {
        let cases: &[(&str, &[(usize, &str)])] = &[
            ("", &[]),
            ("# nothing\n---\n---\n# here\n", &[]),
            ("a: 1", &[(0, "a: 1")]),
            ("a: 1\n---\nb: 2\n", &[(0, "a: 1\n"), (1, "---\nb: 2\n")]),
            (
                "--- {a: 1}\n--- {b: 2}\n",
                &[(0, "--- {a: 1}\n"), (1, "--- {b: 2}\n")],
            ),
            (
                "a: 1\r\n---\r\nb: 2",
                &[(0, "a: 1\r\n"), (1, "---\r\nb: 2")],
            ),
            // Indented, or longer: no marker.
            ("a: |\n  ---\n  b\n", &[(0, "a: |\n  ---\n  b\n")]),
            ("a: ----\n----: 1\n", &[(0, "a: ----\n----: 1\n")]),
            // The end marker, and directives after it.
            (
                "a: 1\n...\n%YAML 1.2\n---\nb: 2\n",
                &[(0, "a: 1\n...\n"), (2, "%YAML 1.2\n---\nb: 2\n")],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), *expected, "{text:?}");
        }
    }
}
