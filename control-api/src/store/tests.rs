use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::documents::{Change, DocumentRecord, Revision};
use super::issued::IssuedRecord;
use super::tokens::{State, TokenError};
use super::*;

const NOW: i64 = 1_790_000_000;
const TTL: Duration = Duration::from_secs(600);

fn revision(number: u64, document: &str) -> Revision {
    let record = DocumentRecord {
        revision: number,
        changed_at: NOW,
        author: "uid:0".into(),
        document: document.into(),
    };
    Revision {
        number,
        documents: [("Workload/demo/a".to_owned(), Some(record))].into(),
        published: [].into(),
        change: Change {
            at: NOW,
            author: "uid:0".into(),
            documents: [("Workload/demo/a".to_owned(), "changed".to_owned())].into(),
            note: String::new(),
        },
    }
}

fn write(store: &Store, revision: &Revision) -> Result<(), StoreError> {
    store.write(|write| documents::write(write, revision))
}

fn document(store: &Store) -> String {
    let loaded = store.read(documents::load).unwrap();
    loaded.documents["Workload/demo/a"].document.clone()
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "td").unwrap();
    (dir, store)
}

fn consume(store: &Store, presented: &str, now: i64) -> Result<(), TokenError> {
    store.write(|write| tokens::consume(write, presented, "01", now).map(drop))
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (dir, store) = open();
    write(&store, &revision(1, "one")).unwrap();
    write(&store, &revision(2, "two")).unwrap();
    drop(store);
    let store = Store::open(dir.path(), "td").unwrap();
    let loaded = store.read(documents::load).unwrap();
    assert_eq!((loaded.revision, document(&store).as_str()), (2, "two"));
    let change = store
        .read(|read| documents::change(read, 2))
        .unwrap()
        .unwrap();
    assert_eq!(change.author, "uid:0");
}

#[test]
fn a_revision_that_does_not_follow_leaves_no_trace() {
    let (_dir, store) = open();
    write(&store, &revision(1, "one")).unwrap();
    for number in [0, 1, 3] {
        assert!(
            write(&store, &revision(number, "other")).is_err(),
            "{number}"
        );
    }
    assert_eq!(document(&store), "one");
}

#[test]
fn a_deleted_document_leaves_a_tombstone_until_it_is_made_again() {
    let (_dir, store) = open();
    write(&store, &revision(1, "one")).unwrap();
    let mut deletion = revision(2, "");
    deletion.documents.insert("Workload/demo/a".into(), None);
    write(&store, &deletion).unwrap();
    let tombstone = || {
        let found = store.read(|read| documents::tombstone(read, "Workload/demo/a"));
        found.unwrap()
    };
    assert_eq!(tombstone().unwrap().revision, 2);
    write(&store, &revision(3, "again")).unwrap();
    assert_eq!(tombstone(), None);
}

#[test]
fn a_second_writer_and_another_trust_domain_are_refused() {
    let (dir, store) = open();
    let refusal = |domain| match Store::open(dir.path(), domain) {
        Ok(_) => panic!("was opened"),
        Err(error) => error.to_string(),
    };
    assert!(refusal("td").contains("one writer"), "{}", refusal("td"));
    drop(store);
    assert!(
        refusal("other").contains("trust domain 'td'"),
        "{}",
        refusal("other")
    );
    assert!(Store::open(dir.path(), "td").is_ok());
}

#[test]
fn a_file_that_was_cut_off_or_overwritten_is_named_and_never_taken_for_a_new_one() {
    let (dir, store) = open();
    write(&store, &revision(1, "one")).unwrap();
    let path = store.path().to_owned();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut cases = vec![vec![], b"garbage".to_vec(), vec![0; whole.len()]];
    cases.extend([1, 2, 3].map(|quarter| whole[..whole.len() / 4 * quarter].to_vec()));
    for case in cases {
        std::fs::write(&path, &case).unwrap();
        let Err(error) = Store::open(dir.path(), "td") else {
            panic!("{} bytes were opened", case.len());
        };
        let text = error.to_string();
        assert!(
            text.contains("store.redb") && text.contains("backup"),
            "{text}"
        );
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(document(&Store::open(dir.path(), "td").unwrap()), "one");
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let (dir, store) = open();
    write(&store, &revision(1, "one")).unwrap();
    let path = store.path().to_owned();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut outcomes = BTreeSet::new();
    for at in (0..whole.len()).step_by(397) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        match Store::open(dir.path(), "td") {
            // In a page that nothing uses.
            Ok(store) => {
                assert_eq!(document(&store), "one", "byte {at}");
                outcomes.insert("harmless");
            }
            Err(error) => {
                assert!(
                    error.to_string().contains("store.redb"),
                    "byte {at}: {error}"
                );
                outcomes.insert("found");
            }
        }
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
}

#[test]
fn of_a_hundred_concurrent_uses_of_a_token_exactly_one_succeeds() {
    let (_dir, store) = open();
    let store = Arc::new(store);
    let (_, secret) = tokens::create(&store, "demo/a", "spiffe://td/a", TTL, NOW).unwrap();
    let uses: Vec<_> = (0..100)
        .map(|_| {
            let (store, text) = (Arc::clone(&store), secret.expose().clone());
            std::thread::spawn(move || consume(&store, &text, NOW).is_ok())
        })
        .collect();
    let successes = uses
        .into_iter()
        .filter_map(|t| t.join().unwrap().then_some(()))
        .count();
    assert_eq!(successes, 1);
}

#[test]
fn a_token_is_told_apart_from_one_that_is_forged_used_expired_or_revoked() {
    let (_dir, store) = open();
    let create = || tokens::create(&store, "demo/a", "spiffe://td/a", TTL, NOW).unwrap();
    let (token, secret) = create();
    let text = secret.expose();
    let (id, key) = text.split_once('.').unwrap();
    assert_eq!((key.len(), id), (64, token.id.as_str()), "256 bits");
    let (other, _) = create();
    for forged in [
        String::new(),
        ".".into(),
        id.into(),
        format!("{id}."),
        format!("{id}.{}", "0".repeat(64)),
        format!("{}.{key}", other.id),
        text.to_uppercase(),
        format!("{text} "),
        format!("{text}0"),
    ] {
        let refused = consume(&store, &forged, NOW);
        assert!(matches!(refused, Err(TokenError::Unknown)), "{forged:?}");
    }
    let state = |text: &str, now| match consume(&store, text, now) {
        Err(TokenError::State { state, .. }) => Some(state),
        _ => None,
    };
    assert_eq!(state(text, NOW + 600), Some(State::Expired));
    assert_eq!(state(text, NOW + 599), None, "the last second counts");
    assert_eq!(state(text, NOW), Some(State::Used));
    let (token, secret) = create();
    assert!(tokens::revoke(&store, &token.id).unwrap());
    assert!(!tokens::revoke(&store, "nobody").unwrap());
    assert_eq!(state(secret.expose(), NOW), Some(State::Revoked));
    let states: Vec<_> = tokens::list(&store)
        .unwrap()
        .iter()
        .map(|t| t.state(NOW))
        .collect();
    assert_eq!(states.len(), 3);
}

#[test]
fn a_refused_use_does_not_use_a_token_up() {
    let (_dir, store) = open();
    let (_, secret) = tokens::create(&store, "demo/a", "spiffe://td/a", TTL, NOW).unwrap();
    let refused: Result<(), TokenError> = store.write(|write| {
        tokens::consume(write, secret.expose(), "01", NOW)?;
        Err(TokenError::Unknown)
    });
    assert!(refused.is_err());
    consume(&store, secret.expose(), NOW).unwrap();
}

#[test]
fn the_secret_of_a_token_is_not_in_the_file() {
    let (_dir, store) = open();
    let (_, secret) = tokens::create(&store, "demo/a", "spiffe://td/a", TTL, NOW).unwrap();
    let path = store.path().to_owned();
    drop(store);
    let (_, key) = secret.expose().split_once('.').unwrap();
    let file = std::fs::read(path).unwrap();
    assert!(!file.windows(key.len()).any(|w| w == key.as_bytes()));
}

#[test]
fn of_certificates_made_in_one_second_the_later_one_is_the_latest() {
    for serials in [["01", "02"], ["02", "01"]] {
        let (_dir, store) = open();
        for (serial, root) in serials.into_iter().zip(["old", "new"]) {
            let record = IssuedRecord {
                workload: "a".into(),
                spiffe_id: "spiffe://td/a".into(),
                issued_at: NOW,
                root: root.into(),
                bound: Some(0),
                not_after: NOW + 60,
            };
            store
                .write(|write| issued::record(write, serial, serial, &record))
                .unwrap();
        }
        assert_eq!(store.read(issued::latest).unwrap()["a"].root, "new");
    }
}

#[test]
fn what_ended_long_ago_is_forgotten_and_the_rest_is_not() {
    let (_dir, store) = open();
    let record = |workload: &str, not_after| IssuedRecord {
        workload: workload.into(),
        spiffe_id: format!("spiffe://td/{workload}"),
        issued_at: NOW,
        root: String::new(),
        bound: Some(0),
        not_after,
    };
    let week = 7 * 86_400;
    store
        .write(|write| {
            issued::record(write, "01", "k1", &record("a", NOW - week))?;
            issued::record(write, "02", "k2", &record("b", NOW))
        })
        .unwrap();
    tokens::create(&store, "a", "spiffe://td/a", TTL, NOW - week - 600).unwrap();
    tokens::create(&store, "b", "spiffe://td/b", TTL, NOW).unwrap();
    store
        .write(|write| {
            tokens::forget_old(write, NOW)?;
            issued::forget_old(write, NOW)
        })
        .unwrap();
    let ends = store.read(issued::last_ends).unwrap();
    assert_eq!(ends.into_keys().collect::<Vec<_>>(), ["b"]);
    let key = |key: &str| {
        store
            .write(|write| issued::identity_of_key(write, key))
            .unwrap()
    };
    assert_eq!(
        (key("k1"), key("k2").as_deref()),
        (None, Some("spiffe://td/b"))
    );
    assert_eq!(tokens::list(&store).unwrap().len(), 1);
}

#[test]
fn earlier_states_are_had_as_far_back_as_they_are_remembered() {
    let (_dir, store) = open();
    for (number, text) in [(1, "one"), (2, "two"), (3, "three")] {
        write(&store, &revision(number, text)).unwrap();
    }
    let mut gone = revision(4, "");
    gone.documents.insert("Workload/demo/a".to_owned(), None);
    write(&store, &gone).unwrap();
    let states = |revisions: &[u64]| {
        store
            .read(|read| Ok(history::states(read, revisions)))
            .unwrap()
    };
    let texts: Vec<_> = states(&[4, 1, 3, 0, 2])
        .unwrap()
        .iter()
        .map(|state| state.get("Workload/demo/a").map(|r| r.document.clone()))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(texts, [None, some("one"), some("three"), None, some("two")]);
    let error = states(&[5]).unwrap_err().to_string();
    assert!(error.contains("the latest is 4"), "{error}");

    // A store of a program that kept nothing: what it did cannot be undone.
    store.write(|write| history::forget(write, 2)).unwrap();
    let error = states(&[1]).unwrap_err().to_string();
    assert!(
        error.contains("revision 1 is no longer remembered"),
        "{error}"
    );
    assert!(error.contains("is 2"), "{error}");
    assert!(states(&[2]).is_ok());
    let changes = store.read(|read| history::changes(read, 4, 2)).unwrap();
    let numbers: Vec<_> = changes.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [3, 2], "newest first, before 4");
}
