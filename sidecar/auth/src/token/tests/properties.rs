//! What holds for any bytes.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::{NOW, Signer, claims, policy, rule, verdict, verdict_with};
use crate::claims as json;
use crate::token::{Algorithm, HeaderMemo, TokenPolicy};

fn world() -> &'static (TokenPolicy, Signer, String) {
    static WORLD: OnceLock<(TokenPolicy, Signer, String)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let signer = Signer::new(Algorithm::Es256);
        let token = signer.sign(signer.header(), claims());
        (policy(rule(signer.jwks())), signer, token)
    })
}

/// Text that is nearly JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\"",
        "\"\\u0061\"",
        "1",
        "-0",
        "1e9",
        "0.5",
        "01",
        "true",
        "null",
        "nul",
        " ",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"é\"",
        "\u{feff}",
        "\"\n\"",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn bytes_that_nobody_signed_are_refused_and_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verdict(&world().0, bytes).is_err());
    }

    #[test]
    fn three_segments_that_nobody_signed_are_refused(text in "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,100}") {
        prop_assert!(verdict(&world().0, text).is_err());
    }

    #[test]
    fn one_changed_byte_makes_a_token_bad(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (policy, _, token) = world();
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        prop_assert!(verdict(policy, changed).is_err());
    }

    #[test]
    fn bytes_added_or_taken_away_make_a_token_bad(at in any::<prop::sample::Index>(), count in 1_usize..9, byte in any::<u8>()) {
        let (policy, _, token) = world();
        let token = token.as_bytes();
        let at = at.index(token.len());
        let longer = [&token[..at], &vec![byte; count], &token[at..]].concat();
        prop_assert!(verdict(policy, longer).is_err());
        let end = (at + count).min(token.len());
        let shorter = [&token[..at], &token[end..]].concat();
        prop_assert!(verdict(policy, shorter).is_err());
    }

    #[test]
    fn what_is_remembered_of_headers_changes_no_verdict(header in nearly_json(), payload in nearly_json()) {
        let (policy, signer, token) = world();
        let mut memo = HeaderMemo::default();
        prop_assert_eq!(verdict_with(policy, token.as_bytes(), NOW, &mut memo), Ok(()));
        for odd in [signer.sign(&header, &payload), signer.sign(signer.header(), &payload), signer.sign(&header, claims())] {
            let cold = verdict(policy, &odd);
            prop_assert_eq!(verdict_with(policy, odd.as_bytes(), NOW, &mut memo), cold);
            prop_assert_eq!(verdict_with(policy, odd.as_bytes(), NOW, &mut memo), cold);
        }
    }

    #[test]
    fn what_is_read_is_json_to_others_and_reads_alike_when_written_again(text in nearly_json()) {
        if let Ok(object) = json::parse(text.as_bytes()) {
            let written = object.to_string();
            prop_assert_eq!(json::parse(written.as_bytes()), Ok(object));
            let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
            let again: serde_json::Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(theirs, again);
        }
    }

    #[test]
    fn claims_are_limited_in_depth_and_number(depth in 1_usize..40, values in 1_usize..5_000) {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        prop_assert_eq!(json::parse(deep.as_bytes()).is_ok(), depth < 16);
        let wide = format!("{{\"a\":[{}1]}}", "1,".repeat(values));
        prop_assert_eq!(json::parse(wide.as_bytes()).is_ok(), values + 3 <= 2_048);
    }
}
