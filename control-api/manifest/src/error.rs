//! What is wrong with a manifest, and where: source, document, line, column, field, and the line itself.

use std::fmt;

/// Longest piece of a source line that is quoted.
const MAX_QUOTE: usize = 120;

/// A field whose value makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    /// Path in the document, for example `spec.ports[0].port`.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

/// Why a manifest was refused. Nothing of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, as the caller named it.
    pub source: Box<str>,
    /// Position of the document, from 1; 0 when the manifest as a whole is wrong.
    pub document: usize,
    /// `Kind namespace/name` as far as the document says it; empty when it does not.
    pub subject: Box<str>,
    /// Line, from 1; 0 when unknown.
    pub line: usize,
    /// Column in characters, from 1; 0 when unknown.
    pub column: usize,
    /// Path of the field; empty when no field is concerned.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
    /// The text of the line.
    pub quote: Box<str>,
}

impl ManifestError {
    pub(crate) fn whole(source: &str, problem: String) -> Self {
        Self {
            source: source.into(),
            document: 0,
            subject: Box::default(),
            line: 0,
            column: 0,
            path: String::new(),
            problem,
            quote: Box::default(),
        }
    }

    /// The quoted line with a caret under the column.
    fn write_quote(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.column.saturating_sub(1);
        // A long line is cut so that the column stays in view.
        let from = column.saturating_sub(MAX_QUOTE / 2);
        let shown: String = self
            .quote
            .chars()
            .skip(from)
            .take(MAX_QUOTE)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let caret = " ".repeat(column - from);
        write!(
            f,
            "\n{margin} |\n{number} | {}\n{margin} | {caret}^",
            shown.trim_end()
        )
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if self.document > 0 {
            write!(f, "document {}", self.document)?;
            if !self.subject.is_empty() {
                write!(f, " ({})", self.subject)?;
            }
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if self.line > 0 && !self.quote.trim().is_empty() {
            self.write_quote(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}
