//! Matches of texts: by exact value, prefix, suffix or presence; methods as bits.

use http::Method;

use super::field::{Field, Key, Shape};

/// A list of text patterns, any of which may match. Most have one.
#[derive(Debug)]
pub(super) enum Texts {
    /// Any value that is there.
    Present,
    One(Shape, Box<str>),
    Many(Box<Many>),
}

/// Patterns by their shape.
#[derive(Debug, Default)]
pub(super) struct Many {
    /// Sorted.
    exact: Box<[Box<str>]>,
    prefixes: Box<[Box<str>]>,
    suffixes: Box<[Box<str>]>,
}

impl Texts {
    /// Compiles patterns: `*` (present), `*suffix`, `prefix*`, or an exact value.
    pub(super) fn compile<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut exact, mut prefixes, mut suffixes) = (
            Vec::<Box<str>>::new(),
            Vec::<Box<str>>::new(),
            Vec::<Box<str>>::new(),
        );
        for pattern in patterns {
            match Pattern::of(pattern) {
                Pattern::Present => return Self::Present,
                Pattern::Suffix(suffix) => suffixes.push(suffix.into()),
                Pattern::Prefix(prefix) => prefixes.push(prefix.into()),
                Pattern::Exact(text) => exact.push(text.into()),
            }
        }
        match (&mut exact[..], &mut prefixes[..], &mut suffixes[..]) {
            ([one], [], []) => return Self::One(Shape::Exact, std::mem::take(one)),
            ([], [one], []) => return Self::One(Shape::Prefix, std::mem::take(one)),
            ([], [], [one]) => return Self::One(Shape::Suffix, std::mem::take(one)),
            _ => {}
        }
        exact.sort_unstable();
        exact.dedup();
        Self::Many(Box::new(Many {
            exact: exact.into(),
            prefixes: prefixes.into(),
            suffixes: suffixes.into(),
        }))
    }

    /// A key for each pattern; `None` if one of them matches whatever is there.
    pub(super) fn keys(&self, field: &Field) -> Option<Vec<Key>> {
        let key = |shape| {
            move |text: &str| Key {
                field: field.clone(),
                shape,
                text: text.into(),
            }
        };
        match self {
            Self::Present => None,
            Self::One(shape, text) => Some(vec![key(*shape)(text)]),
            Self::Many(many) => {
                let [exact, prefixes, suffixes] = [
                    (&many.exact, Shape::Exact),
                    (&many.prefixes, Shape::Prefix),
                    (&many.suffixes, Shape::Suffix),
                ]
                .map(|(list, shape)| list.iter().map(AsRef::as_ref).map(key(shape)));
                Some(exact.chain(prefixes).chain(suffixes).collect())
            }
        }
    }

    /// True if `text` matches any pattern.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Present => true,
            Self::One(shape, one) => shape.matches(one, text),
            Self::Many(many) => {
                many.exact
                    .binary_search_by(|held| (**held).cmp(text))
                    .is_ok()
                    || many.prefixes.iter().any(|p| text.starts_with(&**p))
                    || many.suffixes.iter().any(|s| text.ends_with(&**s))
            }
        }
    }
}

/// One pattern, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern<'a> {
    /// Any value that is there.
    Present,
    /// Ends so.
    Suffix(&'a str),
    /// Begins so.
    Prefix(&'a str),
    /// Is this.
    Exact(&'a str),
}

impl<'a> Pattern<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix)
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix)
        } else {
            Self::Exact(text)
        }
    }
}

/// Patterns that a value must match, and patterns that it must not.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) wanted: Option<Texts>,
    pub(super) unwanted: Option<Texts>,
}

impl List {
    /// `None` when there is no pattern at all.
    pub(super) fn compile(wanted: &[String], unwanted: &[String]) -> Option<Self> {
        let texts = |patterns: &[String]| {
            (!patterns.is_empty()).then(|| Texts::compile(patterns.iter().map(String::as_str)))
        };
        (!wanted.is_empty() || !unwanted.is_empty()).then(|| Self {
            wanted: texts(wanted),
            unwanted: texts(unwanted),
        })
    }

    /// True if a value is wanted and not unwanted. One that is not there matches no pattern.
    pub(super) fn hold(&self, value: Option<&str>) -> bool {
        self.wanted
            .as_ref()
            .is_none_or(|w| value.is_some_and(|v| w.matches(v)))
            && !self
                .unwanted
                .as_ref()
                .is_some_and(|u| value.is_some_and(|v| u.matches(v)))
    }

    /// The same for an attribute with several values: any must be wanted, none may be unwanted.
    pub(super) fn hold_any<'v>(&self, values: impl Iterator<Item = &'v str> + Clone) -> bool {
        self.wanted
            .as_ref()
            .is_none_or(|w| values.clone().any(|v| w.matches(v)))
            && !self
                .unwanted
                .as_ref()
                .is_some_and(|u| values.into_iter().any(|v| u.matches(v)))
    }
}

/// Methods as bits; those that are not in the table as texts.
#[derive(Debug)]
pub(super) struct Methods {
    bits: u16,
    /// Seldom needed: not between what is needed for each request. `None`: all of them.
    others: Option<Box<List>>,
}

const KNOWN: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

impl Methods {
    const ANY: Self = Self {
        bits: u16::MAX,
        others: None,
    };

    /// Compiles patterns; every method will do when there are none.
    pub(super) fn compile(wanted: &[String], unwanted: &[String]) -> Self {
        let Some(others) = List::compile(wanted, unwanted) else {
            return Self::ANY;
        };
        let bits = KNOWN
            .iter()
            .enumerate()
            .filter(|(_, method)| others.hold(Some(method)))
            .fold(0, |bits, (i, _)| bits | 1 << i);
        Self {
            bits,
            others: Some(Box::new(others)),
        }
    }

    /// True if every method will do.
    pub(super) fn is_any(&self) -> bool {
        self.others.is_none()
    }

    /// A key for each method that is wanted; `None` if that is left open.
    pub(super) fn keys(&self) -> Option<Vec<Key>> {
        self.others.as_ref()?.wanted.as_ref()?.keys(&Field::Method)
    }

    pub(super) fn hold(&self, method: &Method) -> bool {
        match Self::position(method) {
            Some(at) => self.bits & 1 << at != 0,
            None => {
                let others = self.others.as_ref();
                others.is_none_or(|list| list.hold(Some(method.as_str())))
            }
        }
    }

    fn position(method: &Method) -> Option<usize> {
        // `Method` compares known methods by their discriminant.
        Some(match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::DELETE => 4,
            Method::CONNECT => 5,
            Method::OPTIONS => 6,
            Method::TRACE => 7,
            Method::PATCH => 8,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_match_by_bit_as_they_do_by_text() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (wanted, unwanted) in [
            (&["GET"][..], &[][..]),
            (&["P*"], &["PATCH"]),
            (&["*"], &["*T"]),
            (&[], &["DELETE", "PURGE"]),
            (&["PURGE", "*ACH"], &[]),
        ] {
            let methods = Methods::compile(&strings(wanted), &strings(unwanted));
            let list = List::compile(&strings(wanted), &strings(unwanted)).unwrap();
            for method in KNOWN.iter().chain(&["PURGE", "get", "Get", "X"]) {
                let parsed = Method::from_bytes(method.as_bytes()).unwrap();
                assert_eq!(
                    methods.hold(&parsed),
                    list.hold(Some(method)),
                    "{method} {wanted:?} {unwanted:?}"
                );
            }
        }
        for (i, method) in KNOWN.iter().enumerate() {
            let parsed = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Methods::position(&parsed), Some(i), "{method}");
        }
    }
}
