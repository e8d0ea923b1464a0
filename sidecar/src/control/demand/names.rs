//! The names of one type that are asked for, whether the server has answered them, and which resources go by which.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mesh_proto::{ResourceType, alias};

use crate::lookups::Lookup;

/// The names of one type.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Asked for, and whether answered.
    pub(super) asked: BTreeMap<String, bool>,
    /// Resources held, by the names that they go by.
    pub(super) held_by: HashMap<String, BTreeSet<String>>,
    /// Names that resources held go by.
    pub(super) names_of: HashMap<String, Vec<String>>,
    /// To be told to the server.
    pub(super) subscribe: BTreeSet<String>,
    pub(super) unsubscribe: BTreeSet<String>,
    /// A request was made on this stream.
    pub(super) is_open: bool,
    /// Names without an answer that the stream was opened with; `None` once it has answered.
    pub(super) opened_with: Option<Vec<String>>,
    /// What the parts of an answer that came so far spoke of.
    pub(super) parts: Parts,
}

/// What an answer spoke of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Resources by name, those that were refused among them.
    pub(super) named: BTreeSet<String>,
    /// Names that resources which came go by.
    pub(super) aliases: BTreeSet<String>,
}

impl Names {
    /// Asks for `name`, if that is not done yet; the answer is to come.
    pub(super) fn ask(&mut self, name: String) {
        if let Entry::Vacant(vacant) = self.asked.entry(name) {
            self.unsubscribe.remove(vacant.key());
            self.subscribe.insert(vacant.key().clone());
            vacant.insert(false);
        }
    }

    /// Asks for `name` no longer.
    pub(super) fn end(&mut self, name: &str) {
        if self.asked.remove(name).is_some() {
            self.subscribe.remove(name);
            self.unsubscribe.insert(name.to_owned());
        }
    }

    pub(super) fn answer(&mut self, names: &[String]) {
        for name in names {
            if let Some(answered) = self.asked.get_mut(name) {
                *answered = true;
            }
        }
    }

    /// Ends an answer. A name is answered by it if it spoke of everything held that goes by it: what is asked for is sent
    /// whatever is held, so that an answer which leaves something out was given before it was asked for. Returns the names.
    pub(super) fn answer_parts(&mut self) -> Vec<String> {
        let Parts { named, aliases } = std::mem::take(&mut self.parts);
        let is_all = |alias: &String| {
            let held = self.held_by.get(alias);
            held.is_none_or(|held| held.is_subset(&named))
        };
        let answered: Vec<_> = aliases.into_iter().filter(is_all).collect();
        self.answer(&answered);
        answered
    }

    pub(super) fn put(&mut self, name: &str, aliases: Vec<String>) {
        for alias in &aliases {
            let held = self.held_by.entry(alias.clone()).or_default();
            held.insert(name.to_owned());
        }
        self.names_of.insert(name.to_owned(), aliases);
    }

    /// The names that it went by.
    pub(super) fn take(&mut self, name: &str) -> Vec<String> {
        let aliases = self.names_of.remove(name).unwrap_or_default();
        for alias in &aliases {
            if let Some(held) = self.held_by.get_mut(alias) {
                held.remove(name);
                if held.is_empty() {
                    self.held_by.remove(alias);
                }
            }
        }
        aliases
    }

    /// Asks for these names only. Returns the resources that go by none of them, and forgets them.
    pub(super) fn keep(
        &mut self,
        needed: &HashSet<String>,
        kind: ResourceType,
    ) -> Vec<(ResourceType, String)> {
        let unneeded = self.asked.keys().filter(|name| !needed.contains(*name));
        for name in unneeded.cloned().collect::<Vec<_>>() {
            self.end(&name);
        }
        let is_unused = |aliases: &Vec<String>| !aliases.iter().any(|a| self.asked.contains_key(a));
        let unused = self.names_of.iter().filter(|(_, a)| is_unused(a));
        let unused: Vec<_> = unused.map(|(name, _)| name.clone()).collect();
        unused
            .into_iter()
            .map(|name| {
                self.take(&name);
                (kind, name)
            })
            .collect()
    }
}

/// The names under which the server knows what `lookup` may stand for, as seen from `namespace`.
pub(super) fn names_of(lookup: &Lookup, namespace: &str) -> Vec<(ResourceType, String)> {
    match lookup {
        Lookup::Address(address) => {
            let name = alias::of_address(*address);
            vec![
                (ResourceType::Service, name.clone()),
                (ResourceType::Workload, name),
            ]
        }
        Lookup::Host(host) => {
            let mut names = vec![(ResourceType::Service, host.to_string())];
            // A bare name is that of a service of the own namespace, or a host that some service declares.
            if !host.contains('.') {
                names.push((ResourceType::Service, format!("{host}.{namespace}")));
            }
            names
        }
    }
}
