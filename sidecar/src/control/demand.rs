//! What is subscribed to by name: the services and workloads that the application uses, and the own workload.
//!
//! Owns which names are asked for, which of them the server has answered, and which resources go by which name. A destination
//! counts as settled once all its names are answered, and the endpoints of its services too: a service never shows without them.
//! Does not know snapshots or sockets; the moments come from the caller, seconds since the start of the process.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::alias;

use crate::lookups::{Found, Lookup, Scope};

mod names;

use names::{Names, Parts, names_of};

/// Destinations at most; the server takes 10,000 names of one type.
const MAX_LOOKUPS: usize = 4096;
/// When what an earlier process used counts as used.
pub const START: i64 = 0;
/// A destination that was not used for so long is given up, seconds.
pub const UNUSED: i64 = 3_600;
/// The same of one at which there is nobody; longer than workers remember.
const NOBODY_UNUSED: i64 = 600;
/// Where there is no room, one at which there is nobody and that was not asked about for so long makes place, seconds; longer
/// than workers remember.
const NOBODY_LEAST: i64 = 15;

/// The state of all subscriptions by name.
#[derive(Debug)]
pub struct Demand {
    namespace: String,
    own: String,
    lookups: HashMap<Lookup, Use>,
    services: Names,
    workloads: Names,
    /// Those at which there is somebody.
    known: Arc<BTreeSet<Lookup>>,
}

#[derive(Debug)]
struct Use {
    last: i64,
    /// Configured: never given up.
    pinned: bool,
    /// `None`: not answered yet, or not any more.
    found: Option<Found>,
}

/// A resource that came, changed or went.
#[derive(Debug)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The names that it goes by now, its own among them; `None`: it is gone.
    pub aliases: Option<Vec<String>>,
}

/// How much the server is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The type.
    pub kind: ResourceType,
    /// Names to begin with.
    pub subscribe: Vec<String>,
    /// Names to end with.
    pub unsubscribe: Vec<String>,
}

impl Demand {
    /// Asks for the workload `own`, `namespace/name`, and for nothing else.
    pub fn new(own: &str) -> Self {
        let mut demand = Self {
            namespace: own.split('/').next().unwrap_or_default().to_owned(),
            own: own.to_owned(),
            lookups: HashMap::new(),
            services: Names::default(),
            workloads: Names::default(),
            known: Arc::default(),
        };
        demand.workloads.ask(own.to_owned());
        demand
    }

    /// Takes over the destinations of an earlier process, as used `now`; resources follow by [`Self::restored`], services first.
    pub fn restore(&mut self, used: Vec<Lookup>, now: i64) {
        for lookup in used.into_iter().take(MAX_LOOKUPS) {
            self.insert(lookup, now);
        }
    }

    /// A resource of an earlier process; false: nothing asks for it.
    pub fn restored(&mut self, kind: ResourceType, name: &str, aliases: &[String]) -> bool {
        if !self.covers(kind, aliases) {
            return false;
        }
        if kind == ResourceType::Service {
            self.workloads.ask(alias::of_members(name));
        }
        self.names(kind).put(name, aliases.to_vec());
        true
    }

    /// Takes over, as used `now`, the destinations that what goes by `aliases` may be known by, as many as leave room for as many
    /// again. Of an earlier process that held everything and did not say what is used.
    pub fn restore_guessed<'a>(&mut self, aliases: impl Iterator<Item = &'a String>, now: i64) {
        for alias in aliases {
            for lookup in self.lookups_of(ResourceType::Service, alias) {
                if self.lookups.len() >= MAX_LOOKUPS / 2 {
                    return;
                }
                if !self.lookups.contains_key(&lookup) {
                    self.insert(lookup, now);
                }
            }
        }
    }

    /// What was asked for in the earlier process was answered by it. Only that somebody is there is believed: at an address where
    /// nobody was there may be a workload of the mesh by now, and what was refused is not nobody.
    pub fn restored_all(&mut self) {
        for names in [&mut self.services, &mut self.workloads] {
            names
                .asked
                .values_mut()
                .for_each(|answered| *answered = true);
        }
        let all: Vec<_> = self.lookups.keys().cloned().collect();
        self.judge(all);
        self.doubt_nobody();
    }

    /// Believes no longer that there is nobody where there was nobody: somebody may have come since.
    pub fn doubt_nobody(&mut self) {
        let somebody = self
            .lookups
            .iter()
            .filter(|(lookup, _)| self.known.contains(lookup));
        let believed: HashSet<_> = somebody
            .flat_map(|(lookup, _)| names_of(lookup, &self.namespace))
            .collect();
        let mut doubted = Vec::new();
        for (lookup, used) in &mut self.lookups {
            if used.found == Some(Found::Nobody) {
                used.found = None;
                doubted.extend(names_of(lookup, &self.namespace));
            }
        }
        for (kind, name) in doubted {
            if !believed.contains(&(kind, name.clone())) {
                self.names(kind).asked.insert(name, false);
            }
        }
    }

    /// The destinations that the next process should begin with: those at which there is somebody.
    pub fn used(&self) -> Vec<Lookup> {
        self.known.iter().cloned().collect()
    }

    /// Whether the server is asked for what `lookup` stands for.
    pub fn is_asked(&self, lookup: &Lookup) -> bool {
        self.lookups.contains_key(lookup)
    }

    /// How much of the mesh is known.
    pub fn scope(&self) -> Scope {
        Scope::Named(Arc::clone(&self.known))
    }

    /// Destinations asked for: with somebody, with nobody, without an answer.
    pub fn count(&self) -> [usize; 3] {
        let mut count = [0; 3];
        for used in self.lookups.values() {
            let place = match used.found {
                Some(Found::Somebody) => 0,
                Some(Found::Nobody) => 1,
                None => 2,
            };
            count[place] += 1;
        }
        count
    }

    /// Who `lookup` stands for, as far as that is known.
    pub fn found(&self, lookup: &Lookup) -> Option<Found> {
        self.lookups.get(lookup)?.found
    }

    /// True if nothing of that kind is asked for.
    pub fn asks_nothing(&self, kind: ResourceType) -> bool {
        match kind {
            ResourceType::Service => self.services.asked.is_empty(),
            _ => self.workloads.asked.is_empty(),
        }
    }

    /// Asks for `lookup`, which is used `now`; what is known may be more then. False: there is no room, even for one more.
    pub fn want(&mut self, lookup: &Lookup, now: i64) -> bool {
        if let Some(used) = self.lookups.get_mut(lookup) {
            used.last = now;
            return true;
        }
        if self.lookups.len() >= MAX_LOOKUPS && !self.make_room(now) {
            return false;
        }
        self.insert(lookup.clone(), now);
        self.judge([lookup.clone()]);
        true
    }

    /// Asks for `lookup` as long as the process lives.
    pub fn pin(&mut self, lookup: &Lookup, now: i64) {
        if self.want(lookup, now)
            && let Some(used) = self.lookups.get_mut(lookup)
        {
            used.pinned = true;
        }
    }

    fn insert(&mut self, lookup: Lookup, last: i64) {
        for (kind, name) in names_of(&lookup, &self.namespace) {
            self.names(kind).ask(name);
        }
        let used = Use {
            last,
            pinned: false,
            found: None,
        };
        self.lookups.insert(lookup, used);
    }

    /// Whether something that is asked for goes by one of `aliases`.
    pub fn covers(&self, kind: ResourceType, aliases: &[String]) -> bool {
        let asked = match kind {
            ResourceType::Service => &self.services.asked,
            ResourceType::Workload => &self.workloads.asked,
            _ => return true,
        };
        aliases.iter().any(|alias| asked.contains_key(alias))
    }

    /// Takes what a response of type `kind` said: resources that were applied or are gone, those that were `refused`, every name
    /// that was told to stand for nothing, and whether that is all for now. Returns the destinations that are settled by it.
    pub fn told(
        &mut self,
        kind: ResourceType,
        changes: Vec<Change>,
        refused: &[String],
        removed: &[String],
        is_whole: bool,
    ) -> Vec<(Lookup, Found)> {
        if !matches!(kind, ResourceType::Service | ResourceType::Workload) {
            return Vec::new();
        }
        let mut touched = BTreeSet::new();
        let named = &mut self.names(kind).parts.named;
        named.extend(refused.iter().chain(removed).cloned());
        for Change { name, aliases } in changes {
            touched.extend(self.names(kind).take(&name));
            self.names(kind).parts.named.insert(name.clone());
            let is_service = kind == ResourceType::Service;
            let Some(aliases) = aliases else {
                if is_service {
                    self.workloads.end(&alias::of_members(&name));
                }
                continue;
            };
            if is_service {
                self.workloads.ask(alias::of_members(&name));
            }
            touched.extend(aliases.iter().cloned());
            let names = self.names(kind);
            names.parts.aliases.extend(aliases.iter().cloned());
            names.put(&name, aliases);
        }
        let names = self.names(kind);
        names.answer(removed);
        touched.extend(removed.iter().cloned());
        if is_whole {
            touched.extend(names.answer_parts());
        }
        // What is held in the version claimed is not sent again: that it was opened with is answered by a response all the same.
        let opened_with = if is_whole {
            names.opened_with.take()
        } else {
            None
        };
        for name in opened_with.unwrap_or_default() {
            if names.held_by.contains_key(&name) {
                names.answer(std::slice::from_ref(&name));
                touched.insert(name);
            }
        }
        let lookups: BTreeSet<_> = touched
            .iter()
            .flat_map(|name| self.lookups_of(kind, name))
            .collect();
        self.judge(lookups)
    }

    /// Something that goes by these names cannot be read: where nothing else goes by them it is not known that there is nobody.
    pub fn doubt(&mut self, kind: ResourceType, aliases: &[String]) {
        let names = self.names(kind);
        for alias in aliases {
            if !names.held_by.contains_key(alias)
                && let Some(answered) = names.asked.get_mut(alias)
            {
                *answered = false;
            }
        }
        let lookups: BTreeSet<_> = aliases
            .iter()
            .flat_map(|alias| self.lookups_of(kind, alias))
            .collect();
        self.judge(lookups);
    }

    /// The destinations whose answer may depend on `name`.
    fn lookups_of(&self, kind: ResourceType, name: &str) -> Vec<Lookup> {
        let members = alias::of_members("");
        if kind == ResourceType::Workload
            && let Some(service) = name.strip_prefix(&members)
        {
            let names = self.services.names_of.get(service);
            let names = names.into_iter().flatten();
            return names
                .flat_map(|name| self.lookups_of(ResourceType::Service, name))
                .collect();
        }
        let mut lookups: Vec<_> = Lookup::parse(name).into_iter().collect();
        if let Some((bare, namespace)) = name.split_once('.')
            && namespace == self.namespace
        {
            lookups.extend(Lookup::host(bare));
        }
        lookups
    }

    /// Judges destinations anew. Returns those that are settled now and were not before.
    fn judge(&mut self, lookups: impl IntoIterator<Item = Lookup>) -> Vec<(Lookup, Found)> {
        let mut settled = Vec::new();
        for lookup in lookups {
            let found = self.look(&lookup);
            let Some(used) = self.lookups.get_mut(&lookup) else {
                continue;
            };
            let before = std::mem::replace(&mut used.found, found);
            let is_known = found == Some(Found::Somebody);
            if is_known != self.known.contains(&lookup) {
                let known = Arc::make_mut(&mut self.known);
                match is_known {
                    true => known.insert(lookup.clone()),
                    false => known.remove(&lookup),
                };
            }
            if let (None, Some(found)) = (before, found) {
                settled.push((lookup, found));
            }
        }
        settled
    }

    /// Who `lookup` stands for, once everything about it is answered.
    fn look(&self, lookup: &Lookup) -> Option<Found> {
        let mut found = Found::Nobody;
        for (kind, name) in names_of(lookup, &self.namespace) {
            let names = match kind {
                ResourceType::Service => &self.services,
                _ => &self.workloads,
            };
            if !names.asked.get(&name).is_some_and(|answered| *answered) {
                return None;
            }
            for resource in names.held_by.get(&name).into_iter().flatten() {
                found = Found::Somebody;
                let members = alias::of_members(resource);
                let told = self.workloads.asked.get(&members);
                if kind == ResourceType::Service && told != Some(&true) {
                    return None;
                }
            }
        }
        Some(found)
    }

    /// Names that a new stream is opened with.
    pub fn open(&mut self, kind: ResourceType) -> Vec<String> {
        let names = self.names(kind);
        names.subscribe.clear();
        names.unsubscribe.clear();
        names.parts = Parts::default();
        names.is_open = !names.asked.is_empty();
        let open = names.asked.iter().filter(|(_, answered)| !**answered);
        names.opened_with = Some(open.map(|(name, _)| name.clone()).collect());
        names.asked.keys().cloned().collect()
    }

    /// What is to be told to the server on the stream that is open.
    pub fn subscriptions(&mut self) -> Vec<Subscription> {
        let mut subscriptions = Vec::new();
        for kind in [ResourceType::Service, ResourceType::Workload] {
            let names = self.names(kind);
            let subscribe: Vec<_> = std::mem::take(&mut names.subscribe).into_iter().collect();
            let unsubscribe: Vec<_> = std::mem::take(&mut names.unsubscribe).into_iter().collect();
            // The first request of a type must name something: else it would ask for everything.
            names.is_open |= !subscribe.is_empty();
            if names.is_open && (!subscribe.is_empty() || !unsubscribe.is_empty()) {
                subscriptions.push(Subscription {
                    kind,
                    subscribe,
                    unsubscribe,
                });
            }
        }
        subscriptions
    }

    /// Gives up destinations that were not used for long. `used` are the resources that were since this was called last, by type.
    /// Returns the resources that nothing asks for any more, in order of type.
    pub fn forget(
        &mut self,
        now: i64,
        used: &HashSet<(ResourceType, Arc<str>)>,
    ) -> Vec<(ResourceType, String)> {
        let used: HashSet<(ResourceType, &str)> = used.iter().map(|(k, n)| (*k, &**n)).collect();
        let mut lookups = std::mem::take(&mut self.lookups);
        for (lookup, entry) in &mut lookups {
            let names = names_of(lookup, &self.namespace);
            let is_used = names.iter().any(|(kind, name)| {
                let held = self.names(*kind).held_by.get(name);
                let mut held = held.into_iter().flatten();
                held.any(|resource| used.contains(&(*kind, resource.as_str())))
            });
            if is_used {
                entry.last = now;
            }
        }
        lookups.retain(|_, entry| {
            let limit = match entry.found {
                Some(Found::Somebody) => UNUSED,
                Some(Found::Nobody) | None => NOBODY_UNUSED,
            };
            entry.pinned || now.saturating_sub(entry.last) < limit
        });
        self.lookups = lookups;
        self.prune()
    }

    /// Gives up a quarter of the destinations at which there is nobody, the longest unused first. False: there are none.
    fn make_room(&mut self, now: i64) -> bool {
        let nobody = self.lookups.iter().filter(|(_, used)| {
            used.found == Some(Found::Nobody)
                && !used.pinned
                && now.saturating_sub(used.last) >= NOBODY_LEAST
        });
        let mut nobody: Vec<_> = nobody.map(|(l, used)| (used.last, l.clone())).collect();
        if nobody.is_empty() {
            return false;
        }
        nobody.sort_unstable();
        nobody.truncate(MAX_LOOKUPS / 4);
        for (_, lookup) in &nobody {
            self.lookups.remove(lookup);
        }
        // Nobody is there, so nothing held goes with them.
        let unused = self.prune();
        debug_assert!(unused.is_empty());
        true
    }

    /// Unsubscribes from what no destination needs. Returns the resources that nothing asks for any more.
    fn prune(&mut self) -> Vec<(ResourceType, String)> {
        let mut services = HashSet::new();
        let mut workloads = HashSet::from([self.own.clone()]);
        for lookup in self.lookups.keys() {
            for (kind, name) in names_of(lookup, &self.namespace) {
                match kind {
                    ResourceType::Service => services.insert(name),
                    _ => workloads.insert(name),
                };
            }
        }
        let held = services.iter().filter_map(|s| self.services.held_by.get(s));
        workloads.extend(held.flatten().map(|service| alias::of_members(service)));
        let lookups = &self.lookups;
        if self
            .known
            .iter()
            .any(|lookup| !lookups.contains_key(lookup))
        {
            Arc::make_mut(&mut self.known).retain(|lookup| lookups.contains_key(lookup));
        }
        let mut unused = self.services.keep(&services, ResourceType::Service);
        unused.extend(self.workloads.keep(&workloads, ResourceType::Workload));
        unused
    }

    fn names(&mut self, kind: ResourceType) -> &mut Names {
        match kind {
            ResourceType::Service => &mut self.services,
            _ => &mut self.workloads,
        }
    }
}
