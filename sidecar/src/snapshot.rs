//! The immutable view of the mesh that the hot path reads.
//!
//! A [`Snapshot`] is built on the control thread from the resources held and the current identity, then swapped in
//! whole; a request sees one snapshot from start to end. Building is all or nothing: a resource that does not compile
//! leaves the previous snapshot in force. Parts whose inputs did not change are shared with the previous snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::latency::Budget;
use mesh_auth::policy::{PolicySet, PortModes};
use mesh_auth::revocation::{Entry, Revocations, Revoked};
use mesh_auth::svid::VerifiedChains;
use mesh_auth::tls::{self, Identity, Resumption, Trust};
use mesh_auth::token::TokenPolicy;
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::mesh;
use rustls_pki_types::CertificateDer;

use crate::directory::{Directory, WorkloadEntry};

mod error;
mod policy;
mod resources;
mod roots;

pub use error::SnapshotError;
pub use policy::root_namespace;
pub use resources::Resources;
pub use roots::{RootsByDomain, control_roots};

/// The snapshot in force, read by every worker and stored by the control thread only.
pub type SharedSnapshot = Arc<ArcSwap<Snapshot>>;

/// Latency budgets of one workload: each is looked at with every request.
const MAX_BUDGETS: usize = 32;
/// ALPN protocols of the mesh port.
pub const MESH_ALPN: &[&[u8]] = &[b"h2"];
/// ALPN protocols of captured TLS with a client certificate.
pub const INBOUND_TLS_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// TLS contexts, built once per change of identity, bundles or revocations.
pub struct TlsContexts {
    /// Changes whenever the identity or a bundle does: what a connection was made under.
    pub epoch: u64,
    /// This workload's identity.
    pub identity: Arc<Identity>,
    /// Mesh port: client certificate required, ALPN h2.
    pub mesh: Arc<rustls::ServerConfig>,
    /// Captured TLS: client certificate required, ALPN h2 or http/1.1.
    pub inbound: Arc<rustls::ServerConfig>,
}

/// Everything a worker needs to decide and route.
#[derive(Clone)]
pub struct Snapshot {
    /// Increases with every snapshot. 0: nothing received yet, everything is refused.
    pub epoch: u64,
    /// Store revision of the resources.
    pub revision: u64,
    /// This workload's uid, `namespace/name`.
    pub own_uid: Arc<str>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// This workload as the registry has it; `None` until received.
    pub own: Option<Arc<WorkloadEntry>>,
    /// Whether its TLS contexts resume sessions.
    pub resumption: Resumption,
    /// TLS contexts; `None` until a certificate is held.
    pub tls: Option<Arc<TlsContexts>>,
    /// Roots by trust domain, and the chains that are known to lead to them.
    pub chains: Arc<VerifiedChains>,
    /// Roots that the control API is verified by: of the own trust domain, and of no other authority that signs for workloads.
    pub control_roots: Arc<TrustBundles>,
    /// Roots that an outside Workload API brought with the identity: of its own trust domain, beside the control API's, and of
    /// domains that the control API says nothing of.
    pub outside: Arc<RootsByDomain>,
    /// Trust domains that the control API has ever named a bundle of, as far as the state file goes back: roots from outside
    /// stay out for them, also when it names none any more.
    pub spoken_of: Arc<BTreeSet<String>>,
    /// What is no longer believed in spite of them.
    pub revocations: Arc<Revocations>,
    /// Changes whenever a bundle or a revocation does: whom to believe.
    pub trust_epoch: u64,
    /// Changes whenever a revocation does.
    pub revocation_epoch: u64,
    /// Policy on connections to this workload; `None` until mesh defaults are held: deny.
    pub policy: Option<Arc<PolicySet>>,
    /// Changes whenever `policy` does.
    pub policy_epoch: u64,
    /// Which tokens are accepted; `None` when no rule selects this workload: no token is looked for.
    pub tokens: Option<Arc<TokenPolicy>>,
    /// Epoch at which the token rules or their keys changed last.
    pub tokens_epoch: u64,
    /// Mutual TLS mode by application port.
    pub port_modes: Arc<PortModes>,
    /// Changes whenever they may.
    pub modes_epoch: u64,
    /// What requests may take.
    pub budgets: Arc<[Arc<Budget>]>,
    /// Services and workloads.
    pub directory: Arc<Directory>,
    /// Changes whenever they do.
    pub directory_epoch: u64,
    /// Seconds that this clock is ahead of the control API's, as measured last.
    pub clock_skew: Option<i64>,
    /// What it was built from.
    pub resources: Arc<Resources>,
}

impl Snapshot {
    /// The namespace of this workload.
    fn own_namespace(&self) -> &str {
        self.own_uid.split('/').next().unwrap_or_default()
    }

    /// The snapshot of a sidecar that knows nothing yet: no identity, no policy, no destinations.
    pub fn empty(own_uid: &str, trust_domain: TrustDomain) -> Self {
        Self {
            epoch: 0,
            revision: 0,
            own_uid: own_uid.into(),
            trust_domain,
            own: None,
            resumption: Resumption::Off,
            tls: None,
            chains: Arc::default(),
            control_roots: Arc::default(),
            outside: Arc::default(),
            spoken_of: Arc::default(),
            revocations: Arc::default(),
            trust_epoch: 0,
            revocation_epoch: 0,
            policy: None,
            policy_epoch: 0,
            tokens: None,
            tokens_epoch: 0,
            port_modes: Arc::new(PortModes::resolve(&[], "", "")),
            modes_epoch: 0,
            budgets: Arc::default(),
            directory: Arc::default(),
            directory_epoch: 0,
            clock_skew: None,
            resources: Arc::default(),
        }
    }

    /// Builds the successor of `self`. `fallback_roots` verify peers of the own trust domain until the control stream
    /// brings its bundle.
    ///
    /// # Errors
    /// Names the resource that does not compile; `self` stays valid.
    pub fn build(
        &self,
        resources: &Arc<Resources>,
        identity: Option<Arc<Identity>>,
        fallback_roots: &[CertificateDer<'static>],
    ) -> Result<Self, SnapshotError> {
        let outside = Arc::clone(&self.outside);
        self.build_with(resources, identity, fallback_roots, outside)
    }

    /// The successor that has no identity. Nothing is built, so nothing can keep an identity in use.
    pub fn without_identity(&self) -> Self {
        Self {
            epoch: self.epoch + 1,
            tls: None,
            ..self.clone()
        }
    }

    /// As [`Snapshot::build`], with other roots from outside.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn build_with(
        &self,
        resources: &Arc<Resources>,
        identity: Option<Arc<Identity>>,
        fallback_roots: &[CertificateDer<'static>],
        outside: Arc<RootsByDomain>,
    ) -> Result<Self, SnapshotError> {
        let epoch = self.epoch + 1;
        let unchanged_bundles =
            self.epoch > 0 && self.outside == outside && same_bundles(&self.resources, resources);
        let spoken_of = self.spoken_of_with(resources);
        let (chains, control_roots) = if unchanged_bundles {
            (Arc::clone(&self.chains), Arc::clone(&self.control_roots))
        } else {
            let own = &self.trust_domain;
            let mut foreign = (*outside).clone();
            foreign.retain(|name, _| name == own.as_str() || !spoken_of.contains(name));
            let bundles = roots::bundles(
                own,
                self.own_namespace(),
                resources,
                fallback_roots,
                &foreign,
            )?;
            let tally = Arc::clone(self.chains.tally());
            let chains = VerifiedChains::new(Arc::new(bundles), tally);
            let control_roots = control_roots(own, resources, fallback_roots)?;
            (Arc::new(chains), Arc::new(control_roots))
        };
        let unchanged_revocations =
            self.epoch > 0 && self.resources.revocations == resources.revocations;
        let revocations = if unchanged_revocations {
            Arc::clone(&self.revocations)
        } else {
            Arc::new(build_revocations(resources)?)
        };
        let unchanged_trust = unchanged_bundles && unchanged_revocations;
        let trust = Trust {
            chains: Arc::clone(&chains),
            revocations: Arc::clone(&revocations),
        };
        let tls = match (identity, &self.tls) {
            (None, _) => None,
            (Some(identity), Some(held))
                if Arc::ptr_eq(&held.identity, &identity) && unchanged_bundles =>
            {
                // Connections stay as they are: those that a revocation forbids are ended one by one.
                match unchanged_revocations {
                    true => Some(Arc::clone(held)),
                    false => Some(Arc::new(self.contexts(held.epoch, identity, &trust)?)),
                }
            }
            (Some(identity), _) => Some(Arc::new(self.contexts(epoch, identity, &trust)?)),
        };
        let root_namespace = root_namespace(resources);
        let own_namespace = self.own_namespace();
        let same_policies = self.epoch > 0
            && self.resources.defaults == resources.defaults
            && self.resources.policies == resources.policies
            && self.resources.unreadable == resources.unreadable;
        let (policy, policy_epoch) = if same_policies {
            (self.policy.clone(), self.policy_epoch)
        } else {
            (policy::compile(resources)?.map(Arc::new), epoch)
        };
        let same_modes = self.epoch > 0
            && self.resources.peer_authentications == resources.peer_authentications
            && root_namespace == self::root_namespace(&self.resources);
        let (port_modes, modes_epoch) = if same_modes {
            (Arc::clone(&self.port_modes), self.modes_epoch)
        } else {
            let documents = resources.peer_authentications.values();
            let documents: Vec<_> = documents.map(|p| (**p).clone()).collect();
            let modes = PortModes::resolve(&documents, own_namespace, root_namespace);
            (Arc::new(modes), epoch)
        };
        let same_directory = self.epoch > 0
            && self.resources.services == resources.services
            && self.resources.workloads == resources.workloads
            && self.resources.scope == resources.scope;
        let (directory, directory_epoch) = if same_directory {
            (Arc::clone(&self.directory), self.directory_epoch)
        } else {
            let (domain, before) = (&self.trust_domain, &self.directory);
            let directory = Directory::build(domain, own_namespace, resources, before)?;
            (Arc::new(directory), epoch)
        };
        let tokens = self.build_tokens(resources)?;
        let same_tokens = match (&tokens, &self.tokens) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        let tokens_epoch = if same_tokens {
            self.tokens_epoch
        } else {
            epoch
        };
        Ok(Self {
            epoch,
            revision: resources.revision,
            own_uid: Arc::clone(&self.own_uid),
            trust_domain: self.trust_domain.clone(),
            own: directory.workload(&self.own_uid).cloned(),
            resumption: self.resumption,
            tls,
            chains,
            control_roots,
            outside,
            spoken_of,
            revocations,
            trust_epoch: if unchanged_trust {
                self.trust_epoch
            } else {
                epoch
            },
            revocation_epoch: if unchanged_revocations {
                self.revocation_epoch
            } else {
                epoch
            },
            policy,
            policy_epoch,
            tokens,
            tokens_epoch,
            port_modes,
            modes_epoch,
            budgets: self.build_budgets(resources)?,
            directory,
            directory_epoch,
            clock_skew: self.clock_skew,
            resources: Arc::clone(resources),
        })
    }

    fn spoken_of_with(&self, resources: &Resources) -> Arc<BTreeSet<String>> {
        let mut names = resources.bundles.keys().chain(&resources.spoken_of);
        if names.all(|name| self.spoken_of.contains(name)) {
            return Arc::clone(&self.spoken_of);
        }
        let names = resources.bundles.keys().chain(&resources.spoken_of);
        Arc::new(self.spoken_of.iter().chain(names).cloned().collect())
    }

    /// Why this workload itself is not believed by others at `now` (Unix seconds), as far as it knows.
    pub fn own_revocation(&self, now: i64) -> Option<&Revoked> {
        let own = &self.tls.as_ref()?.identity;
        self.revocations
            .of_certificate(own.id(), own.serial(), own.not_before(), now)
    }

    fn build_tokens(
        &self,
        resources: &Resources,
    ) -> Result<Option<Arc<TokenPolicy>>, SnapshotError> {
        let held = &self.resources;
        if self.epoch > 0
            && held.request_authentications == resources.request_authentications
            && held.key_sets == resources.key_sets
            && held.bundles == resources.bundles
        {
            return Ok(self.tokens.clone());
        }
        let documents = resources.request_authentications.values().map(|d| &**d);
        let mut key_sets = resources.key_sets.clone();
        // JWT-SVIDs are verified with what the trust bundle of their domain says, however it came here.
        for (domain, bundle) in &resources.bundles {
            if !bundle.jwt_authorities.is_empty() {
                let name = format!("trust-domain/{domain}");
                let set = mesh::KeySet {
                    name: name.clone(),
                    jwks: bundle.jwt_authorities.clone(),
                    ..Default::default()
                };
                key_sets.insert(name, Arc::new(set));
            }
        }
        let policy = TokenPolicy::compile(documents, &key_sets, self.tokens.as_deref())?;
        Ok(policy.map(Arc::new))
    }

    /// The contexts of `identity`. Tickets of others end here: they were sealed under keys that these do not have.
    fn contexts(
        &self,
        epoch: u64,
        identity: Arc<Identity>,
        trust: &Trust,
    ) -> Result<TlsContexts, SnapshotError> {
        let server = |alpn| {
            tls::mesh_server_config(&identity, trust.clone(), alpn, self.resumption)
                .map_err(|e| SnapshotError::Identity(e.to_string()))
        };
        Ok(TlsContexts {
            epoch,
            mesh: server(MESH_ALPN)?,
            inbound: server(INBOUND_TLS_ALPN)?,
            identity,
        })
    }

    /// Roots by trust domain.
    pub fn bundles(&self) -> &Arc<TrustBundles> {
        self.chains.bundles()
    }

    /// What a peer's certificate is held against.
    pub fn trust(&self) -> Trust {
        Trust {
            chains: Arc::clone(&self.chains),
            revocations: Arc::clone(&self.revocations),
        }
    }

    /// Budgets that did not change are the same ones: what was counted for them goes on.
    fn build_budgets(&self, resources: &Resources) -> Result<Arc<[Arc<Budget>]>, SnapshotError> {
        let held = &self.resources.latency_budgets;
        if self.epoch > 0 && *held == resources.latency_budgets {
            return Ok(Arc::clone(&self.budgets));
        }
        let fail = |name: &str, reason: String| SnapshotError::Budget {
            name: name.to_owned(),
            reason,
        };
        let mut budgets = Vec::with_capacity(resources.latency_budgets.len());
        for (name, message) in &resources.latency_budgets {
            if budgets.len() == MAX_BUDGETS {
                let reason = format!("more than {MAX_BUDGETS} select this workload");
                return Err(fail(name, reason));
            }
            let budget = Budget::parse(message).map_err(|e| fail(name, e.to_string()))?;
            let same = self.budgets.iter().find(|held| ***held == budget);
            budgets.push(same.map_or_else(|| Arc::new(budget), Arc::clone));
        }
        Ok(budgets.into())
    }

    /// This workload's SPIFFE ID, once a certificate is held.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.tls.as_ref().map(|t| t.identity.id())
    }
}

fn build_revocations(resources: &Resources) -> Result<Revocations, SnapshotError> {
    let entries = resources.revocations.iter().map(|(name, message)| {
        Entry::parse(message).map_err(|error| SnapshotError::Revocation {
            name: name.clone(),
            error,
        })
    });
    Ok(Revocations::new(entries.collect::<Result<Vec<_>, _>>()?))
}

fn same_bundles(a: &Resources, b: &Resources) -> bool {
    a.bundles == b.bundles
}

#[cfg(test)]
mod tests {
    use mesh_proto::TypedResource;

    use super::*;

    #[test]
    fn jwt_svids_are_verified_with_the_keys_of_their_trust_bundle() {
        let rule = mesh::TokenRule {
            profile: mesh::TokenProfile::JwtSvid.into(),
            trust_domain: "demo.test".into(),
            audiences: vec!["orders".into()],
            ..Default::default()
        };
        let document = mesh::RequestAuthentication {
            name: "r".into(),
            namespace: "demo".into(),
            rules: vec![rule],
            ..Default::default()
        };
        let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"k","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        for (domain, held) in [("demo.test", true), ("other.test", false)] {
            let mut resources = Resources::default();
            resources
                .request_authentications
                .insert("demo/r".into(), Arc::new(document.clone()));
            let bundle = mesh::TrustBundle {
                jwt_authorities: jwks.into(),
                ..Default::default()
            };
            resources.bundles.insert(domain.into(), Arc::new(bundle));
            let tokens = empty.build_tokens(&resources).expect("compiles");
            let tokens = tokens.expect("has a rule");
            assert_eq!(tokens.providers()[0].keys().is_some(), held, "{domain}");
        }
    }

    #[test]
    fn a_budget_that_did_not_change_is_the_same_one_and_one_too_many_is_named() {
        let budget = |name: &str, threshold_nanos| mesh::LatencyBudget {
            name: name.into(),
            namespace: "demo".into(),
            target_millionths: 990_000,
            threshold_nanos,
            window_seconds: 60,
            ..Default::default()
        };
        let with = |budgets: Vec<mesh::LatencyBudget>| {
            let named = budgets
                .into_iter()
                .map(|b| (b.resource_name(), Arc::new(b)));
            Arc::new(Resources {
                latency_budgets: named.collect(),
                ..Default::default()
            })
        };
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        let first = with(vec![budget("a", 5_000), budget("b", 5_000)]);
        let first = empty.build(&first, None, &[]).expect("builds");
        let second = with(vec![budget("a", 5_000), budget("b", 6_000)]);
        let second = first.build(&second, None, &[]).expect("builds");
        assert!(Arc::ptr_eq(&first.budgets[0], &second.budgets[0]));
        assert!(!Arc::ptr_eq(&first.budgets[1], &second.budgets[1]));
        let many = (0..=MAX_BUDGETS).map(|n| budget(&format!("b{n:02}"), 5_000));
        let error = first.build(&with(many.collect()), None, &[]).err();
        let error = error.expect("one too many").to_string();
        assert!(error.contains("demo/b32"), "{error}");
    }
}
