//! A response on its way to being applied: each resource decoded and checked on its own, then as many of them admitted as a
//! snapshot can be built of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::ResourceType;
use mesh_proto::discovery::DeltaDiscoveryResponse;

use super::by_name::is_by_name;
use super::nack::rejection;
use super::{Client, Held, Rejection};
use crate::control::resource::Item;
use crate::snapshot::Resources;

/// A decoded response.
pub(super) struct Staged {
    pub(super) changes: Vec<Change>,
    pub(super) removed: Vec<String>,
    pub(super) rejected: Vec<Rejection>,
    /// Policies among them, as they came.
    pub(super) unreadable: BTreeMap<String, Bytes>,
    /// Services and workloads among them, with the names that they go by.
    pub(super) refused: Vec<(String, Vec<String>)>,
}

pub(super) struct Change {
    pub(super) name: String,
    pub(super) held: Held,
    pub(super) item: Item,
}

impl Client {
    /// Decodes and checks each resource on its own.
    pub(super) fn stage(&self, kind: ResourceType, response: DeltaDiscoveryResponse) -> Staged {
        let mut staged = Staged {
            changes: Vec::with_capacity(response.resources.len()),
            removed: response.removed_resources,
            rejected: Vec::new(),
            unreadable: BTreeMap::new(),
            refused: Vec::new(),
        };
        let held = self.types.get(&kind).map(|state| &state.held);
        let mut seen = BTreeSet::new();
        for incoming in response.resources {
            let (name, version) = (incoming.name, incoming.version);
            let aliases = incoming.aliases;
            let value = incoming.resource.as_ref().map(|any| any.value.clone());
            let checked = if !seen.insert(name.clone()) {
                Err("named twice in one response".to_owned())
            } else if incoming.ttl.is_some() {
                Err("ttl: not supported".to_owned())
            } else if let Some(any) = incoming.resource {
                if any.type_url == kind.type_url() {
                    Item::parse(kind, &name, &any.value, &self.trust_domain)
                        .and_then(|item| self.refuse_rollback(item))
                        .map(|item| (item, any.value))
                } else {
                    Err(format!(
                        "its content is a '{}'",
                        any.type_url.escape_debug()
                    ))
                }
            } else if held
                .and_then(|h| h.get(&name))
                .is_some_and(|h| h.version == version)
            {
                continue; // A heartbeat.
            } else {
                Err("has no content".to_owned())
            };
            match checked {
                // Sent before the server knew that it is not asked for any more.
                Ok((item, _)) if is_by_name(kind) && !self.asks_for(kind, &item) => {}
                Ok((item, value)) => staged.changes.push(Change {
                    name,
                    held: Held { version, value },
                    item,
                }),
                Err(reason) => {
                    if kind == ResourceType::AuthorizationPolicy {
                        staged
                            .unreadable
                            .insert(name.clone(), value.unwrap_or_default());
                    }
                    if is_by_name(kind) {
                        staged.refused.push((name.clone(), aliases));
                    }
                    staged.rejected.push(rejection(kind, name, version, reason));
                }
            }
        }
        staged
    }

    fn refuse_rollback(&self, item: Item) -> Result<Item, String> {
        if let Item::Bundle(bundle) = &item
            && let Some(seen) = self.sequences.get(&bundle.trust_domain)
            && bundle.sequence < *seen
        {
            metrics::counter!("postern_rollback_refused_total").increment(1);
            return Err(format!(
                "rollback_refused: sequence {} is lower than {seen}, which was held before",
                bundle.sequence
            ));
        }
        Ok(item)
    }
}

/// The largest set of changes of which a snapshot can be built, found by halving: one build when all is well, a few per
/// offender when not.
pub(super) struct Admitted<S> {
    pub(super) resources: Arc<Resources>,
    pub(super) snapshot: Option<S>,
    pub(super) refused: BTreeMap<String, String>,
}

impl<S> Admitted<S> {
    pub(super) fn admit(
        &mut self,
        changes: &[Change],
        build: &mut impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) {
        if changes.is_empty() {
            return;
        }
        let mut next = (*self.resources).clone();
        for change in changes {
            change.item.clone().put(&mut next);
        }
        let next = Arc::new(next);
        match (build(&next), changes) {
            (Ok(snapshot), _) => {
                self.resources = next;
                self.snapshot = Some(snapshot);
            }
            (Err(reason), [only]) => drop(self.refused.insert(only.name.clone(), reason)),
            (Err(_), _) => {
                let (first, second) = changes.split_at(changes.len() / 2);
                self.admit(first, build);
                self.admit(second, build);
            }
        }
    }
}
