//! Bytes to values, in one pass over the text.

use super::member::{Member, Name};
use super::{Number, Object, Value};

/// Bounds on a document. Its length in bytes is the caller's to bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Objects and arrays inside one another, the outermost counted.
    pub depth: usize,
    /// Values in all, of every type.
    pub values: usize,
}

impl Limits {
    /// For the claims and the header of a token.
    pub const TOKEN: Self = Self {
        depth: 16,
        values: 2_048,
    };
    /// For a key set, which the control plane fetched and bounded.
    pub const KEY_SET: Self = Self {
        depth: 8,
        values: 262_144,
    };
}

/// Members of the outermost object that room is made for at once: as many as most tokens have.
const MEMBERS: usize = 8;

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Invalid UTF-8, or UTF-16 and the like.
    #[error("not UTF-8")]
    Utf8,
    /// Not JSON at this byte.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// Not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A member occurs twice.
    #[error("a member occurs twice")]
    Duplicate,
    /// An escape names half a surrogate pair.
    #[error("lone surrogate at byte {0}")]
    Surrogate(usize),
    /// Bytes follow the document.
    #[error("bytes after the document")]
    Trailing,
    /// Too deep.
    #[error("nested too deeply")]
    TooDeep,
    /// Too many values.
    #[error("too many values")]
    TooMany,
}

/// Parses one object within [`Limits::TOKEN`].
///
/// # Errors
/// See [`ParseError`].
pub fn parse(bytes: &[u8]) -> Result<Object, ParseError> {
    parse_within(bytes, Limits::TOKEN)
}

/// Parses one object within `limits`.
///
/// # Errors
/// See [`ParseError`].
pub fn parse_within(bytes: &[u8], limits: Limits) -> Result<Object, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ParseError::Utf8)?;
    let mut parser = Parser {
        text,
        bytes: text.as_bytes(),
        at: 0,
        depth: limits.depth,
        values: limits.values,
        room: MEMBERS,
    };
    parser.space();
    if parser.peek() != Some(b'{') {
        return Err(ParseError::NotAnObject);
    }
    let Value::Object(object) = parser.value()? else {
        return Err(ParseError::NotAnObject);
    };
    parser.space();
    if parser.at != parser.bytes.len() {
        return Err(ParseError::Trailing);
    }
    Ok(object)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
    /// Members that the next object gets room for; only the outermost does, lest many small ones cost more than they say.
    room: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn syntax<T>(&self) -> Result<T, ParseError> {
        Err(ParseError::Syntax(self.at))
    }

    fn expect(&mut self, byte: u8) -> Result<(), ParseError> {
        if self.peek() != Some(byte) {
            return self.syntax();
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, ParseError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return self.syntax();
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        self.values = self.values.checked_sub(1).ok_or(ParseError::TooMany)?;
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.text().map(Value::String),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            _ => self.syntax(),
        }
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Value, ParseError>,
    ) -> Result<Value, ParseError> {
        self.depth = self.depth.checked_sub(1).ok_or(ParseError::TooDeep)?;
        self.at += 1;
        self.space();
        let value = inner(self)?;
        self.depth += 1;
        Ok(value)
    }

    /// After an element: true when another one follows.
    fn more(&mut self, close: u8) -> Result<bool, ParseError> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.syntax(),
        }
    }

    fn array(&mut self) -> Result<Value, ParseError> {
        let mut values = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                values.push(self.value()?);
                if !self.more(b']')? {
                    break;
                }
            }
        }
        Ok(Value::Array(values.into_boxed_slice()))
    }

    fn object(&mut self) -> Result<Value, ParseError> {
        let mut members = Vec::with_capacity(std::mem::take(&mut self.room));
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let name = self.text::<Name>()?;
                self.space();
                self.expect(b':')?;
                self.space();
                members.push(Member::new(name, self.value()?));
                if !self.more(b'}')? {
                    break;
                }
            }
        }
        members.sort_unstable_by(Member::cmp_name);
        if members
            .windows(2)
            .any(|pair| pair[0].cmp_name(&pair[1]).is_eq())
        {
            return Err(ParseError::Duplicate);
        }
        Ok(Value::Object(Object(members.into_boxed_slice())))
    }

    /// A string, as whatever it is kept in.
    fn text<T: for<'t> From<&'t str> + From<String>>(&mut self) -> Result<T, ParseError> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(plain.into());
                }
                Some(b'\\') => break,
                Some(0x20..) => self.at += 1,
                _ => return self.syntax(),
            }
        }
        let mut resolved = String::from(&self.text[start..self.at]);
        loop {
            let run = self.at;
            while matches!(self.peek(), Some(0x20..)) && !matches!(self.peek(), Some(b'"' | b'\\'))
            {
                self.at += 1;
            }
            resolved.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(resolved.into());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    resolved.push(c);
                }
                _ => return self.syntax(),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.syntax(),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode(&mut self) -> Result<char, ParseError> {
        let start = self.at;
        let lone = ParseError::Surrogate(start);
        let first = self.hex4()?;
        let units = if (0xd800..0xdc00).contains(&first) {
            if !self.bytes[self.at..].starts_with(b"\\u") {
                return Err(lone);
            }
            self.at += 2;
            [first, self.hex4()?]
        } else {
            [first, 0]
        };
        let used = if units[1] == 0 { 1 } else { 2 };
        let mut chars = char::decode_utf16(units[..used].iter().copied());
        match (chars.next(), chars.next()) {
            (Some(Ok(c)), None) => Ok(c),
            _ => Err(lone),
        }
    }

    fn hex4(&mut self) -> Result<u16, ParseError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                Some(b @ b'0'..=b'9') => b - b'0',
                Some(b @ b'a'..=b'f') => b - b'a' + 10,
                Some(b @ b'A'..=b'F') => b - b'A' + 10,
                _ => return self.syntax(),
            };
            self.at += 1;
            unit = unit << 4 | u16::from(digit);
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return self.syntax();
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Number, ParseError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        Ok(match text.parse() {
            Ok(value) if whole && text != "-0" => Number::Integer(value),
            _ => Number::Other(text.into()),
        })
    }
}
