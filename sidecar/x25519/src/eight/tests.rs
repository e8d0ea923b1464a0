use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::library;

/// Secrets whose digits are all alike, or all carries, or nothing but those that a secret is given.
pub(super) fn special_secrets() -> Vec<[u8; 32]> {
    let mut secrets: Vec<[u8; 32]> = (0..=255).map(|byte| [byte; 32]).collect();
    for bit in 0..256 {
        let mut single = [0; 32];
        single[bit / 8] |= 1 << (bit % 8);
        secrets.push(single);
        secrets.push(single.map(|byte| !byte));
        // Ones up to it: a carry that goes that far.
        let mut ones = [0; 32];
        ones[..bit / 8].fill(0xff);
        ones[bit / 8] = (1 << (bit % 8)) - 1;
        secrets.push(ones);
        // The same from half a digit: 7 and a carry, which makes 8.
        secrets.push(ones.map(|byte| byte & 0x77));
        secrets.push(ones.map(|byte| byte & 0x88));
    }
    for place in 0..64 {
        // Nothing but sevens above a digit of which a carry goes through all of them.
        for digit in 6..10 {
            let mut sevens = [0x77; 32];
            sevens[..place / 2].fill(0);
            sevens[place / 2] = if place % 2 == 0 {
                0x70 | digit
            } else {
                digit << 4
            };
            secrets.push(sevens);
        }
    }
    for small in 0..=255 {
        let mut secret = [0; 32];
        secret[0] = small;
        secrets.push(secret);
        secret[31] = small;
        secrets.push(secret);
    }
    // Near multiples of the base point's order, where sums come near the neutral element.
    let order =
        (BigUint::from(1u32) << 252) + 27_742_317_777_372_353_535_851_937_790_883_648_493u128;
    for factor in 4u32..8 {
        for distance in 0..64u32 {
            let number: BigUint = &order * factor + 256u32 - 8 * distance;
            secrets.push(number.to_bytes_le().try_into().unwrap());
        }
    }
    assert_eq!(secrets.len() % COUNT, 0);
    secrets
}

/// Compares with what the library says.
fn check(secrets: &[[u8; 32]; COUNT]) {
    let Some(processor) = Processor::detect() else {
        return;
    };
    let publics = processor.public_values(secrets);
    for (lane, (secret, public)) in secrets.iter().zip(publics).enumerate() {
        let expected = library::public_value(secret);
        assert_eq!(public, expected, "{secret:x?} in lane {lane}");
    }
}

#[test]
fn special_secrets_have_the_public_values_of_the_library_in_every_lane() {
    let secrets = special_secrets();
    let stride = secrets.len() / COUNT;
    for start in 0..secrets.len() {
        check(&std::array::from_fn(|lane| {
            secrets[(start + lane * stride) % secrets.len()]
        }));
    }
}

#[test]
fn a_secret_with_itself_has_its_public_value_eight_times() {
    for secret in special_secrets() {
        if let Some(processor) = Processor::detect() {
            let publics = processor.public_values(&[secret; COUNT]);
            assert_eq!(publics, [publics[0]; COUNT]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_secrets_have_the_public_values_of_the_library(secrets in any::<[[u8; 32]; COUNT]>()) {
        check(&secrets);
    }

    #[test]
    fn any_secrets_of_few_digits_have_them_too(
        secrets in prop::array::uniform8(prop::array::uniform32(prop::sample::select(
            vec![0x00, 0x07, 0x08, 0x0f, 0x70, 0x77, 0x78, 0x7f, 0x80, 0x87, 0x88, 0x8f, 0xf0, 0xff],
        ))),
    ) {
        check(&secrets);
    }
}
