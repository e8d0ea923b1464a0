//! A member of an object: its name, found fast, and its value.
//!
//! Tokens are looked at by name some thirty times each, and thousands of them are remembered: names are told apart by
//! their first eight bytes as one number, and those that every token has take no memory of their own.

use std::cmp::Ordering;

use super::Value;

/// Names that many tokens have.
const KNOWN: [&str; 22] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "scope",
    "scp",
    "client_id",
    "azp",
    "sid",
    "auth_time",
    "cnf",
    "act",
    "txn",
    "req_wl",
    "roles",
    "groups",
    "alg",
    "kid",
    "typ",
];

/// Their starts; no two are alike.
const STARTS: [u64; KNOWN.len()] = {
    let mut starts = [0; KNOWN.len()];
    let mut at = 0;
    while at < KNOWN.len() {
        starts[at] = start(KNOWN[at]);
        at += 1;
    }
    starts
};

/// A name as it was written, escapes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// One of [`KNOWN`].
    Known(u8),
    /// Every other.
    Other(Box<str>),
}

impl Name {
    fn known(name: &str) -> Option<Self> {
        let start = start(name);
        let at = STARTS.iter().position(|known| *known == start)?;
        if KNOWN[at] != name {
            return None;
        }
        u8::try_from(at).ok().map(Self::Known)
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::known(name).unwrap_or_else(|| Self::Other(name.into()))
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self::known(&name).unwrap_or_else(|| Self::Other(name.into()))
    }
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// See [`start`].
    pub(super) start: u64,
    name: Name,
    pub(super) value: Value,
}

impl Member {
    pub(super) fn new(name: Name, value: Value) -> Self {
        let mut member = Self {
            start: 0,
            name,
            value,
        };
        member.start = start(member.name());
        member
    }

    pub(super) fn name(&self) -> &str {
        match &self.name {
            Name::Known(at) => KNOWN.get(usize::from(*at)).copied().unwrap_or_default(),
            Name::Other(name) => name,
        }
    }

    /// The order of the names, bytewise.
    pub(super) fn cmp_name(&self, other: &Self) -> Ordering {
        self.start
            .cmp(&other.start)
            .then_with(|| self.name().cmp(other.name()))
    }
}

/// The first eight bytes, zeros after the end: never in another order than the names themselves.
#[inline]
pub(super) const fn start(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut first = [0; 8];
    let mut at = 0;
    while at < bytes.len() && at < 8 {
        first[at] = bytes[at];
        at += 1;
    }
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_two_known_names_start_alike() {
        let distinct: std::collections::HashSet<_> = STARTS.iter().collect();
        assert_eq!(distinct.len(), KNOWN.len());
    }

    #[test]
    fn a_known_name_takes_no_room_and_is_itself() {
        for name in KNOWN {
            assert!(matches!(Name::from(name), Name::Known(_)), "{name}");
            assert_eq!(Name::from(name.to_owned()), Name::from(name));
            assert_eq!(Member::new(name.into(), Value::Null).name(), name);
        }
        assert!(matches!(Name::from("Iss"), Name::Other(_)));
        assert!(size_of::<Member>() <= 48, "{}", size_of::<Member>());
    }

    proptest! {
        #[test]
        fn members_are_in_the_order_of_their_names(
            a in "[a-c\\x00]{0,10}|iss|sub|scope|scp",
            b in "[a-c\\x00]{0,10}|iss|sub|scope|scp",
        ) {
            let member = |name: &str| Member::new(name.into(), Value::Null);
            prop_assert_eq!(member(&a).cmp_name(&member(&b)), a.cmp(&b));
        }
    }
}
