//! What one SDS stream asked for, was sent and said to it. No I/O.
//!
//! A rejection (NACK) is counted and logged; the same content is not sent again, the next change is. A name with nothing
//! behind it is logged with the reason: the state-of-the-world variant leaves it out, the incremental one says that it is
//! removed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use mesh_proto::google::rpc;
use tonic::Status;

use super::secrets::{self, Named, TYPE_URL};
use crate::doors::material::Material;

/// Longest text of a client that is logged.
const MAX_LOGGED: usize = 256;

/// One variant of the protocol.
pub(super) trait Session: Default + Send + 'static {
    /// What the client sends.
    type Request: Send + 'static;
    /// What it is answered.
    type Response: Send + 'static;

    /// Takes a request; what to answer now, if anything.
    fn receive(
        &mut self,
        request: Self::Request,
        material: &Material,
    ) -> Result<Option<Self::Response>, Status>;

    /// What to send because of new material, if anything.
    fn refresh(&mut self, material: &Material) -> Option<Self::Response>;
}

/// The names that a client wants.
#[derive(Debug, Default)]
struct Wanted {
    names: BTreeSet<String>,
    everything: bool,
    /// Names that were logged as unknown, so that each is logged once.
    unknown: BTreeSet<String>,
}

impl Wanted {
    /// What there is of it, and the names with nothing behind them.
    fn look_up(&mut self, material: &Material) -> (Vec<Named>, Vec<String>) {
        let mut names = self.names.clone();
        if self.everything {
            names.extend(secrets::names(material));
        }
        let mut missing = Vec::new();
        let mut found = Vec::new();
        for name in names {
            match secrets::find(&name, material) {
                Ok(named) => found.push(named),
                Err(reason) => {
                    if self.unknown.insert(name.clone()) {
                        tracing::warn!(name = shown(&name), reason, "unknown SDS secret");
                    }
                    missing.push(name);
                }
            }
        }
        (found, missing)
    }
}

/// Text of a client for the log.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_LOGGED).collect();
    short.escape_default().to_string()
}

fn check_type(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == TYPE_URL {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "type_url: only {TYPE_URL} is served here"
    )))
}

fn rejected(error: &rpc::Status) {
    metrics::counter!("postern_sds_rejections_total").increment(1);
    tracing::warn!(
        reason = shown(&error.message),
        "an SDS client rejected a secret; it is sent again when it changes"
    );
}

/// State of the world: every response is complete.
#[derive(Debug, Default)]
pub(super) struct StateOfTheWorld {
    wanted: Wanted,
    asked: bool,
    sent: Option<Vec<Named>>,
    nonce: u64,
}

impl StateOfTheWorld {
    fn respond(&mut self, found: Vec<Named>) -> DiscoveryResponse {
        self.nonce += 1;
        let response = DiscoveryResponse {
            version_info: self.nonce.to_string(),
            resources: found.iter().map(|named| named.resource.clone()).collect(),
            type_url: TYPE_URL.into(),
            nonce: self.nonce.to_string(),
            control_plane: None,
        };
        self.sent = Some(found);
        response
    }
}

impl Session for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn receive(
        &mut self,
        request: DiscoveryRequest,
        material: &Material,
    ) -> Result<Option<DiscoveryResponse>, Status> {
        check_type(&request.type_url)?;
        let answers = !request.response_nonce.is_empty();
        if answers && self.sent.is_some() && request.response_nonce != self.nonce.to_string() {
            // It answers a response that was overtaken; the answer to the last one is under way.
            return Ok(None);
        }
        if let Some(error) = &request.error_detail {
            rejected(error);
        }
        let names: BTreeSet<String> = request.resource_names.into_iter().collect();
        let same = self.asked && names == self.wanted.names;
        self.asked = true;
        self.wanted.everything = names.is_empty();
        self.wanted.names = names;
        if same {
            return Ok(None);
        }
        self.sent = None;
        Ok(self.refresh(material))
    }

    fn refresh(&mut self, material: &Material) -> Option<DiscoveryResponse> {
        if !self.asked {
            return None;
        }
        let (found, _) = self.wanted.look_up(material);
        // Envoy takes an empty response for an error; nothing to say is nothing said.
        if found.is_empty() || self.sent.as_ref() == Some(&found) {
            return None;
        }
        Some(self.respond(found))
    }
}

/// The incremental variant: every response carries what changed.
#[derive(Debug, Default)]
pub(super) struct Delta {
    wanted: Wanted,
    asked: bool,
    /// Version that the client was sent last, by name; empty: that there is none.
    held: BTreeMap<String, String>,
    nonce: u64,
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn receive(
        &mut self,
        request: DeltaDiscoveryRequest,
        material: &Material,
    ) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        check_type(&request.type_url)?;
        if let Some(error) = &request.error_detail {
            rejected(error);
        }
        if !self.asked {
            self.wanted.everything = request.resource_names_subscribe.is_empty();
            // What the client claims to hold and is not current is sent; names it does not ask for do not count.
            self.held = request.initial_resource_versions;
        }
        self.asked = true;
        for name in request.resource_names_subscribe {
            if name == "*" {
                self.wanted.everything = true;
                continue;
            }
            if !self.wanted.names.insert(name.clone()) {
                // Asked for again: it is sent again.
                self.held.remove(&name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                self.wanted.everything = false;
            }
            self.wanted.names.remove(&name);
            self.held.remove(&name);
        }
        Ok(self.refresh(material))
    }

    fn refresh(&mut self, material: &Material) -> Option<DeltaDiscoveryResponse> {
        if !self.asked {
            return None;
        }
        let (found, missing) = self.wanted.look_up(material);
        let mut resources = Vec::new();
        for named in found {
            if self.held.get(&named.name) != Some(&named.version) {
                self.held.insert(named.name.clone(), named.version.clone());
                resources.push(Resource {
                    version: named.version,
                    resource: Some(named.resource),
                    name: named.name,
                    ..Resource::default()
                });
            }
        }
        let removed_resources: Vec<_> = missing
            .into_iter()
            .filter(|name| self.held.insert(name.clone(), String::new()) != Some(String::new()))
            .collect();
        if resources.is_empty() && removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: material.version.to_string(),
            resources,
            type_url: TYPE_URL.into(),
            nonce: self.nonce.to_string(),
            removed_resources,
            control_plane: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::testing::{material, rotated};

    fn ask(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: TYPE_URL.into(),
            response_nonce: nonce.into(),
            ..Default::default()
        }
    }

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: TYPE_URL.into(),
            ..Default::default()
        }
    }

    fn nack() -> Option<rpc::Status> {
        Some(rpc::Status {
            code: 3,
            message: "bad\r\nthing".into(),
            ..Default::default()
        })
    }

    #[test]
    fn what_is_asked_for_is_sent_once_and_again_when_it_changes() {
        let (material, later) = (material(), rotated());
        let mut session = StateOfTheWorld::default();
        assert!(session.refresh(&material).is_none(), "nobody asked");
        let first = session.receive(ask(&["default"], ""), &material);
        let first = first.expect("taken").expect("answered at once");
        assert_eq!(first.resources.len(), 1);
        // Acknowledged; nothing changed.
        let quiet = session.receive(ask(&["default"], &first.nonce), &material);
        assert!(quiet.expect("taken").is_none());
        assert!(session.refresh(&material).is_none());
        let second = session.refresh(&later).expect("a rotation is pushed");
        assert_ne!(second.version_info, first.version_info);
        assert_ne!(second.resources, first.resources);
        // A late answer to the first response changes nothing, the names of the last do.
        let stale = session.receive(ask(&["ROOTCA"], &first.nonce), &later);
        assert!(stale.expect("taken").is_none());
        let more = session.receive(ask(&["default", "ROOTCA"], &second.nonce), &later);
        assert_eq!(more.expect("taken").expect("more").resources.len(), 2);
    }

    #[test]
    fn a_rejected_secret_is_not_sent_again_until_it_changes() {
        let (material, later) = (material(), rotated());
        let mut session = StateOfTheWorld::default();
        let first = session.receive(ask(&["default"], ""), &material);
        let first = first.expect("taken").expect("answered");
        let refused = DiscoveryRequest {
            error_detail: nack(),
            ..ask(&["default"], &first.nonce)
        };
        assert!(
            session
                .receive(refused, &material)
                .expect("taken")
                .is_none()
        );
        assert!(session.refresh(&material).is_none());
        assert!(session.refresh(&later).is_some());

        let mut session = Delta::default();
        let first = session.receive(subscribe(&["default"]), &material);
        let first = first.expect("taken").expect("answered");
        let refused = DeltaDiscoveryRequest {
            error_detail: nack(),
            response_nonce: first.nonce,
            ..subscribe(&[])
        };
        assert!(
            session
                .receive(refused, &material)
                .expect("taken")
                .is_none()
        );
        assert!(session.refresh(&later).is_some());
    }

    #[test]
    fn an_unknown_name_is_left_out_or_said_to_be_removed() {
        let material = material();
        let mut session = StateOfTheWorld::default();
        let nothing = session.receive(ask(&["nobody"], ""), &material);
        assert!(nothing.expect("taken").is_none());
        let some = session.receive(ask(&["nobody", "default"], ""), &material);
        assert_eq!(some.expect("taken").expect("some").resources.len(), 1);

        let mut session = Delta::default();
        let some = session.receive(subscribe(&["nobody", "default"]), &material);
        let some = some.expect("taken").expect("some");
        assert_eq!(some.removed_resources, ["nobody"]);
        assert_eq!(some.resources[0].name, "default");
        assert!(session.refresh(&material).is_none(), "said once");
    }

    #[test]
    fn the_incremental_variant_sends_what_changed_and_what_is_asked_for_again() {
        let (material, later) = (material(), rotated());
        let mut session = Delta::default();
        let first = session.receive(subscribe(&[]), &material);
        let first = first.expect("taken").expect("no names: everything");
        assert_eq!(first.resources.len(), 6);
        // Only the certificate changed: it goes by two names.
        let changed = session.refresh(&later).expect("a rotation is pushed");
        assert_eq!(changed.resources.len(), 2);
        let again = session.receive(subscribe(&["ROOTCA"]), &later);
        assert!(again.expect("taken").is_none(), "held by the wildcard");
        let again = session.receive(subscribe(&["ROOTCA"]), &later);
        assert_eq!(
            again.expect("taken").expect("asked again").resources.len(),
            1
        );

        // A client that comes back and holds what is current is sent nothing.
        let mut session = Delta::default();
        let mut request = subscribe(&["default"]);
        let held = changed
            .resources
            .iter()
            .map(|r| (r.name.clone(), r.version.clone()));
        request.initial_resource_versions = held.collect();
        assert!(session.receive(request, &later).expect("taken").is_none());
    }

    #[test]
    fn another_type_is_refused() {
        let mut request = ask(&["default"], "");
        request.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
        let refused = StateOfTheWorld::default().receive(request, &material());
        assert_eq!(
            refused.expect_err("not served").code(),
            tonic::Code::InvalidArgument
        );
    }
}
