//! The policies that select one workload, compiled; and the order in which they decide.

use mesh_proto::mesh;

use super::compile::{self, PolicyError};
use super::decision::{Decision, Verdict};
use super::facts::{Effect, Facts};
use super::memo::{Key, Memo, Ruling};
use super::request::{Connection, Request};
use super::standing::{Live, Standing};
use super::table::{Found, Matched, Table};
use super::trust::Trust;
use crate::Reason;

/// The policies that select one workload, compiled.
#[derive(Debug)]
pub struct PolicySet {
    deny: Table,
    allow: Table,
    audit: Table,
    dry_deny: Table,
    dry_allow: Table,
    trust_domain: Box<str>,
    default_deny: bool,
    trusted_proxies: usize,
    revision: u64,
    /// A policy that cannot be read and may deny.
    unreadable: Option<Box<str>>,
    /// True if method, host, path, token and connection are all that the verdict depends on.
    memorable: bool,
    seed: foldhash::fast::RandomState,
}

impl PolicySet {
    /// Compiles the policies that select a workload.
    ///
    /// `defaults` without a trust domain lets nobody in by default.
    ///
    /// # Errors
    /// Names the policy and the field that cannot be compiled.
    pub fn compile(
        policies: &[mesh::AuthorizationPolicy],
        defaults: &mesh::MeshDefaults,
    ) -> Result<Self, PolicyError> {
        let mut set = Self {
            deny: Table::new(Effect::Restrict),
            allow: Table::new(Effect::Permit),
            audit: Table::telling(),
            dry_deny: Table::new(Effect::Restrict),
            dry_allow: Table::new(Effect::Permit),
            trust_domain: defaults.trust_domain.as_str().into(),
            default_deny: denies_by_default(defaults)?,
            trusted_proxies: usize::try_from(defaults.trusted_proxies).unwrap_or(usize::MAX),
            revision: 0,
            unreadable: None,
            memorable: false,
            seed: foldhash::fast::RandomState::default(),
        };
        let trust = Trust::of(defaults);
        for policy in policies {
            let table = match (policy.action(), policy.dry_run) {
                (mesh::PolicyAction::Allow, false) => &mut set.allow,
                (mesh::PolicyAction::Allow, true) => &mut set.dry_allow,
                (mesh::PolicyAction::Deny, false) => &mut set.deny,
                (mesh::PolicyAction::Deny, true) => &mut set.dry_deny,
                (mesh::PolicyAction::Audit, _) => &mut set.audit,
            };
            let rules = compile::compile(policy, table.next_policy(), &trust)?;
            table.push(
                format!("{}/{}", policy.namespace, policy.name).into(),
                rules,
            );
        }
        let Self {
            deny,
            allow,
            audit,
            dry_deny,
            dry_allow,
            ..
        } = &mut set;
        for table in [deny, allow, audit, dry_deny, dry_allow] {
            table.finish();
        }
        set.memorable = !set.deny.looks_at_headers() && !set.allow.looks_at_headers();
        Ok(set)
    }

    /// The same set, whose decisions say that they come from `revision`.
    #[must_use]
    pub fn at_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// The same set, which denies everything: `policy`, `namespace/name`, selects the workload, cannot be read and may deny.
    #[must_use]
    pub fn closed_by(self, policy: &str) -> Self {
        Self {
            unreadable: Some(policy.into()),
            ..self
        }
    }

    /// Decides a connection that carries opaque bytes. Allocates nothing.
    pub fn decide(&self, connection: &Connection<'_>) -> Decision<'_> {
        self.judge(&self.facts(connection, None), Policies::InForce, None)
    }

    /// Decides an HTTP request.
    pub fn decide_request(&self, request: &Request<'_>) -> Decision<'_> {
        let facts = self.facts(&request.connection, Some(request));
        self.judge(&facts, Policies::InForce, None)
    }

    /// What the connection alone decides, for [`Self::decide_with`]. Looks at every rule that the
    /// connection can satisfy: keep it.
    pub fn standing(&self, connection: &Connection<'_>) -> Standing {
        let facts = self.facts(connection, None);
        let (deny, allow) = (self.deny.live(&facts), self.allow.live(&facts));
        // Without an index there is little to look at: less than at a memo.
        let pays = self.memorable && (deny.led.is_some() || allow.led.is_some());
        Standing {
            deny,
            allow,
            memo: pays.then(Memo::default),
            audit: self.audit.live(&facts),
            dry_deny: self.dry_deny.live(&facts),
            dry_allow: self.dry_allow.live(&facts),
        }
    }

    /// Decides a request on a connection whose standing is known: what [`Self::decide_request`] says, without
    /// looking again at what the connection has settled. Allocates nothing for a request without odd spellings.
    pub fn decide_with(&self, standing: &Standing, request: &Request<'_>) -> Decision<'_> {
        let facts = self.facts(&request.connection, Some(request));
        self.judge(&facts, Policies::InForce, Some(standing))
    }

    /// What [`Self::decide_with`] says, found again where the same was asked on the connection before.
    pub fn decide_remembering(&self, standing: &Standing, request: &Request<'_>) -> Decision<'_> {
        self.recall(standing, request).0
    }

    /// The same, and whether it was found again; `None` where nothing is remembered.
    pub fn recall(
        &self,
        standing: &Standing,
        request: &Request<'_>,
    ) -> (Decision<'_>, Option<bool>) {
        let memo = standing.memo.as_ref();
        let Some((memo, key)) = memo.and_then(|memo| Some((memo, Key::of(request, &self.seed)?)))
        else {
            return (self.decide_with(standing, request), None);
        };
        if let Some(ruling) = memo.get(&key) {
            return (self.recalled(ruling), Some(true));
        }
        let (decision, ruling) = self.rule_on(
            &self.facts(&request.connection, Some(request)),
            Policies::InForce,
            Some(standing),
        );
        if let Some(ruling) = ruling {
            memo.missed(&key, ruling);
        }
        (decision, Some(false))
    }

    fn recalled(&self, ruling: Ruling) -> Decision<'_> {
        match ruling {
            Ruling::Denied { policy, rule } => {
                let by = self.deny.named(policy, rule);
                self.decision(Verdict::Deny, Reason::DeniedByPolicy, Some(by))
            }
            Ruling::Allowed { policy, rule } => {
                let by = self.allow.named(policy, rule);
                self.decision(Verdict::Allow, Reason::AllowedByPolicy, Some(by))
            }
            Ruling::NothingMatched => {
                self.decision(Verdict::Deny, Reason::NoAllowPolicyMatched, None)
            }
        }
    }

    /// What [`Self::would_decide_request`] says, on a connection whose standing is known.
    pub fn would_decide_with(
        &self,
        standing: &Standing,
        request: &Request<'_>,
    ) -> Option<Decision<'_>> {
        self.has_dry_run().then(|| {
            let facts = self.facts(&request.connection, Some(request));
            self.judge(&facts, Policies::WithDryRun, Some(standing))
        })
    }

    /// What would be decided of a connection if the policies marked `dryRun` were in force; `None` when there are none.
    pub fn would_decide(&self, connection: &Connection<'_>) -> Option<Decision<'_>> {
        self.has_dry_run()
            .then(|| self.judge(&self.facts(connection, None), Policies::WithDryRun, None))
    }

    /// What would be decided of a request; `None` when no policy is marked `dryRun`.
    pub fn would_decide_request(&self, request: &Request<'_>) -> Option<Decision<'_>> {
        self.has_dry_run().then(|| {
            let facts = self.facts(&request.connection, Some(request));
            self.judge(&facts, Policies::WithDryRun, None)
        })
    }

    /// True if a policy that decides something is marked `dryRun`.
    pub fn has_dry_run(&self) -> bool {
        !self.dry_deny.is_empty() || !self.dry_allow.is_empty()
    }

    /// True if there are AUDIT policies.
    pub fn has_audit(&self) -> bool {
        !self.audit.is_empty()
    }

    /// Calls `told` with name and rule of each AUDIT policy that matches; `request` is `None` for opaque bytes.
    pub fn audited(
        &self,
        connection: &Connection<'_>,
        request: Option<&Request<'_>>,
        mut told: impl FnMut(&str, u32),
    ) {
        let facts = self.facts(connection, request);
        for matched in self.audit.every(&facts) {
            told(matched.policy, matched.rule);
        }
    }

    /// What [`Self::audited`] tells of a request, on a connection whose standing is known.
    pub fn audited_with(
        &self,
        standing: &Standing,
        request: &Request<'_>,
        mut told: impl FnMut(&str, u32),
    ) {
        let facts = self.facts(&request.connection, Some(request));
        for matched in self.audit.all(&standing.audit, &facts) {
            told(matched.policy, matched.rule);
        }
    }

    fn facts<'a>(
        &self,
        connection: &'a Connection<'a>,
        request: Option<&'a Request<'a>>,
    ) -> Facts<'a> {
        Facts::new(connection, request, self.trusted_proxies)
    }

    fn judge<'s>(
        &'s self,
        facts: &Facts<'_>,
        policies: Policies,
        standing: Option<&Standing>,
    ) -> Decision<'s> {
        self.rule_on(facts, policies, standing).0
    }

    /// Without a standing every rule is looked at. Beside the decision what to remember of it; `None`: it costs nothing to
    /// decide again, or names more than a rule.
    fn rule_on<'s>(
        &'s self,
        facts: &Facts<'_>,
        policies: Policies,
        standing: Option<&Standing>,
    ) -> (Decision<'s>, Option<Ruling>) {
        if let Some(policy) = &self.unreadable {
            let decision = Decision {
                policy: Some(policy),
                ..self.decision(Verdict::Deny, Reason::PolicyUnreadable, None)
            };
            return (decision, None);
        }
        let dry = policies == Policies::WithDryRun;
        let look = |table: &'s Table, live: fn(&Standing) -> &Live| match standing {
            None => table.scan(facts),
            Some(standing) => table.first(live(standing), facts),
        };
        let mut found = look(&self.deny, |s| &s.deny);
        if dry && let Found::Nothing(_) = found {
            found = look(&self.dry_deny, |s| &s.dry_deny);
        }
        if let Found::Rule(by) = found {
            let decision = self.decision(Verdict::Deny, Reason::DeniedByPolicy, Some(by));
            let (policy, rule) = (by.index, by.rule);
            return (decision, Some(Ruling::Denied { policy, rule }));
        }
        if self.allow.is_empty() && (!dry || self.dry_allow.is_empty()) {
            return (self.by_default(facts.connection), None);
        }
        let mut found = look(&self.allow, |s| &s.allow);
        if dry
            && let Found::Nothing(_) = found
            && let tried @ Found::Rule(_) = look(&self.dry_allow, |s| &s.dry_allow)
        {
            found = tried;
        }
        match found {
            Found::Rule(by) => {
                let decision = self.decision(Verdict::Allow, Reason::AllowedByPolicy, Some(by));
                let (policy, rule) = (by.index, by.rule);
                (decision, Some(Ruling::Allowed { policy, rule }))
            }
            Found::Nothing(lacking) => {
                let ruling = lacking.is_none().then_some(Ruling::NothingMatched);
                (self.nothing_matched(lacking, facts), ruling)
            }
        }
    }

    /// ALLOW policies select the workload and none matches.
    fn nothing_matched<'s>(&'s self, scope: Option<&'s str>, facts: &Facts<'_>) -> Decision<'s> {
        let reason = match (scope, facts.token()) {
            (Some(_), Some(_)) => Reason::InsufficientScope,
            (Some(_), None) | (None, _) => Reason::NoAllowPolicyMatched,
        };
        Decision {
            scope,
            ..self.decision(Verdict::Deny, reason, None)
        }
    }

    fn by_default(&self, connection: &Connection<'_>) -> Decision<'_> {
        match connection.peer {
            _ if self.default_deny => self.decision(Verdict::Deny, Reason::DeniedByDefault, None),
            None => self.decision(Verdict::Deny, Reason::UnauthenticatedPeer, None),
            Some(peer) if peer.trust_domain() == &*self.trust_domain => {
                self.decision(Verdict::Allow, Reason::AllowedByDefault, None)
            }
            Some(_) => self.decision(Verdict::Deny, Reason::ForeignTrustDomain, None),
        }
    }

    fn decision<'a>(
        &self,
        verdict: Verdict,
        reason: Reason,
        by: Option<Matched<'a>>,
    ) -> Decision<'a> {
        Decision {
            verdict,
            reason,
            policy: by.map(|by| by.policy),
            rule: by.map(|by| by.rule),
            revision: self.revision,
            scope: None,
        }
    }
}

/// Which policies decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policies {
    InForce,
    WithDryRun,
}

/// An unknown decision is an error: taken for the default it could let in whom it was to keep out.
fn denies_by_default(defaults: &mesh::MeshDefaults) -> Result<bool, PolicyError> {
    match mesh::DefaultDecision::try_from(defaults.default_decision) {
        Ok(decision) => Ok(decision == mesh::DefaultDecision::Deny),
        Err(_) => Err(PolicyError {
            policy: "mesh defaults".into(),
            field: "spec.defaultDecision".into(),
            problem: format!("unknown decision {}", defaults.default_decision),
        }),
    }
}
