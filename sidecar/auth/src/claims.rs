//! Strict JSON for tokens, key sets and introspection answers: one parser, no second reading.
//!
//! Refused, because another parser could read it differently: duplicate members at any depth (escaped spellings count
//! as what they spell), lone surrogates, control characters in strings, invalid UTF-8, a byte order mark, bytes after
//! the document, numbers that RFC 8259 does not have. Depth and number of values are limited, so that what is held never
//! exceeds a fixed multiple of the limits, whatever the bytes say. The cost is linear in the bytes plus one sort of the
//! names of each object: there is no hash table to flood.

mod member;
mod parse;

#[cfg(test)]
mod tests;

pub use parse::{Limits, ParseError, parse, parse_within};

use std::fmt;

use self::member::Member;

/// Latest NumericDate that is believed: the end of year 9999.
const LAST_DATE: f64 = 253_402_300_799.0;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string, escapes resolved.
    String(Box<str>),
    /// An array.
    Array(Box<[Value]>),
    /// An object.
    Object(Object),
}

/// A number, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// An integer written without fraction or exponent that fits.
    Integer(i64),
    /// Every other number, as its text.
    Other(Box<str>),
}

/// An object: members with distinct names, in order of their names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Object(Box<[Member]>);

impl Object {
    /// The member called `name`, exactly.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.find(name).ok()?;
        self.0.get(at).map(|member| &member.value)
    }

    #[inline]
    fn find(&self, name: &str) -> Result<usize, usize> {
        let start = member::start(name);
        self.0
            .binary_search_by(|held| held.start.cmp(&start).then_with(|| held.name().cmp(name)))
    }

    /// The string that member `name` is; `None` when it is missing or something else.
    #[inline]
    pub fn string(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// With `value` as the member called `name`, unless there is one.
    #[must_use]
    pub fn with_default(self, name: &str, value: Value) -> Self {
        let Err(at) = self.find(name) else {
            return self;
        };
        let mut members = self.0.into_vec();
        members.insert(at, Member::new(name.into(), value));
        Self(members.into())
    }

    /// Every member, in order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|member| (member.name(), &member.value))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how many bytes it takes, for whoever keeps many.
    pub fn weight(&self) -> usize {
        fn of(value: &Value) -> usize {
            let inner = match value {
                Value::String(text) | Value::Number(Number::Other(text)) => text.len(),
                Value::Array(values) => values.iter().map(of).sum(),
                Value::Object(object) => object.weight(),
                Value::Null | Value::Bool(_) | Value::Number(Number::Integer(_)) => 0,
            };
            inner + size_of::<Value>() + 16
        }
        self.iter()
            .map(|(name, value)| name.len() + 32 + of(value))
            .sum()
    }
}

/// Names only: what a claim says does not belong into a log.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Value {
    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(Number::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    /// The time, if it is a NumericDate (RFC 7519 §2): seconds, integer or fraction, from 1970 to the end of year 9999.
    pub fn as_date(&self) -> Option<NumericDate> {
        let Self::Number(number) = self else {
            return None;
        };
        match number {
            Number::Integer(seconds) => {
                #[allow(clippy::cast_precision_loss)]
                // Only the comparison with the bounds is made in it.
                let fits = *seconds >= 0 && (*seconds as f64) <= LAST_DATE;
                fits.then_some(NumericDate {
                    floor: *seconds,
                    ceiling: *seconds,
                })
            }
            Number::Other(text) => {
                let value: f64 = text.parse().ok()?;
                if !(0.0..=LAST_DATE).contains(&value) {
                    return None;
                }
                #[allow(clippy::cast_possible_truncation)] // Whole and inside the bounds above.
                let whole = |value: f64| value as i64;
                Some(NumericDate {
                    floor: whole(value.floor()),
                    ceiling: whole(value.ceil()),
                })
            }
        }
    }
}

/// A time in seconds since 1970. A fraction is kept as the two whole seconds around it, so that a check can take the
/// one that trusts less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumericDate {
    /// The last whole second not after it: for ends.
    pub floor: i64,
    /// The first whole second not before it: for beginnings.
    pub ceiling: i64,
}

/// As it was written.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Compact JSON.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::String(text) => quoted(f, text),
            Self::Array(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Object(object) => object.fmt(f),
        }
    }
}

/// Compact JSON, members in order of their names.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            quoted(f, name)?;
            f.write_str(":")?;
            value.fmt(f)?;
        }
        f.write_str("}")
    }
}

/// ASCII only, so that the text fits into a header.
fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            ' '..='~' => fmt::Write::write_char(f, c)?,
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
        }
    }
    f.write_str("\"")
}
