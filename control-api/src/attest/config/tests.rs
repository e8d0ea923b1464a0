use super::*;
use crate::fetch::{Guard, Settings as FetchSettings};

fn parts(dir: &std::path::Path) -> Parts {
    let settings = FetchSettings {
        guard: Guard::default(),
        roots: None,
    };
    Parts {
        store: Arc::new(Store::open(dir, "example.org").unwrap()),
        fetcher: Arc::new(Fetcher::new(settings).unwrap()),
        domain: TrustDomain::new("example.org").unwrap(),
    }
}

#[test]
fn a_file_names_the_kinds_of_proof_and_mistakes_are_named_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let parts = parts(dir.path());
    let one = |rest: &str| format!("attestors: [{{kind: kubernetes, name: east, {rest}}}]");
    for (text, expected) in [
        ("attestors: [{kind: join-token}]".to_owned(), Ok(1)),
        (one("audiences: [a], issuer: https://k, jwksFile: /k"), Ok(1)),
        (one("audiences: [a], issuer: https://k, jwksUrl: 'https://k/keys'"), Ok(1)),
        (one("audiences: [a], tokenReviewUrl: 'https://k', tokenFile: /t"), Ok(1)),
        (
            "attestors:\n- {kind: join-token}\n- {kind: kubernetes, name: a, audiences: [x], issuer: i, jwksFile: /a}\n\
             - {kind: kubernetes, name: b, audiences: [x], issuer: i, jwksFile: /b}"
                .to_owned(),
            Ok(3),
        ),
        ("attestors: []".to_owned(), Err("attestors: at least one")),
        ("attestors: [{kind: tpm}]".to_owned(), Err("tpm")),
        ("attestors: [{kind: join-token}, {kind: join-token}]".to_owned(), Err("attestors[1]: there is a 'join-token' already")),
        (one("issuer: i, jwksFile: /k, audiences: []"), Err("attestors[0].audiences: at least one")),
        (one("issuer: i, jwksFile: /k, audiences: ['']"), Err("attestors[0].audiences: at least one")),
        (one("audiences: [a], jwksFile: /k"), Err("attestors[0].issuer: missing")),
        (one("audiences: [a], issuer: i"), Err("exactly one must be given")),
        (one("audiences: [a], issuer: i, jwksFile: /k, jwksUrl: 'https://k'"), Err("exactly one must be given")),
        (one("audiences: [a], issuer: i, jwksUrl: 'http://k'"), Err("attestors[0].jwksUrl: must begin with https://")),
        (one("audiences: [a], tokenReviewUrl: 'https://k'"), Err("attestors[0].tokenFile: missing")),
        (one("audiences: [a], issuer: i, jwksFile: /k, caFile: /nowhere"), Err("attestors[0].caFile: /nowhere")),
        (one("audiences: [a], issuer: i, jwksFile: /k, audience: b"), Err("audience")),
    ] {
        match (read(&text, &parts), expected) {
            (Ok(found), Ok(count)) => assert_eq!(found.0.len(), count, "{text}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (found, expected) => panic!("{text}: {:?}, not {expected:?}", found.map(|f| f.0.len())),
        }
    }
}
