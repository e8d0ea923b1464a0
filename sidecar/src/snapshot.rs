//! The immutable view of the mesh that the hot path reads.
//!
//! A [`Snapshot`] is built on the control thread from the resources held and the current identity, then swapped in
//! whole; a request sees one snapshot from start to end. Building is all or nothing: a resource that does not compile
//! leaves the previous snapshot in force. Parts whose inputs did not change are shared with the previous snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use mesh_auth::bundle::{BundleError, TrustBundle, TrustBundles};
use mesh_auth::latency::Budget;
use mesh_auth::policy::{PolicyError, PolicySet, PortModes};
use mesh_auth::revocation::{Entry, RevocationError, Revocations, Revoked};
use mesh_auth::svid::VerifiedChains;
use mesh_auth::tls::{self, Identity, Resumption, Trust};
use mesh_auth::token::TokenPolicy;
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::mesh;
use rustls_pki_types::CertificateDer;

use crate::directory::{Directory, DirectoryError, WorkloadEntry};
use crate::lookups::Scope;
use crate::stand_in::StandIn;

/// The snapshot in force, read by every worker and stored by the control thread only.
pub type SharedSnapshot = Arc<ArcSwap<Snapshot>>;

/// Latency budgets of one workload: each is looked at with every request.
const MAX_BUDGETS: usize = 32;
/// ALPN protocols of the mesh port.
pub const MESH_ALPN: &[&[u8]] = &[b"h2"];
/// ALPN protocols of captured TLS with a client certificate.
pub const INBOUND_TLS_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Roots by name of their trust domain.
pub type RootsByDomain = BTreeMap<String, Vec<CertificateDer<'static>>>;

/// The resources a sidecar holds, by name.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Mesh-wide settings; `None` until received.
    pub defaults: Option<mesh::MeshDefaults>,
    /// Trust bundles by trust domain.
    pub bundles: BTreeMap<String, Arc<mesh::TrustBundle>>,
    /// Trust domains that an earlier process was given bundles of, in force or not any more.
    pub spoken_of: BTreeSet<String>,
    /// What is revoked, by name of the entry.
    pub revocations: BTreeMap<String, Arc<mesh::Revocation>>,
    /// Keys of token issuers, by name.
    pub key_sets: BTreeMap<String, Arc<mesh::KeySet>>,
    /// Peer authentication policies that can select this workload.
    pub peer_authentications: BTreeMap<String, Arc<mesh::PeerAuthentication>>,
    /// Which tokens are accepted on requests to this workload.
    pub request_authentications: BTreeMap<String, Arc<mesh::RequestAuthentication>>,
    /// Authorization policies that select this workload.
    pub policies: BTreeMap<String, Arc<mesh::AuthorizationPolicy>>,
    /// Authorization policies that select this workload and cannot be read, as they came, where no earlier version is held.
    pub unreadable: BTreeMap<String, Bytes>,
    /// Latency budgets that select this workload.
    pub latency_budgets: BTreeMap<String, Arc<mesh::LatencyBudget>>,
    /// Services.
    pub services: BTreeMap<String, Arc<mesh::Service>>,
    /// Workloads.
    pub workloads: BTreeMap<String, Arc<mesh::Workload>>,
    /// How much of what there is they are.
    pub scope: Scope,
    /// Store revision these resources are of; 0 when unknown.
    pub revision: u64,
}

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

/// Why a snapshot could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A trust bundle does not parse.
    #[error("trust bundle '{name}': {reason}")]
    Bundle {
        /// The trust domain.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A revocation is malformed.
    #[error("revocation '{name}': {error}")]
    Revocation {
        /// Its name.
        name: String,
        /// What is wrong.
        error: RevocationError,
    },
    /// The policies do not compile.
    #[error("authorization policy: {0}")]
    Policy(#[from] mesh_auth::policy::PolicyError),
    /// The token rules do not compile.
    #[error("request authentication: {0}")]
    Tokens(#[from] mesh_auth::token::TokenPolicyError),
    /// A latency budget makes no sense, or is one too many.
    #[error("latency budget '{name}': {reason}")]
    Budget {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A workload or service is malformed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The identity cannot be used.
    #[error("identity: {0}")]
    Identity(String),
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
            let bundles = build_bundles(
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
            (build_policy(resources)?.map(Arc::new), epoch)
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

/// The root namespace in force.
pub fn root_namespace(resources: &Resources) -> &str {
    match &resources.defaults {
        Some(d) if !d.root_namespace.is_empty() => &d.root_namespace,
        _ => "postern-system",
    }
}

/// What cannot be read keeps out whom it may have been meant to keep out.
fn build_policy(resources: &Resources) -> Result<Option<PolicySet>, PolicyError> {
    let Some(defaults) = &resources.defaults else {
        return Ok(None);
    };
    let mut policies: Vec<_> = resources.policies.values().map(|p| (**p).clone()).collect();
    let mut closed_by = None;
    for (name, value) in &resources.unreadable {
        match StandIn::of(name, value) {
            Some(StandIn::DeniesAll) => closed_by = closed_by.or(Some(name)),
            Some(StandIn::AllowsNothing) => {
                let (namespace, own) = name.split_once('/').unwrap_or(("", name));
                policies.push(mesh::AuthorizationPolicy {
                    namespace: namespace.into(),
                    name: own.into(),
                    action: mesh::PolicyAction::Allow.into(),
                    ..Default::default()
                });
            }
            None => {}
        }
    }
    let set = PolicySet::compile(&policies, defaults)?.at_revision(resources.revision);
    Ok(Some(match closed_by {
        Some(name) => set.closed_by(name),
        None => set,
    }))
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

fn build_bundles(
    own: &TrustDomain,
    own_namespace: &str,
    resources: &Resources,
    fallback_roots: &[CertificateDer<'static>],
    outside: &RootsByDomain,
) -> Result<TrustBundles, SnapshotError> {
    let mut bundles = TrustBundles::default();
    let fail = |name: &str, error: &dyn std::fmt::Display| SnapshotError::Bundle {
        name: name.to_owned(),
        reason: error.to_string(),
    };
    // Whoever else signs in the own domain does so for these namespaces only, by whatever way its roots come; where the control
    // API names none, roots from outside are good for the neighbours of this workload.
    let named = resources.bundles.get(own.as_str());
    let named = named.map_or(&[][..], |bundle| &bundle.workload_namespaces);
    let neighbours = [own_namespace.to_owned()];
    let bounds = if named.is_empty() { &neighbours } else { named };
    let mut insert = |name: &str, bundle: Result<TrustBundle, BundleError>| {
        let mut bundle = bundle.map_err(|e| fail(name, &e))?;
        if bundle.trust_domain() == own
            && let Some(more) = outside.get(own.as_str())
        {
            bundle = bundle
                .with_workload_roots(more.clone(), bounds)
                .map_err(|e| fail(name, &e))?;
        }
        bundles.insert(bundle).map_err(|e| fail(name, &e))
    };
    let is_new = |name: &str| !resources.bundles.contains_key(name);
    let own_outside = outside.contains_key(own.as_str());
    if is_new(own.as_str()) && (!fallback_roots.is_empty() || own_outside) {
        let roots = fallback_roots.to_vec();
        insert(own.as_str(), TrustBundle::new(own.clone(), roots, 0))?;
    }
    for (name, roots) in outside.iter().filter(|(name, _)| is_new(name)) {
        if name.as_str() != own.as_str() {
            let domain = TrustDomain::new(name).map_err(|e| SnapshotError::Bundle {
                name: name.clone(),
                reason: e.to_string(),
            })?;
            insert(name, TrustBundle::new(domain, roots.clone(), 0))?;
        }
    }
    for (name, bundle) in &resources.bundles {
        let domain = TrustDomain::new(&bundle.trust_domain).map_err(|e| SnapshotError::Bundle {
            name: name.clone(),
            reason: e.to_string(),
        })?;
        let roots = certificates(&bundle.x509_authorities);
        let others = certificates(&bundle.workload_authorities);
        let made = TrustBundle::new(domain, roots, bundle.sequence)
            .and_then(|made| made.with_workload_roots(others, &bundle.workload_namespaces));
        insert(name, made)?;
    }
    Ok(bundles)
}

fn certificates(ders: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    ders.iter().cloned().map(CertificateDer::from).collect()
}

/// The roots that the control API is verified by. Whoever signs for workloads only (`workload_authorities`, a Workload API)
/// cannot speak for it.
///
/// # Errors
/// A root cannot be used as one.
pub fn control_roots(
    own: &TrustDomain,
    resources: &Resources,
    fallback_roots: &[CertificateDer<'static>],
) -> Result<TrustBundles, SnapshotError> {
    let (roots, sequence) = match resources.bundles.get(own.as_str()) {
        Some(bundle) => (certificates(&bundle.x509_authorities), bundle.sequence),
        None => (fallback_roots.to_vec(), 0),
    };
    let mut bundles = TrustBundles::default();
    TrustBundle::new(own.clone(), roots, sequence)
        .and_then(|bundle| bundles.insert(bundle))
        .map_err(|e| SnapshotError::Bundle {
            name: own.to_string(),
            reason: e.to_string(),
        })?;
    Ok(bundles)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mesh_auth::Reason;
    use mesh_auth::policy::Connection;
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
    fn roots_from_outside_stand_beside_the_own_ones_and_never_for_a_domain_that_is_spoken_of() {
        let root = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a root").der().clone()
        };
        let [own, helper, spire, partner, impostor, third] =
            ["own", "helper", "spire", "partner", "impostor", "third"].map(root);
        let bundle = |domain: &str, root: &CertificateDer<'_>| {
            let bundle = mesh::TrustBundle {
                trust_domain: domain.into(),
                x509_authorities: vec![root.to_vec()],
                workload_authorities: match domain {
                    "demo.test" => vec![helper.to_vec()],
                    _ => vec![],
                },
                workload_namespaces: vec!["*".into()],
                ..Default::default()
            };
            (domain.to_owned(), Arc::new(bundle))
        };
        let named = [bundle("demo.test", &own), bundle("partner.test", &partner)];
        let resources = Arc::new(Resources {
            bundles: named.into(),
            ..Default::default()
        });
        let outside: RootsByDomain = [
            ("demo.test".to_owned(), vec![spire.clone(), own.clone()]),
            ("partner.test".to_owned(), vec![impostor]),
            ("third.test".to_owned(), vec![third.clone()]),
        ]
        .into();
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        let before = empty.build(&resources, None, &[]).expect("builds");
        let after = before
            .build_with(&resources, None, &[], Arc::new(outside))
            .expect("builds");
        assert!(before.trust_epoch < after.trust_epoch);
        // Whatever is built from it keeps them.
        let next = after.build(&resources, None, &[]).expect("builds");
        assert_eq!(after.trust_epoch, next.trust_epoch);
        let roots = |domain: &str| next.bundles().get(domain).map(|b| b.authorities().to_vec());
        let all = vec![own.clone(), helper.clone(), spire.clone()];
        assert_eq!(roots("demo.test"), Some(all));
        // They vouch for no more than the other authorities of the domain do; where those do for nobody, for the neighbours.
        for (named, of_spire) in [(&["shop"][..], "shop"), (&[], "demo")] {
            let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
            let mut bounded = (*resources).clone();
            let bundle = bounded.bundles.get_mut("demo.test").expect("a bundle");
            Arc::make_mut(bundle).workload_namespaces.clone_from(&named);
            let bounded = next.build(&Arc::new(bounded), None, &[]).expect("builds");
            let expected = TrustBundle::new(next.trust_domain.clone(), vec![own.clone()], 0)
                .and_then(|bundle| bundle.with_workload_roots(vec![helper.clone()], &named))
                .and_then(|bundle| {
                    bundle.with_workload_roots(vec![spire.clone()], &[of_spire.to_owned()])
                });
            let built = bounded.bundles().get("demo.test").expect("a bundle");
            assert!(built.trusts_like(&expected.expect("a bundle")), "{named:?}");
        }
        // Of all these only the own one speaks for the control API.
        let control: Vec<_> = next.control_roots.iter().collect();
        assert_eq!(control.len(), 1);
        assert_eq!(control[0].trust_domain(), &next.trust_domain);
        assert_eq!(control[0].authorities(), [own]);
        assert_eq!(roots("partner.test"), Some(vec![partner]));
        assert_eq!(roots("third.test"), Some(vec![third]));
    }

    #[test]
    fn roots_from_outside_do_not_take_the_place_of_a_bundle_that_was_taken_away() {
        let partner = mesh::TrustBundle {
            trust_domain: "partner.test".into(),
            ..Default::default()
        };
        let named = Resources {
            bundles: [("partner.test".to_owned(), Arc::new(partner))].into(),
            ..Default::default()
        };
        let outside: RootsByDomain = ["partner.test", "third.test"]
            .map(|name| (name.to_owned(), vec![]))
            .into();
        let empty = Snapshot::empty(
            "demo/orders-1",
            TrustDomain::new("demo.test").expect("a domain"),
        );
        let named = empty.build(&Arc::new(named), None, &[]).expect("builds");
        let nothing = Arc::new(Resources::default());
        let outside = Arc::new(outside);
        let with = named.build_with(&nothing, None, &[], Arc::clone(&outside));
        let with = with.expect("builds");
        let again = with.build(&nothing, None, &[]).expect("builds");
        // Another process, which the state file tells of it.
        let restored = Arc::new(Resources {
            spoken_of: ["partner.test".to_owned()].into(),
            ..Default::default()
        });
        let later = empty.build_with(&restored, None, &[], outside);
        for snapshot in [with, again, later.expect("builds")] {
            assert!(snapshot.bundles().get("partner.test").is_none());
            assert!(snapshot.bundles().get("third.test").is_some());
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

    #[test]
    fn a_policy_that_cannot_be_read_lets_nobody_in_whom_it_may_keep_out() {
        use mesh::PolicyAction::{Allow, Audit, Deny};
        let peer = SpiffeId::parse("spiffe://demo.test/ns/demo/sa/web").expect("an id");
        let connection = Connection {
            peer: Some(&peer),
            source_ip: IpAddr::from([10, 0, 0, 1]),
            destination_ip: IpAddr::from([10, 0, 0, 2]),
            destination_port: 80,
            sni: None,
        };
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        let cases = [
            (None, Reason::AllowedByDefault, None),
            (Some(Audit), Reason::AllowedByDefault, None),
            (Some(Allow), Reason::NoAllowPolicyMatched, None),
            (Some(Deny), Reason::PolicyUnreadable, Some("demo/p")),
        ];
        for (action, reason, policy) in cases {
            let mut resources = Resources {
                defaults: Some(mesh::MeshDefaults {
                    trust_domain: "demo.test".into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            if let Some(action) = action {
                let unreadable = mesh::AuthorizationPolicy {
                    name: "p".into(),
                    namespace: "demo".into(),
                    action: action.into(),
                    ..Default::default()
                };
                let value = unreadable.to_any().value;
                resources.unreadable.insert("demo/p".into(), value);
            }
            let snapshot = empty
                .build(&Arc::new(resources), None, &[])
                .expect("builds");
            let set = snapshot.policy.expect("defaults are held");
            let decision = set.decide(&connection);
            assert_eq!(
                (decision.reason, decision.policy),
                (reason, policy),
                "{action:?}"
            );
            let standing = set.standing(&connection);
            let (method, headers) = (http::Method::GET, http::HeaderMap::new());
            let request = mesh_auth::policy::Request {
                connection,
                method: &method,
                host: "orders",
                path: "/",
                headers: &headers,
                token: None,
            };
            assert_eq!(
                set.decide_with(&standing, &request).reason,
                reason,
                "{action:?}"
            );
        }
    }
}
