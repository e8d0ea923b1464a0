//! What a remembered chain spares, and what it must not.

use super::*;
use crate::testing::*;

const ID: &str = "spiffe://td/ns/a/sa/b";

fn remembering(issuer: &Issuer) -> VerifiedChains {
    let bundles = Arc::new(bundles(&[("td", issuer)]));
    VerifiedChains::new(bundles, Arc::default())
}

fn counts(chains: &VerifiedChains) -> (u64, u64) {
    (chains.tally().hits(), chains.tally().misses())
}

#[test]
fn a_chain_that_comes_again_is_known_and_its_peer_is_the_same() {
    let root = authority("td");
    let middle = intermediate(signer_params("intermediate"), &root);
    let leaf = sign(&leaf_params(ID), &middle);
    let above = [middle.der().clone()];
    let chains = remembering(&root);
    let first = chains
        .verify(&leaf, &above, Usage::Client, unix(0))
        .unwrap();
    assert_eq!(counts(&chains), (0, 1));
    for _ in 0..3 {
        let again = chains.verify(&leaf, &above, Usage::Client, unix(60));
        assert_eq!(again, Ok(first.clone()));
    }
    assert_eq!(counts(&chains), (3, 1));
    chains
        .confirm(&leaf, &above, Usage::Client, unix(0))
        .unwrap();
    assert_eq!(counts(&chains), (3, 1), "nobody presented it");
    // What it was verified for is part of what is known.
    chains
        .verify(&leaf, &above, Usage::Server, unix(0))
        .unwrap();
    assert_eq!(counts(&chains), (3, 2));
}

#[test]
fn a_known_chain_is_refused_when_any_certificate_of_its_path_is_not_valid() {
    // Ends of root, intermediate and leaf, in seconds from now; what is told a second after the first of them.
    let cases = [
        (1_000, 500, 100, "leaf"),
        (1_000, 100, 500, "intermediate"),
        (100, 500, 1_000, "root"),
    ];
    for (root_end, middle_end, leaf_end, which) in cases {
        let mut params = signer_params("root");
        params.not_after = at(root_end);
        let root = root(params);
        let mut params = signer_params("intermediate");
        params.not_after = at(middle_end);
        let middle = intermediate(params, &root);
        let mut params = leaf_params(ID);
        params.not_after = at(leaf_end);
        let leaf = sign(&params, &middle);
        let chains = remembering(&root);
        let at =
            |offset| chains.verify(&leaf, &[middle.der().clone()], Usage::Server, unix(offset));
        at(0).unwrap();
        at(100).unwrap();
        assert_eq!(counts(&chains), (1, 1), "{which}");
        assert_eq!(at(101), Err(SvidError::Expired { which, seconds: 1 }));
        let early = at(-301).unwrap_err();
        assert!(matches!(early, SvidError::NotYetValid { .. }), "{early}");
        at(50).unwrap();
        assert_eq!(counts(&chains), (2, 1), "{which}: still known");
    }
}

#[test]
fn refusals_are_not_remembered_and_other_roots_know_nothing() {
    let (root, other) = (authority("td"), authority("td"));
    let leaf = sign(&leaf_params(ID), &root);
    let (ours, theirs) = (remembering(&root), remembering(&other));
    let early = ours.verify(&leaf, &[], Usage::Client, unix(-301));
    assert!(matches!(early, Err(SvidError::NotYetValid { .. })));
    ours.verify(&leaf, &[], Usage::Client, unix(0)).unwrap();
    assert_eq!(counts(&ours), (0, 1));
    for _ in 0..2 {
        let refused = theirs.verify(&leaf, &[], Usage::Client, unix(0));
        assert!(matches!(refused, Err(SvidError::Untrusted { .. })));
    }
    assert_eq!(counts(&theirs), (0, 0));
}

#[test]
fn a_chain_that_differs_anywhere_is_another_chain() {
    let root = authority("td");
    let middle = intermediate(signer_params("intermediate"), &root);
    let leaf = sign(&leaf_params(ID), &root);
    let chains = remembering(&root);
    chains.verify(&leaf, &[], Usage::Client, unix(0)).unwrap();
    // A certificate that nobody needs is part of what was presented.
    let more = [middle.der().clone()];
    chains.verify(&leaf, &more, Usage::Client, unix(0)).unwrap();
    assert_eq!(counts(&chains), (0, 2));
    let mut bytes = leaf.to_vec();
    for position in [0, bytes.len() / 2, bytes.len() - 1] {
        bytes[position] ^= 1;
        let changed = CertificateDer::from(bytes.clone());
        chains
            .verify(&changed, &[], Usage::Client, unix(0))
            .unwrap_err();
        bytes[position] ^= 1;
    }
    // The same bytes, cut elsewhere.
    let (head, tail) = bytes.split_at(100);
    let cut = [CertificateDer::from(tail)];
    let head = CertificateDer::from(head);
    assert_ne!(
        name_of(&leaf, &[], Usage::Client),
        name_of(&head, &cut, Usage::Client)
    );
    chains
        .verify(&head, &cut, Usage::Client, unix(0))
        .unwrap_err();
}

#[test]
fn however_many_chains_come_the_newest_are_known_and_memory_is_bounded() {
    let root = authority("td");
    let chains = remembering(&root);
    let leaf = sign(&leaf_params(ID), &root);
    let peer = chains.verify(&leaf, &[], Usage::Client, unix(0)).unwrap();
    let numbered = |number: u64| {
        let mut key = [0; 32];
        let digest = digest::digest(&digest::SHA256, &number.to_be_bytes());
        key.copy_from_slice(digest.as_ref());
        key
    };
    let is_known = |name: &_, now| chains.recall(name, now, |_| ()).is_some();
    let many = 3 * CAPACITY as u64;
    for number in 0..many {
        let entry = Entry::new(numbered(number), 0..=10, peer.clone());
        chains.remember(entry, 5);
        assert!(is_known(&numbered(number), 5), "{number}");
    }
    let known = (0..many).filter(|number| is_known(&numbered(*number), 5));
    assert!((CAPACITY / 2..=CAPACITY).contains(&known.count()));
    let (held, evicted) = (chains.entries() as u64, chains.tally().evictions());
    assert_eq!(held + evicted, many + 1, "{held} of {many}");
    // What ended makes room before what did not.
    let kept: Vec<_> = (many..).take(20).map(numbered).collect();
    for key in &kept {
        let entry = Entry::new(*key, 0..=100, peer.clone());
        chains.remember(entry, 11);
    }
    assert!(kept.iter().all(|key| is_known(key, 11)));
    let evicted_since = chains.tally().evictions() - evicted;
    assert!(
        evicted_since < 5,
        "{evicted_since}: what has ended is no loss"
    );
}

#[test]
fn what_is_kept_with_a_chain_is_had_by_its_name_while_it_is_known_and_valid() {
    let root = authority("td");
    let mut params = leaf_params(ID);
    params.not_after = at(100);
    let chain = [sign(&params, &root)];
    let chains = remembering(&root);
    let keep = |written: &[u8]| chains.keep(&chain, Usage::Client, unix(0), written);
    assert_eq!(keep(b"chain"), None, "nobody has shown it");
    let peer = chains
        .verify(&chain[0], &[], Usage::Client, unix(0))
        .unwrap();
    let name = name_of(&chain[0], &[], Usage::Client);
    assert_eq!(chains.kept(&name, unix(0)), None, "nothing was kept");
    assert_eq!(keep(b"chain"), Some((peer.clone(), name)));
    assert_eq!(keep(b"other"), Some((peer.clone(), name)));
    let kept = Some((peer, Arc::from(*b"chain")));
    assert_eq!(chains.kept(&name, unix(100)), kept);
    assert_eq!(chains.kept(&name, unix(101)), None, "it has ended");
    assert_eq!(chains.kept(&[0; 32], unix(0)), None);
    let server = name_of(&chain[0], &[], Usage::Server);
    assert_eq!(chains.kept(&server, unix(0)), None, "not what it is for");
    assert_eq!(
        VerifiedChains::default().kept(&name, unix(0)),
        None,
        "there is no room"
    );
}

#[test]
fn what_is_kept_with_chains_is_bounded_and_given_back() {
    let root = authority("td");
    let chains = remembering(&root);
    let leaf = sign(&leaf_params(ID), &root);
    let peer = chains.verify(&leaf, &[], Usage::Client, unix(0)).unwrap();
    let keep = |written: &[u8]| {
        let chain = std::slice::from_ref(&leaf);
        chains
            .keep(chain, Usage::Client, unix(0), written)
            .is_some()
    };
    assert!(!keep(&vec![0; MAX_WRITTEN + 1]));
    let longest = vec![0; MAX_WRITTEN];
    let taken = MAX_WRITTEN_IN_ALL / MAX_WRITTEN;
    let kept: Vec<_> = (0..=taken)
        .map_while(|_| Written::new(&longest, &chains.written))
        .collect();
    assert_eq!(kept.len(), taken, "whatever comes");
    assert!(!keep(b"chain"), "there is no room");
    drop(kept);
    assert!(keep(b"chain"));
    assert_eq!(chains.written.load(Ordering::Relaxed), 5);
    // Remembered again, it is the same entry: a ticket may name it.
    let name = name_of(&leaf, &[], Usage::Client);
    chains.remember(Entry::new(name, 0..=i64::MAX, peer), seconds(unix(0)));
    assert!(chains.kept(&name, unix(0)).is_some());
}

#[test]
fn who_is_forgetful_verifies_every_time() {
    let root = authority("td");
    let leaf = sign(&leaf_params(ID), &root);
    let chains = VerifiedChains::forgetful(Arc::new(bundles(&[("td", &root)])));
    for _ in 0..2 {
        chains.verify(&leaf, &[], Usage::Client, unix(0)).unwrap();
    }
    assert_eq!(counts(&chains), (0, 2));
}

#[test]
fn signers_that_come_again_are_prepared_and_what_they_did_not_sign_is_refused_as_before() {
    let root = authority("td");
    let middle = intermediate(signer_params("intermediate"), &root);
    let above = [middle.der().clone()];
    let chains = remembering(&root);
    let forgetful = VerifiedChains::forgetful(Arc::clone(chains.bundles()));
    assert_eq!(chains.keys().held(), 0);
    for round in 0..6 {
        // A stranger every time.
        let leaf = sign(&leaf_params(ID), &middle);
        chains
            .verify(&leaf, &above, Usage::Client, unix(0))
            .unwrap();
        let signature = leaf.len() - 20;
        for at in [signature, leaf.len() - 1, 200] {
            let mut wrong = leaf.to_vec();
            wrong[at] ^= 1;
            let verdict = |chains: &VerifiedChains| {
                chains.verify(&wrong.as_slice().into(), &above, Usage::Client, unix(0))
            };
            let refused = verdict(&chains);
            assert!(refused.is_err(), "{round} {at}");
            assert_eq!(refused, verdict(&forgetful), "{round} {at}");
        }
    }
    assert_eq!(chains.keys().held(), 2);
}

#[test]
fn nobody_has_a_key_prepared_that_no_root_leads_to() {
    let (root, rogue) = (authority("td"), authority("td"));
    let middle = intermediate(signer_params("intermediate"), &rogue);
    let chains = remembering(&root);
    for _ in 0..10 {
        let leaf = sign(&leaf_params(ID), &middle);
        let above = [middle.der().clone(), rogue.der().clone()];
        for chain in [&above[..], &above[..1]] {
            let refused = chains.verify(&leaf, chain, Usage::Client, unix(0));
            assert!(refused.is_err());
        }
    }
    assert_eq!(chains.keys().held(), 0);
}
