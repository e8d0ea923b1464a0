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

/// A path template: text that was found right, and where its operators begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template<'a> {
    /// Text before the first operator.
    head: &'a str,
    /// From the first operator on.
    tail: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Segment,
    Rest,
}

impl<'a> Template<'a> {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("a template must start with '/'");
        }
        let mut last = false;
        for segment in text[1..].split('/') {
            match segment {
                "{*}" | "{**}" if last => return Err("`{**}` must be the last operator"),
                "{*}" => {}
                "{**}" => last = true,
                other if other.contains(['{', '}', '*']) => {
                    return Err(
                        "in a template, '*', '{' and '}' may stand only in the whole segments `{*}` and `{**}`",
                    );
                }
                _ => {}
            }
        }
        let (head, tail) = text.split_at(text.find('{').unwrap_or(text.len()));
        Ok(Self { head, tail })
    }

    /// One that was parsed, by its text and the length of its head.
    fn at(head: u32, text: &'a str) -> Self {
        let (head, tail) = text.split_at(head as usize);
        Self { head, tail }
    }

    /// Operators, each with the text that follows it.
    fn steps(self) -> impl Iterator<Item = (Operator, &'a str)> {
        let mut tail = self.tail;
        std::iter::from_fn(move || {
            let (operator, after) = match tail.strip_prefix("{**}") {
                Some(after) => (Operator::Rest, after),
                None => (Operator::Segment, tail.strip_prefix("{*}")?),
            };
            let literal;
            let end = memchr::memchr(b'{', after.as_bytes());
            (literal, tail) = after.split_at(end.unwrap_or(after.len()));
            Some((operator, literal))
        })
    }

    /// What every path that matches has: the text before the first operator, or, where that says nothing, the first whole
    /// segment behind it, or the end.
    fn key(self) -> Key {
        if self.head != "/" {
            return Key {
                field: Field::Path,
                shape: Shape::Prefix,
                text: self.head.into(),
            };
        }
        for (at, (operator, literal)) in (1..MAX_SEGMENT).zip(self.steps()) {
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
                        text: literal.into(),
                    };
                }
            }
        }
        Key {
            field: Field::Path,
            shape: Shape::Prefix,
            text: self.head.into(),
        }
    }

    /// True if the whole path matches.
    pub(super) fn matches(self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix(self.head) else {
            return false;
        };
        for (operator, literal) in self.steps() {
            match operator {
                Operator::Segment => {
                    let end = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
                    if end == 0 {
                        return false;
                    }
                    match rest[end..].strip_prefix(literal) {
                        Some(after) => rest = after,
                        None => return false,
                    }
                }
                // The last operator: what follows must end the path.
                Operator::Rest => return rest.ends_with(literal),
            }
        }
        rest.is_empty()
    }
}

/// Path patterns, any of which may match. Most have one, which is looked at without following more than its text.
#[derive(Debug)]
pub(super) enum Paths {
    /// Every path.
    Present,
    One(Shape, Box<str>),
    /// A template, and the length of its head.
    Template(u32, Box<str>),
    Many(Box<Many>),
}

/// Texts, and templates with the lengths of their heads.
#[derive(Debug)]
pub(super) struct Many {
    texts: Texts,
    templates: Box<[(u32, Box<str>)]>,
}

impl Paths {
    /// Compiles patterns.
    ///
    /// # Errors
    /// Which template is wrong, and what is wrong with it.
    pub(super) fn compile(patterns: &[String]) -> Result<Option<Self>, (usize, &'static str)> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let mut templates = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            if is_template(pattern) {
                let template = Template::parse(pattern).map_err(|problem| (i, problem))?;
                let head = u32::try_from(template.head.len()).map_err(|_| (i, "is too long"))?;
                templates.push((head, pattern.as_str().into()));
            }
        }
        let texts = patterns.iter().map(String::as_str);
        let texts = Texts::compile(texts.filter(|pattern| !is_template(pattern)));
        if patterns.len() == 1
            && let Some((head, text)) = templates.pop()
        {
            return Ok(Some(Self::Template(head, text)));
        }
        Ok(Some(match texts {
            Texts::Present => Self::Present,
            Texts::One(shape, text) if templates.is_empty() => Self::One(shape, text),
            texts => Self::Many(Box::new(Many {
                texts,
                templates: templates.into(),
            })),
        }))
    }

    /// Under what an index finds them; `None` if one of them matches every path.
    pub(super) fn keys(&self) -> Option<Vec<Key>> {
        Some(match self {
            Self::Present => return None,
            Self::One(shape, text) => vec![Key {
                field: Field::Path,
                shape: *shape,
                text: text.clone(),
            }],
            Self::Template(head, text) => vec![Template::at(*head, text).key()],
            Self::Many(many) => {
                let mut keys = many.texts.keys(&Field::Path)?;
                keys.extend(
                    many.templates
                        .iter()
                        .map(|(head, t)| Template::at(*head, t).key()),
                );
                keys
            }
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Present => true,
            Self::One(shape, text) => shape.matches(text, path),
            Self::Template(head, text) => Template::at(*head, text).matches(path),
            Self::Many(many) => {
                let mut templates = many.templates.iter();
                many.texts.matches(path)
                    || templates.any(|(head, text)| Template::at(*head, text).matches(path))
            }
        }
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
