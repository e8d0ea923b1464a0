//! Path patterns: texts, and templates with `{*}` (one segment, not empty) and `{**}` (any text, also none).
//!
//! An operator is a whole segment. `{**}` is the last operator; literal text may follow it. `/a/{**}` matches `/a/` and
//! everything below, not `/a`.

use super::field::{Field, Key, Shape};
use super::text::Texts;

/// A path pattern is a template if it has an operator.
pub(super) fn is_template(pattern: &str) -> bool {
    pattern.contains(['{', '}'])
}

/// Segments further back are not worth a look for each request.
const MAX_SEGMENT: u8 = 8;

/// A path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    /// Text before the first operator.
    head: Box<str>,
    /// Operators, each with the text that follows it.
    steps: Box<[(Operator, Box<str>)]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Segment,
    Rest,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("a template must start with '/'");
        }
        let mut head = String::new();
        let mut steps: Vec<(Operator, String)> = Vec::new();
        for segment in text[1..].split('/') {
            let operator = match segment {
                "{*}" => Some(Operator::Segment),
                "{**}" => Some(Operator::Rest),
                other if other.contains(['{', '}', '*']) => {
                    return Err(
                        "in a template, '*', '{' and '}' may stand only in the whole segments `{*}` and `{**}`",
                    );
                }
                _ => None,
            };
            let literal = steps.last_mut().map_or(&mut head, |(_, literal)| literal);
            literal.push('/');
            match operator {
                None => literal.push_str(segment),
                Some(_) if matches!(steps.last(), Some((Operator::Rest, _))) => {
                    return Err("`{**}` must be the last operator");
                }
                Some(operator) => steps.push((operator, String::new())),
            }
        }
        Ok(Self {
            head: head.into(),
            steps: steps
                .into_iter()
                .map(|(o, text)| (o, text.into()))
                .collect(),
        })
    }

    /// What every path that matches has: the text before the first operator, or, where that says nothing, the first whole
    /// segment behind it, or the end.
    fn key(&self) -> Key {
        if &*self.head != "/" {
            return Key {
                field: Field::Path,
                shape: Shape::Prefix,
                text: self.head.clone(),
            };
        }
        for (at, (operator, literal)) in (1..MAX_SEGMENT).zip(&self.steps) {
            match operator {
                // Only single segments came before: what follows is the next.
                Operator::Segment => {
                    let text = literal.strip_prefix('/').unwrap_or_default();
                    let segment = text.split('/').next().unwrap_or_default();
                    if !segment.is_empty() {
                        return Key::exact(Field::Segment(at), segment);
                    }
                }
                Operator::Rest if literal.is_empty() => break,
                Operator::Rest => {
                    return Key {
                        field: Field::Path,
                        shape: Shape::Suffix,
                        text: literal.clone(),
                    };
                }
            }
        }
        Key {
            field: Field::Path,
            shape: Shape::Prefix,
            text: self.head.clone(),
        }
    }

    /// True if the whole path matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix(&*self.head) else {
            return false;
        };
        for (operator, literal) in &self.steps {
            match operator {
                Operator::Segment => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    if end == 0 {
                        return false;
                    }
                    match rest[end..].strip_prefix(&**literal) {
                        Some(after) => rest = after,
                        None => return false,
                    }
                }
                // The last operator: what follows must end the path.
                Operator::Rest => return rest.ends_with(&**literal),
            }
        }
        rest.is_empty()
    }
}

/// Path patterns, any of which may match.
#[derive(Debug)]
pub(super) struct Paths {
    texts: Texts,
    templates: Box<[Template]>,
}

impl Paths {
    /// Compiles patterns that [`check`] passed.
    pub(super) fn compile(patterns: &[String]) -> Result<Option<Self>, (usize, &'static str)> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let mut templates = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            if is_template(pattern) {
                templates.push(Template::parse(pattern).map_err(|problem| (i, problem))?);
            }
        }
        let texts = patterns.iter().map(String::as_str);
        Ok(Some(Self {
            texts: Texts::compile(texts.filter(|pattern| !is_template(pattern))),
            templates: templates.into(),
        }))
    }

    /// Under what an index finds them; `None` if one of them matches every path.
    pub(super) fn keys(&self) -> Option<Vec<Key>> {
        let mut keys = self.texts.keys(&Field::Path)?;
        keys.extend(self.templates.iter().map(Template::key));
        Some(keys)
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.texts.matches(path) || self.templates.iter().any(|t| t.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_whole_paths_by_segment() {
        for (template, path, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo", false),
            ("/foo/{*}", "/foo/bar/", false),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo/a/b", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{**}", "/foobar", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo/bar/baz.txt/", true),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz/x", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/baz/", false),
            ("/foo/{*}/bar/{**}", "/foo/a/b/bar/c", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/{*}", "/", false),
            ("/{*}/{*}", "/a/b", true),
            ("/{*}/x", "/a/x", true),
            ("/{*}/x", "/a/xy", false),
            ("/{**}/x", "/a/b/x", true),
            ("/{**}/x", "/x", false),
        ] {
            let parsed = Template::parse(template).expect(template);
            assert_eq!(parsed.matches(path), expected, "{template} {path}");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        for template in [
            "/*/baz/{*}",
            "/**/baz/{*}",
            "/{**}/foo/{*}",
            "/{**}/{**}",
            "/foo/{*}.txt",
            "/foo/x{**}",
            "/foo/{*}*",
            "/foo/{",
            "/foo/{}",
            "/foo/{id}",
            "/foo/}*{",
            "foo/{*}",
            "{*}",
            "/{***}",
        ] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
