use std::path::Path;

use mesh_auth::SpiffeId;

use super::*;

const NOW: i64 = 1_790_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// Opens what is in `dir`, as the program does at its start.
fn open(dir: &Path) -> Authorities {
    let domain = TrustDomain::new("td").unwrap();
    let store = Arc::new(Store::open(dir, "td").unwrap());
    let record = store.read(roots::load).unwrap();
    let signing = match &record {
        None => Authority::open(dir, &domain, None, None, NOW),
        Some(record) => Authority::load_named(dir, &domain, &record.signing, NOW),
    };
    Authorities::open(dir.to_owned(), store, signing.unwrap(), record, NOW).unwrap()
}

fn leaf(authorities: &Authorities) -> Vec<CertificateDer<'static>> {
    let id = SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap();
    let signing = authorities.signing();
    signing.own_certificate(&id, HOUR, NOW).unwrap().0
}

fn verifies(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'static>]) -> bool {
    let domain = TrustDomain::new("td").unwrap();
    let mut bundles = TrustBundles::default();
    let bundle = TrustBundle::new(domain, roots.to_vec(), 0).unwrap();
    bundles.insert(bundle).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs()));
    [Usage::Client, Usage::Server]
        .iter()
        .all(|usage| svid::verify(chain, *usage, &bundles, at).is_ok())
}

fn keys(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let names = entries.map(|e| e.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".key")).count()
}

#[test]
fn at_no_step_does_anybody_refuse_anybody_and_every_step_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let authorities = open(dir.path());
    let old_roots = authorities.state().roots();
    let old = leaf(&authorities);
    authorities.prepare(NOW).unwrap();
    drop(authorities);

    let authorities = open(dir.path());
    assert_eq!(authorities.state().phase(), Phase::Prepared);
    let both = authorities.state().roots();
    assert_eq!((both.len(), &both[0]), (2, &old_roots[0]));
    assert_eq!(authorities.state().renew_before(), 0);
    assert!(
        verifies(&leaf(&authorities), &old_roots),
        "the old one signs"
    );
    authorities.activate(7, NOW).unwrap();
    drop(authorities);

    let authorities = open(dir.path());
    assert_eq!(authorities.state().phase(), Phase::Activated);
    let new = leaf(&authorities);
    let new_root = &both[1..];
    for (chain, roots, good, why) in [
        (&old, &both[..], true, "old certificate, new bundle"),
        (&new, &both[..], true, "new certificate, new bundle"),
        (
            &new,
            &old_roots[..],
            true,
            "whoever missed the bundle follows the bridge",
        ),
        (&new, new_root, true, "the bridge is not needed"),
        (
            &old,
            new_root,
            false,
            "the old root does not sign for the new one",
        ),
    ] {
        assert_eq!(verifies(chain, roots), good, "{why}");
    }
    assert_eq!(authorities.state().renew_before(), NOW - BACKDATE + 1);
    assert_eq!(authorities.state().record().spread, 7);
    assert_eq!(keys(dir.path()), 2);
    authorities.retire(NOW).unwrap();
    assert_eq!(leaf(&authorities).len(), 1, "no bridge is sent any more");
    drop(authorities);

    let authorities = open(dir.path());
    assert_eq!(authorities.state().phase(), Phase::Idle);
    assert_eq!(authorities.state().roots(), new_root);
    assert!(verifies(&leaf(&authorities), new_root) && verifies(&new, new_root));
    assert!(!verifies(&leaf(&authorities), &old_roots));
    assert_eq!(keys(dir.path()), 1, "the old key is gone");
    // And once more: the first authority is nothing special.
    authorities.prepare(NOW).unwrap();
    authorities.activate(0, NOW).unwrap();
    authorities.retire(NOW).unwrap();
    assert_eq!(keys(dir.path()), 1);
}

#[test]
fn steps_are_taken_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let authorities = open(dir.path());
    let refused = |result: Result<(), StepError>, phase: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(phase), "{error}");
    };
    refused(authorities.activate(0, NOW), "'idle'");
    refused(authorities.retire(NOW), "'idle'");
    refused(authorities.cancel(), "'idle'");
    authorities.prepare(NOW).unwrap();
    refused(authorities.prepare(NOW), "'prepared'");
    refused(authorities.retire(NOW), "'prepared'");
    authorities.cancel().unwrap();
    assert_eq!(authorities.state().phase(), Phase::Idle);
    assert_eq!(keys(dir.path()), 1, "what was given up is removed");
    authorities.prepare(NOW).unwrap();
    authorities.activate(0, NOW).unwrap();
    refused(authorities.prepare(NOW), "'activated'");
    refused(authorities.activate(0, NOW), "'activated'");
    refused(authorities.cancel(), "'activated'");
}

#[test]
fn a_crash_between_files_and_transaction_leaves_the_step_not_begun_or_done() {
    let dir = tempfile::tempdir().unwrap();
    let authorities = open(dir.path());
    // Files of a next authority, and no transaction.
    let domain = authorities.trust_domain().clone();
    Authority::make_next(dir.path(), &domain, &authorities.signing(), NOW).unwrap();
    drop(authorities);
    let authorities = open(dir.path());
    assert_eq!(authorities.state().phase(), Phase::Idle);
    authorities.prepare(NOW).unwrap();
    authorities.activate(0, NOW).unwrap();
    // The transaction of a retirement, and the files still there.
    let mut record = authorities.state().record().clone();
    let old = record.retiring.take().unwrap();
    record.leftovers.push(old.files.clone());
    record.signing.bridge.clear();
    let store = Arc::clone(&authorities.store);
    store.write(|write| roots::save(write, &record)).unwrap();
    drop((authorities, store));
    let authorities = open(dir.path());
    assert_eq!(authorities.state().phase(), Phase::Idle);
    assert!(!dir.path().join("ca.key").exists());
    assert!(authorities.state().record().leftovers.is_empty());
}
