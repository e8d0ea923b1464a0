//! Which rules can match a request at all: an index over what they demand of it.
//!
//! A unit (one operation of one rule) that can match only requests with one of a few paths, hosts, request principals,
//! claims or headers hangs on those values, on whichever kind is shared by the fewest others. What demands nothing that
//! can be looked up is looked at for every request.

use std::collections::{BTreeMap, HashMap};

use http::HeaderName;

use super::facts::{Effect, Facts, bare_host, claim, is_space_delimited};
use super::radix::{Hangs, Radix};
use crate::claims::Value;

/// Claims and headers that are looked up; more distinct ones are not worth a look for each request.
const MAX_LOOKUPS: usize = 8;

/// One value that a request must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Path(Box<str>),
    PathPrefix(Box<str>),
    PathSuffix(Box<str>),
    Host(Box<str>),
    Principal(Box<str>),
    Claim(Box<[Box<str>]>, Box<str>),
    Header(Box<str>, Box<str>),
}

/// Units by a value that a request must have.
type ByValue = HashMap<Box<str>, Box<[u32]>>;

/// For each kind of demand of a unit, the values of which a request must have one.
pub(super) type Demands = Vec<Vec<Key>>;

/// The index of a table.
#[derive(Debug)]
pub(super) struct Index {
    paths: Radix,
    /// By the reversed path.
    suffixes: Radix,
    hosts: ByValue,
    principals: ByValue,
    claims: Vec<(Box<[Box<str>]>, ByValue)>,
    headers: Vec<(HeaderName, ByValue)>,
    /// Units that hang on nothing.
    others: Box<[u32]>,
    /// Whether values that keep out are looked up in their other spellings too.
    effect: Effect,
}

impl Default for Index {
    fn default() -> Self {
        Self::build(Effect::Permit, &[])
    }
}

impl Index {
    /// Indexes units, in order, by what they demand.
    pub(super) fn build(effect: Effect, units: &[Demands]) -> Self {
        let mut shared: HashMap<&Key, usize> = HashMap::new();
        for key in units.iter().flatten().flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let mut keys: BTreeMap<&Key, Vec<u32>> = BTreeMap::new();
        let mut others = Vec::new();
        let lookups = Lookups::of(units);
        for (unit, demands) in (0..).zip(units) {
            let usable = demands.iter().filter(|keys| lookups.has(keys));
            let cost = |keys: &&Vec<Key>| keys.iter().map(|k| shared[k]).max().unwrap_or(0);
            match usable.min_by_key(cost) {
                Some(best) => best
                    .iter()
                    .for_each(|k| keys.entry(k).or_default().push(unit)),
                None => others.push(unit),
            }
        }
        let mut index = Builder::default();
        for (key, mut units) in keys {
            units.dedup();
            index.add(key, units);
        }
        index.finish(effect, others)
    }

    /// Calls `found` with lists of units, each in order, that hold every unit that can match.
    pub(super) fn look_up(&self, facts: &Facts<'_>, mut found: impl FnMut(&[u32])) {
        if !self.others.is_empty() {
            found(&self.others);
        }
        let Some(request) = facts.request else {
            return;
        };
        let mut path = |path: &str| {
            if !self.paths.is_empty() {
                self.paths.walk(path.bytes(), &mut found);
            }
            if !self.suffixes.is_empty() {
                self.suffixes.walk(path.bytes().rev(), &mut found);
            }
        };
        path(request.path);
        if self.effect == Effect::Restrict
            && let Some(decoded) = facts.decoded_path()
        {
            path(decoded);
        }
        let mut texts = |map: &ByValue, text: &str| {
            if let Some(units) = map.get(text) {
                found(units);
            }
        };
        if !self.hosts.is_empty() {
            let lower;
            let host = if request.host.bytes().any(|b| b.is_ascii_uppercase()) {
                lower = request.host.to_ascii_lowercase();
                &lower
            } else {
                request.host
            };
            texts(&self.hosts, host);
            let bare = bare_host(host);
            if self.effect == Effect::Restrict && bare != host {
                texts(&self.hosts, bare);
            }
        }
        for (name, values) in &self.headers {
            // A permission needs every line to match: the first will do.
            if let Some(value) = request.headers.get(name).and_then(|v| v.to_str().ok()) {
                texts(values, value);
            }
        }
        let Some(token) = request.token else {
            return;
        };
        if !self.principals.is_empty()
            && let Some(principal) = token.principal()
        {
            texts(&self.principals, principal);
        }
        for (names, values) in &self.claims {
            match claim(token, names) {
                Some(Value::String(words)) if is_space_delimited(names) => {
                    words.split(' ').for_each(|word| texts(values, word));
                }
                Some(Value::String(text)) => texts(values, text),
                Some(Value::Array(items)) => {
                    items
                        .iter()
                        .filter_map(Value::as_str)
                        .for_each(|text| texts(values, text));
                }
                _ => {}
            }
        }
    }
}

/// The claims and headers that most units demand.
struct Lookups<'a>(Vec<&'a Key>);

impl<'a> Lookups<'a> {
    fn of(units: &'a [Demands]) -> Self {
        let mut counts: Vec<(usize, &Key)> = Vec::new();
        for key in units.iter().flatten().filter_map(|keys| keys.first()) {
            if !is_named(key) {
                continue;
            }
            if let Some((count, _)) = counts.iter_mut().find(|(_, k)| same_name(k, key)) {
                *count += 1;
            } else if counts.len() < 16 * MAX_LOOKUPS {
                // Bounded work: what comes up late is rare.
                counts.push((1, key));
            }
        }
        counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        Self(
            counts
                .into_iter()
                .take(MAX_LOOKUPS)
                .map(|(_, key)| key)
                .collect(),
        )
    }

    fn has(&self, keys: &[Key]) -> bool {
        keys.first()
            .is_some_and(|key| !is_named(key) || self.0.iter().any(|k| same_name(k, key)))
    }
}

fn is_named(key: &Key) -> bool {
    matches!(key, Key::Claim(..) | Key::Header(..))
}

fn same_name(a: &Key, b: &Key) -> bool {
    match (a, b) {
        (Key::Claim(a, _), Key::Claim(b, _)) => a == b,
        (Key::Header(a, _), Key::Header(b, _)) => a == b,
        _ => false,
    }
}

#[derive(Default)]
struct Builder {
    paths: BTreeMap<Box<[u8]>, Hangs>,
    suffixes: BTreeMap<Box<[u8]>, Hangs>,
    hosts: ByValue,
    principals: ByValue,
    claims: Vec<(Box<[Box<str>]>, ByValue)>,
    headers: Vec<(HeaderName, ByValue)>,
}

impl Builder {
    fn add(&mut self, key: &Key, units: Vec<u32>) {
        match key {
            Key::Path(path) => self.paths.entry(path.as_bytes().into()).or_default().exact = units,
            Key::PathPrefix(path) => {
                self.paths.entry(path.as_bytes().into()).or_default().prefix = units;
            }
            Key::PathSuffix(path) => {
                let reversed = path.bytes().rev().collect();
                self.suffixes.entry(reversed).or_default().prefix = units;
            }
            Key::Host(host) => drop(self.hosts.insert(host.clone(), units.into())),
            Key::Principal(name) => drop(self.principals.insert(name.clone(), units.into())),
            Key::Claim(names, value) => {
                of_name(&mut self.claims, names).insert(value.clone(), units.into());
            }
            Key::Header(name, value) => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    of_name(&mut self.headers, &name).insert(value.clone(), units.into());
                }
            }
        }
    }

    fn finish(self, effect: Effect, others: Vec<u32>) -> Index {
        Index {
            paths: Radix::build(self.paths),
            suffixes: Radix::build(self.suffixes),
            hosts: self.hosts,
            principals: self.principals,
            claims: self.claims,
            headers: self.headers,
            others: others.into(),
            effect,
        }
    }
}

fn of_name<'a, N: PartialEq + Clone, V: Default>(list: &'a mut Vec<(N, V)>, name: &N) -> &'a mut V {
    let at = list.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
        list.push((name.clone(), V::default()));
        list.len() - 1
    });
    &mut list[at].1
}
