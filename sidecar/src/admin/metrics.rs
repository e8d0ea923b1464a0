//! `/metrics`: what is kept, and what is looked up when somebody asks.

use mesh_auth::policy::Remembered;

use super::readiness::Readiness;
use super::routes::AdminState;
use crate::snapshot::Snapshot;
use crate::telemetry::exposition::{Format, Sample};
use crate::telemetry::process;
use crate::telemetry::registry::Kind;
use crate::worker::crew::Crew;
use crate::worker::metrics::{chains, remembered};

/// The page for whoever sends this `accept` field, and its content type.
pub(super) fn page(state: &AdminState, accept: Option<&str>) -> (&'static str, String) {
    let snapshot = state.snapshot.load();
    chains(&snapshot.chains);
    remembered(Remembered::of_process());
    let format = Format::accepted(accept);
    let mut samples = process::samples();
    ages(&mut samples, &snapshot, state.clock.now());
    steps(&mut samples, &state.readiness);
    shares(&mut samples, &state.crew);
    (
        format.content_type(),
        state.metrics.render(format, &samples),
    )
}

/// How long the start took.
fn steps(samples: &mut Vec<Sample>, readiness: &Readiness) {
    samples.extend(readiness.steps().into_iter().map(|(step, at)| Sample {
        labels: vec![("step".to_owned(), step.to_owned())],
        ..Sample::new(
            "postern_start_up_seconds",
            Kind::Gauge,
            "Time from when the sockets were bound to the arrival of its first certificate, and to being ready first.",
            at.as_secs_f64(),
        )
    }));
}

/// What each worker has of the connections.
fn shares(samples: &mut Vec<Sample>, crew: &Crew) {
    #[allow(clippy::cast_precision_loss)]
    samples.extend(crew.open().enumerate().map(|(worker, open)| Sample {
        labels: vec![("worker".to_owned(), worker.to_string())],
        ..Sample::new(
            "postern_worker_connections",
            Kind::Gauge,
            "Accepted connections that a worker serves; 0 where it is the only one.",
            open as f64,
        )
    }));
}

/// How old what was fetched and issued is at `now`, Unix seconds.
fn ages(samples: &mut Vec<Sample>, snapshot: &Snapshot, now: i64) {
    #[allow(clippy::cast_precision_loss)]
    let since = |then: i64| now.saturating_sub(then).max(0) as f64;
    if let Some(tls) = &snapshot.tls {
        samples.push(Sample::new(
            "postern_certificate_age_seconds",
            Kind::Gauge,
            "Time since the start of validity of the certificate in use.",
            since(tls.identity.not_before()),
        ));
    }
    let key_sets = snapshot.resources.key_sets.values();
    samples.extend(key_sets.filter(|set| set.fetched_at > 0).map(|set| Sample {
        labels: vec![("key_set".to_owned(), set.name.clone())],
        ..Sample::new(
            "postern_key_set_age_seconds",
            Kind::Gauge,
            "Time since an issuer's keys, as they are in use, were first fetched.",
            since(set.fetched_at),
        )
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_auth::TrustDomain;
    use mesh_proto::mesh::KeySet;

    use super::*;
    use crate::snapshot::Resources;

    #[test]
    fn key_sets_are_as_old_as_their_fetch() {
        let domain = TrustDomain::new("td").unwrap();
        let mut snapshot = Snapshot::empty("shop/orders", domain);
        let mut resources = Resources::default();
        for (name, fetched_at) in [("https://idp", 900), ("inline", 0), ("ahead", 2_000)] {
            let set = KeySet {
                name: name.to_owned(),
                fetched_at,
                ..KeySet::default()
            };
            resources.key_sets.insert(name.to_owned(), Arc::new(set));
        }
        snapshot.resources = Arc::new(resources);
        let mut samples = Vec::new();
        ages(&mut samples, &snapshot, 1_000);
        let told: Vec<_> = samples
            .iter()
            .map(|s| (s.labels[0].1.as_str(), s.value))
            .collect();
        assert_eq!(told, [("ahead", 0.0), ("https://idp", 100.0)]);
    }
}
