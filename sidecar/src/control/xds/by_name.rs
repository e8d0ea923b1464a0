//! What is subscribed to by name instead of all: the client's side of what [`Demand`] asks for.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::discovery::DeltaDiscoveryRequest;

use super::Client;
use crate::control::demand::{self, Demand};
use crate::control::resource::{self, Item};
use crate::lookups::{Found, Lookup, Scope};
use crate::snapshot::Resources;

/// What becomes of a destination that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is settled.
    Found(Found),
    /// The answer is to come.
    Asked,
    /// There is no room.
    Full,
}

/// Types that are subscribed to by name where not everything is.
pub(super) fn is_by_name(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Service | ResourceType::Workload)
}

impl Client {
    /// What is to be asked for by other names than before, on the stream that is open.
    pub fn subscriptions(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let subscriptions = self.demand.as_mut().map(Demand::subscriptions);
        let requests = subscriptions.into_iter().flatten();
        let requests = requests.map(|subscription| DeltaDiscoveryRequest {
            type_url: subscription.kind.type_url().into(),
            resource_names_subscribe: subscription.subscribe,
            resource_names_unsubscribe: subscription.unsubscribe,
            ..DeltaDiscoveryRequest::default()
        });
        requests.collect()
    }

    /// Asks for `lookup`, which is used `now` (seconds since the start). Another name of what is held may be known at once: returns what `build`
    /// made then, which must be in force before anybody is told.
    pub fn want<S>(
        &mut self,
        lookup: &Lookup,
        now: i64,
        build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> (Wanted, Option<S>) {
        let Some(demand) = &mut self.demand else {
            return (
                self.found(lookup).map_or(Wanted::Asked, Wanted::Found),
                None,
            );
        };
        if !demand.want(lookup, now) {
            return (Wanted::Full, None);
        }
        let found = demand.found(lookup);
        let snapshot = self.show_scope(build);
        (found.map_or(Wanted::Asked, Wanted::Found), snapshot)
    }

    /// Who `lookup` stands for, as far as that is known.
    pub fn found(&self, lookup: &Lookup) -> Option<Found> {
        match &self.demand {
            Some(demand) => demand.found(lookup),
            None => (self.holds_everything && !self.doubts).then_some(Found::Somebody),
        }
    }

    /// Whether an answer about `lookup` can come.
    pub fn is_asked(&self, lookup: &Lookup) -> bool {
        self.demand
            .as_ref()
            .is_none_or(|demand| demand.is_asked(lookup))
    }

    /// Asks for `lookup` as long as the process lives. Called before anything is published.
    pub fn pin(&mut self, lookup: &Lookup, now: i64) {
        if let Some(demand) = &mut self.demand {
            demand.pin(lookup, now);
            let nothing = |_: &Arc<Resources>| Ok::<_, String>(());
            self.show_scope(nothing);
        }
    }

    /// Destinations that were settled since this was called last.
    pub fn take_settled(&mut self) -> Vec<(Lookup, Found)> {
        std::mem::take(&mut self.settled)
    }

    /// Whether destinations were settled since this was called last: another state is to be written down, some time.
    pub fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// True when every service and workload is held: whatever was asked for, the snapshot knows.
    pub fn holds_everything(&self) -> bool {
        self.holds_everything && !self.doubts
    }

    /// Destinations asked for by name: with somebody, with nobody, without an answer.
    pub fn destinations(&self) -> Option<[usize; 3]> {
        self.demand.as_ref().map(Demand::count)
    }

    /// Gives up destinations that were not used for long, with what is held for them only. `used` are the services and
    /// workloads that were used since this was called last. Returns what `build` made, if anything is held no longer.
    pub fn forget<S>(
        &mut self,
        now: i64,
        used: &HashSet<(ResourceType, Arc<str>)>,
        mut build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> Option<S> {
        let unused = self.demand.as_mut()?.forget(now, used);
        let scope = self.scope();
        if unused.is_empty() && scope == self.resources.scope {
            return None;
        }
        let mut resources = Resources {
            scope,
            ..(*self.resources).clone()
        };
        for (kind, name) in &unused {
            resource::take(&mut resources, *kind, name);
            self.state(*kind).held.remove(name);
        }
        self.resources = Arc::new(resources);
        // Less cannot fail where more did not; if it does, what was in force stays until the next change.
        build(&self.resources).ok()
    }

    /// Takes what an earlier process held for everything there is: the control API is away, and there is nothing better to go by.
    /// True if that is more than was claimed when a stream was opened: the server says only of what is claimed that it is gone.
    pub fn believe_restored(&mut self, now: i64) -> bool {
        let mut is_more = false;
        let mut aside = std::mem::take(&mut self.aside);
        let mut resources = (*self.resources).clone();
        if let Some(demand) = self.demand.as_mut().filter(|_| !aside.is_empty()) {
            // Services before workloads, and what is near before the rest: not everything may find a place.
            let namespace = self.workload.split('/').next().unwrap_or_default();
            let is_near = |name: &str| name.split('/').next() == Some(namespace);
            aside.sort_by_key(|(kind, name, ..)| (*kind == ResourceType::Workload, !is_near(name)));
            let aliases: Vec<_> = aside.iter().map(|(.., item)| item.aliases()).collect();
            demand.restore_guessed(aliases.iter().flatten(), now);
            for ((kind, name, held, item), aliases) in aside.into_iter().zip(&aliases) {
                let all = &mut self.types.entry(kind).or_default().held;
                // What came meanwhile is newer.
                if !all.contains_key(&name) && demand.restored(kind, &name, aliases) {
                    item.put(&mut resources);
                    all.insert(name, held);
                    is_more = true;
                }
            }
            demand.restored_all();
        }
        self.holds_everything |= std::mem::take(&mut self.held_everything);
        resources.scope = self.scope();
        self.resources = Arc::new(resources);
        is_more
    }

    /// True once the stream that is open has said what there is of everything that is looked up.
    pub fn is_told(&self) -> bool {
        let is_told = |kind: &ResourceType| {
            let is_answered = self.types.get(kind).is_some_and(|state| state.answered);
            let demand = self.demand.as_ref();
            is_answered || demand.is_some_and(|demand| demand.asks_nothing(*kind))
        };
        [ResourceType::Service, ResourceType::Workload]
            .iter()
            .all(is_told)
    }

    /// Believes no longer that what is not held is not in the mesh. Returns what `build` made, if something else is known then.
    pub fn doubt_absence<S>(
        &mut self,
        build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> Option<S> {
        match &mut self.demand {
            Some(demand) => demand.doubt_nobody(),
            None => self.doubts = true,
        }
        self.show_scope(build)
    }

    /// What is refused is not nobody: where nothing else goes by its `aliases`, nothing may be assumed of them.
    /// `not_any_more` are names that are gone, or can be read.
    pub(super) fn note_unreadable<'a>(
        &mut self,
        kind: ResourceType,
        refused: Vec<(String, Vec<String>)>,
        not_any_more: impl Iterator<Item = &'a String>,
    ) {
        if !is_by_name(kind) {
            return;
        }
        if let Some(demand) = &mut self.demand {
            for (_, aliases) in refused {
                demand.doubt(kind, &aliases);
            }
            return;
        }
        for name in not_any_more {
            self.unreadable.remove(&(kind, name.clone()));
        }
        for (name, aliases) in refused {
            self.unreadable.insert((kind, name), aliases);
        }
    }

    /// Tells the demand what came of a response, and shows what is known by it. `S` as in [`Self::receive`].
    pub(super) fn note_demand<S>(
        &mut self,
        kind: ResourceType,
        (changes, refused, removed, is_whole): (Vec<demand::Change>, &[String], &[String], bool),
        build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> Option<S> {
        match &mut self.demand {
            Some(demand) => {
                let before = self.settled.len();
                self.settled
                    .extend(demand.told(kind, changes, refused, removed, is_whole));
                self.unsaved |= self.settled.len() > before;
            }
            None => {
                let by_name = [ResourceType::Service, ResourceType::Workload];
                let synced = |kind| self.types.get(kind).is_some_and(|state| state.synced);
                self.holds_everything |= by_name.iter().all(synced);
                self.doubts &= !self.is_told();
            }
        }
        self.show_scope(build)
    }

    /// Has the snapshot show what is known, if that is not what it shows.
    pub(super) fn show_scope<S>(
        &mut self,
        mut build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> Option<S> {
        let scope = self.scope();
        if scope == self.resources.scope {
            return None;
        }
        let resources = Arc::new(Resources {
            scope,
            ..(*self.resources).clone()
        });
        let snapshot = build(&resources).ok()?;
        self.resources = resources;
        Some(snapshot)
    }

    pub(super) fn asks_for(&self, kind: ResourceType, item: &Item) -> bool {
        let demand = self.demand.as_ref();
        demand.is_none_or(|demand| demand.covers(kind, &item.aliases()))
    }

    pub(super) fn scope(&self) -> Scope {
        match &self.demand {
            Some(demand) => demand.scope(),
            None if self.holds_everything && self.doubts => Scope::LastKnown,
            None if self.holds_everything && self.unreadable.is_empty() => Scope::Everything,
            None if self.holds_everything => {
                let aliases = self.unreadable.values().flatten();
                let unreadable = aliases.filter_map(|alias| Lookup::parse(alias));
                Scope::EverythingBut(Arc::new(unreadable.collect()))
            }
            None => Scope::nothing(),
        }
    }
}
