//! Which units can match at all: an index over what they demand of a connection or of a request.
//!
//! A unit (one operation of one rule) that can match only with one of a few values of a [`Field`] hangs on those values.
//! What hangs on nothing is looked at every time.

use std::collections::{BTreeMap, HashMap};

use super::facts::{Effect, Facts};
use super::field::{Field, Key, Shape};
use super::radix::Radix;
use super::slots::Slots;

/// Named fields (claims, headers) that are looked up; more distinct ones are not worth a look for each request.
const MAX_NAMED: usize = 8;

/// What is demanded at once: for each, the values of which one must be there.
pub(super) type Demands = Vec<Vec<Key>>;

/// Units by the values that lead to them.
#[derive(Debug, Default)]
pub(super) struct Index {
    fields: Vec<(Field, Lists)>,
    /// Units that hang on nothing.
    others: Box<[u32]>,
}

/// Units by the values of one field, each list in order.
#[derive(Debug, Default)]
struct Lists {
    exact: Slots,
    /// Prefixes that end with a slash, not deep.
    folders: Slots,
    /// How deep the deepest of them is.
    depth: usize,
    prefixes: Radix,
    /// By the reversed value.
    suffixes: Radix,
}

/// Up to how many slashes of a value are looked at on their own; who has more walks the tree.
const MAX_DEPTH: usize = 8;

impl Index {
    /// Calls `found` with lists of units, each in order, that hold every unit that can match.
    pub(super) fn look_up(&self, facts: &Facts<'_>, effect: Effect, mut found: impl FnMut(&[u32])) {
        if !self.others.is_empty() {
            found(&self.others);
        }
        for (field, lists) in &self.fields {
            field.values(facts, effect, |value| lists.look_up(value, &mut found));
        }
    }
}

impl Lists {
    fn look_up(&self, value: &str, found: &mut impl FnMut(&[u32])) {
        let mut some = |units: &[u32]| {
            if !units.is_empty() {
                found(units);
            }
        };
        if !self.exact.is_empty() {
            some(self.exact.get(value));
        }
        if self.depth > 0 {
            let slashes = memchr::memchr_iter(b'/', value.as_bytes());
            slashes
                .take(self.depth)
                .for_each(|at| some(self.folders.get(&value[..=at])));
        }
        if !self.prefixes.is_empty() {
            self.prefixes.walk(value.bytes(), &mut *found);
        }
        if !self.suffixes.is_empty() {
            self.suffixes.walk(value.bytes().rev(), found);
        }
    }
}

/// How many slashes a folder has; `None` for what is none, or too deep.
fn depth(prefix: &str) -> Option<usize> {
    let slashes = prefix.bytes().filter(|b| *b == b'/').count();
    (prefix.ends_with('/') && slashes <= MAX_DEPTH).then_some(slashes)
}

/// An index in the making.
#[derive(Debug, Default)]
pub(super) struct Builder<'a> {
    fields: Vec<(&'a Field, Hangs<'a>)>,
    others: Vec<u32>,
}

/// What hangs on the values of one field.
#[derive(Debug, Default)]
struct Hangs<'a> {
    exact: HashMap<&'a str, Vec<u32>>,
    folders: HashMap<&'a str, Vec<u32>>,
    depth: usize,
    prefixes: BTreeMap<Box<[u8]>, Vec<u32>>,
    suffixes: BTreeMap<Box<[u8]>, Vec<u32>>,
}

impl<'a> Builder<'a> {
    /// Hangs a unit on keys, or on nothing. Units come in order.
    pub(super) fn hang(&mut self, unit: u32, keys: Option<&'a [Key]>) {
        let Some(keys) = keys else {
            self.others.push(unit);
            return;
        };
        for Key { field, shape, text } in keys {
            let at = self.fields.iter().position(|(f, _)| *f == field);
            let at = at.unwrap_or_else(|| {
                self.fields.push((field, Hangs::default()));
                self.fields.len() - 1
            });
            let hangs = &mut self.fields[at].1;
            let units = match shape {
                Shape::Exact => hangs.exact.entry(text).or_default(),
                Shape::Prefix => match depth(text) {
                    Some(depth) => {
                        hangs.depth = hangs.depth.max(depth);
                        hangs.folders.entry(text).or_default()
                    }
                    None => hangs.prefixes.entry(text.as_bytes().into()).or_default(),
                },
                Shape::Suffix => {
                    let reversed = text.bytes().rev().collect();
                    hangs.suffixes.entry(reversed).or_default()
                }
            };
            if units.last() != Some(&unit) {
                units.push(unit);
            }
        }
    }

    pub(super) fn finish(self) -> Index {
        let lists = |hangs: Hangs<'_>| Lists {
            exact: Slots::build(hangs.exact),
            folders: Slots::build(hangs.folders),
            depth: hangs.depth,
            prefixes: Radix::build(hangs.prefixes),
            suffixes: Radix::build(hangs.suffixes),
        };
        Index {
            fields: self
                .fields
                .into_iter()
                .map(|(field, hangs)| (field.clone(), lists(hangs)))
                .collect(),
            others: self.others.into(),
        }
    }
}

/// How many units share each value, and which named fields are looked up.
pub(super) struct Shares<'a> {
    counts: HashMap<&'a Key, usize>,
    named: Vec<&'a Field>,
}

impl<'a> Shares<'a> {
    pub(super) fn of(demands: impl Iterator<Item = &'a Demands> + Clone) -> Self {
        let mut counts: HashMap<&Key, usize> = HashMap::new();
        for key in demands.clone().flatten().flatten() {
            *counts.entry(key).or_default() += 1;
        }
        let mut named: Vec<(usize, &Field)> = Vec::new();
        for Key { field, .. } in demands.flatten().filter_map(|keys| keys.first()) {
            if !field.is_named() {
                continue;
            }
            if let Some((count, _)) = named.iter_mut().find(|(_, f)| *f == field) {
                *count += 1;
            } else if named.len() < 16 * MAX_NAMED {
                // Bounded work: what comes up late is rare.
                named.push((1, field));
            }
        }
        named.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        named.truncate(MAX_NAMED);
        Self {
            counts,
            named: named.into_iter().map(|(_, field)| field).collect(),
        }
    }

    /// The demand whose values are shared by the fewest units, and by how many.
    pub(super) fn best<'d>(&self, demands: &'d Demands) -> Option<(usize, &'d [Key])> {
        let usable = demands.iter().filter(|keys| {
            keys.first()
                .is_some_and(|key| !key.field.is_named() || self.named.contains(&&key.field))
        });
        let shared = |keys: &Vec<Key>| {
            let counts = keys.iter().map(|key| self.counts.get(key).copied());
            counts.map(Option::unwrap_or_default).max().unwrap_or(0)
        };
        usable
            .map(|keys| (shared(keys), &keys[..]))
            .min_by_key(|(count, _)| *count)
    }
}
